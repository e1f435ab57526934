import subprocess
import sys
import time

import numpy as np

from kfdeploy.targets.device import watch
from kfdeploy.targets.device.watch import Watch, noise


def test_it_sees_this_process_and_no_other_work():
    with Watch() as seen:
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:
            pass
        seen.look()
    assert set(seen.seen) == {"mhz", "others", "stolen", "throttled", "joules", "joules_from", "peak_mib"}
    assert seen.seen["peak_mib"] is None or seen.seen["peak_mib"] > 1
    assert seen.seen["others"] is None  # too short to tell


def test_a_small_process_of_a_large_one_is_small():
    """Linux's rusage would tell of the parent."""
    held = np.ones(40_000_000)  # 320 MB
    code = "from kfdeploy.targets.device.watch import peak_mib; print(peak_mib())"
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
    assert (seen.seen["joules"], seen.seen["joules_from"]) == (2.5, "RAPL")


def meter(folder, name, line):
    """Put a program of this name that prints a line of power again and again into a folder, and that on the path."""
    program = folder / name
    program.write_text(f"#!/bin/sh\nwhile true; do echo '{line}'; sleep 0.05; done\n")
    program.chmod(0o755)
    return str(folder)


JETSON = ("RAM 2448/7766MB (lfb 2x4MB) SWAP 0/3883MB (cached 0MB) CPU [3%@1190,0%@1190] EMC_FREQ 0%@1600 GR3D_FREQ 0%@114 "
          "CPU@34.5C GPU@32C VDD_IN 3840mW/3800mW VDD_CPU_GPU_CV 482mW/482mW VDD_SOC 1284mW/1284mW")  # fmt: skip


def test_a_gpu_s_energy_counts_for_what_runs_on_it(monkeypatch, tmp_path):
    monkeypatch.setattr(watch, "_RAPL", tmp_path / "none")
    monkeypatch.setenv("PATH", meter(tmp_path, "nvidia-smi", "50.00"), prepend=":")
    with Watch() as idle:
        time.sleep(0.2)
    assert idle.seen["joules"] is None
    with Watch(gpu=True) as busy:
        time.sleep(0.4)
    assert 50 * 0.4 <= busy.seen["joules"] <= 50 * 0.8
    assert busy.seen["joules_from"] == "nvidia-smi"


def test_a_board_s_energy_is_all_of_it(monkeypatch, tmp_path):
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("1")
    monkeypatch.setattr(watch, "_RAPL", tmp_path)
    monkeypatch.setenv("PATH", meter(tmp_path, "tegrastats", JETSON), prepend=":")
    with Watch() as seen:
        time.sleep(0.4)
    assert 3.84 * 0.4 <= seen.seen["joules"] <= 3.84 * 0.8
    assert seen.seen["joules_from"] == "tegrastats"


def test_a_meter_that_says_nothing_leaves_energy_unknown(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", meter(tmp_path, "tegrastats", "[N/A]"), prepend=":")
    with Watch() as seen:
        time.sleep(0.2)
    assert (seen.seen["joules"], seen.seen["joules_from"]) == (None, None)


def test_lines_of_power_are_read():
    assert watch.watts("61.25") == 61.25
    assert watch.watts("[N/A]") is None
    assert watch.watts(JETSON) == 3.84
    assert watch.watts("RAM 1/2MB POM_5V_IN 2532/2500 POM_5V_GPU 0/0 POM_5V_CPU 333/333") == 2.532
    assert watch.watts("GPU 310mW/310mW CPU 466mW/466mW SOC 1242mW/1242mW") == 2.018


def test_a_noisy_run_says_why():
    quiet = {"mhz": [3000, 3000], "others": 0.05, "stolen": 0.0, "throttled": 0}
    assert noise([quiet, quiet], [1.0, 1.05], True) == []
    loud = {"mhz": [1000, 3000], "others": 0.9, "stolen": 0.1, "throttled": 2}
    found = " | ".join(noise([quiet, loud], [1.0, 1.3], False))
    for words in ("warm-up did not settle", "differ by 30 %", "0.9 processors busy", "10 % of a processor away",
                  "throttled 2 times", "between 1,000 and 3,000 MHz"):  # fmt: skip
        assert words in found
    assert noise([{}], [1.0], True) == []
