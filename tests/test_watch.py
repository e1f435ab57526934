import subprocess
import sys
import time

import numpy as np

from kfdeploy import watch
from kfdeploy.watch import Watch, noise


def test_it_sees_this_process_and_no_other_work():
    with Watch() as seen:
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:
            pass
        seen.look()
    assert set(seen.seen) == {"mhz", "others", "stolen", "throttled", "joules", "peak_mib"}
    assert seen.seen["peak_mib"] is None or seen.seen["peak_mib"] > 1
    assert seen.seen["others"] is None  # too short to tell


def test_a_small_process_of_a_large_one_is_small():
    """Linux's rusage would tell of the parent."""
    held = np.ones(40_000_000)  # 320 MB
    code = "from kfdeploy.watch import peak_mib; print(peak_mib())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert held.sum() > 0
    assert found.strip() == "None" or float(found) < 200


def test_what_a_machine_does_not_tell_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(watch, "_CPU", tmp_path)
    monkeypatch.setattr(watch, "_RAPL", tmp_path)
    with Watch() as seen:
        pass
    assert (seen.seen["mhz"], seen.seen["throttled"], seen.seen["joules"]) == (None, None, None)


def test_what_a_machine_tells_is_read(monkeypatch, tmp_path):
    cpu, power = tmp_path / "cpu", tmp_path / "power"
    for i, rate in enumerate((1_000_000, 3_000_000)):
        (cpu / f"cpu{i}" / "cpufreq").mkdir(parents=True)
        (cpu / f"cpu{i}" / "cpufreq" / "scaling_cur_freq").write_text(f"{rate}\n")
        (cpu / f"cpu{i}" / "thermal_throttle").mkdir()
        (cpu / f"cpu{i}" / "thermal_throttle" / "core_throttle_count").write_text("3\n")
    (power / "intel-rapl:0").mkdir(parents=True)
    energy = power / "intel-rapl:0" / "energy_uj"
    energy.write_text("1000000")
    (power / "intel-rapl:0:1").mkdir()
    (power / "intel-rapl:0:1" / "energy_uj").write_text("7")  # a part of the package, which is counted already
    monkeypatch.setattr(watch, "_CPU", cpu)
    monkeypatch.setattr(watch, "_RAPL", power)
    with Watch() as seen:
        energy.write_text("3500000")
        (cpu / "cpu1" / "thermal_throttle" / "core_throttle_count").write_text("5\n")
    assert seen.seen["mhz"] == [1000, 3000]
    assert seen.seen["throttled"] == 2
    assert seen.seen["joules"] == 2.5


def test_a_noisy_run_says_why():
    quiet = {"mhz": [3000, 3000], "others": 0.05, "stolen": 0.0, "throttled": 0}
    assert noise([quiet, quiet], [1.0, 1.05], True) == []
    loud = {"mhz": [1000, 3000], "others": 0.9, "stolen": 0.1, "throttled": 2}
    found = " | ".join(noise([quiet, loud], [1.0, 1.3], False))
    for words in ("warm-up did not settle", "differ by 30 %", "0.9 processors busy", "10 % of a processor away",
                  "throttled 2 times", "between 1,000 and 3,000 MHz"):  # fmt: skip
        assert words in found
    assert noise([{}], [1.0], True) == []
