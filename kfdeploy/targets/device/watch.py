"""What else the machine did while something was timed: clock rate, other work, throttling, energy, memory.

This file is copied into the device kits as it is. It needs nothing but Python; what a machine does not tell is None.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_CPU = Path("/sys/devices/system/cpu")
_RAPL = Path("/sys/class/powercap")
_LEAST = 1.0  # seconds: in less, the system's own counting is too coarse to tell others' work


class Watch:
    """Opened around a measurement, and asked to `look` between timed calls, never inside one.

    `gpu` is whether the measured work runs on NVIDIA's first GPU, whose energy then counts.
    """

    def __init__(self, *, gpu: bool = False) -> None:
        self.meter = Meter.find(gpu=gpu)

    def __enter__(self) -> Watch:
        self.rates: list[float] = []
        if self.meter:
            self.meter.start()
        self.began, self.own = time.perf_counter(), time.process_time()
        self.busy, self.stolen = _jiffies()
        self.throttled, self.energy = _throttles(), _energy()
        self.look()
        return self

    def __exit__(self, *_: object) -> None:
        self.look()
        spent = max(time.perf_counter() - self.began, 1e-9)
        busy, stolen = _jiffies()
        throttled, energy = _throttles(), _energy()
        joules = None if energy is None or self.energy is None or energy < self.energy else energy - self.energy
        source = None if joules is None else "RAPL"
        if self.meter:
            watts = self.meter.stop()
            if self.meter.whole or watts is None:  # a board's meter has its processor in it
                joules, source = None, None
            if watts is not None:
                joules = (joules or 0.0) + watts * spent
                source = f"{source} and {self.meter.name}" if source else self.meter.name
        self.seen: dict[str, Any] = {
            "mhz": [min(self.rates), max(self.rates)] if self.rates else None,
            # Of processors: 0.5 is half of one, kept busy by others. The system counts in hundredths of a second.
            "others": None
            if busy is None or self.busy is None or spent < _LEAST
            else round(max(0.0, busy - self.busy - (time.process_time() - self.own)) / spent, 3),
            "stolen": None
            if stolen is None or self.stolen is None or spent < _LEAST
            else round((stolen - self.stolen) / spent, 4),
            "throttled": None if throttled is None or self.throttled is None else throttled - self.throttled,
            "joules": joules,
            "joules_from": source,
            "peak_mib": peak_mib(),
        }

    def look(self) -> None:
        """Note the processors' clock rate, where the machine tells."""
        rates = [_number(path) for path in _CPU.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
        known = [rate / 1000 for rate in rates if rate]
        if known:
            self.rates += [round(min(known)), round(max(known))]


class Meter:
    """A program that prints watts all the time, in a process of its own while something is measured.

    `nvidia-smi` tells of a GPU, to be added to what RAPL tells of the processor; `tegrastats` of a whole Jetson board.
    """

    def __init__(self, name: str, command: list[str], *, whole: bool) -> None:
        self.name, self.command, self.whole = name, command, whole

    @classmethod
    def find(cls, *, gpu: bool) -> Meter | None:
        """Return this machine's meter, or None."""
        if path := shutil.which("tegrastats"):  # a Jetson has no nvidia-smi that tells of power
            return cls("tegrastats", [path, "--interval", "100"], whole=True)
        if gpu and (path := shutil.which("nvidia-smi")):
            asked = ["--id=0", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "--loop-ms=100"]
            return cls("nvidia-smi", [path, *asked], whole=False)
        return None

    def start(self) -> None:
        """Start it, and wait for its first word: it takes a while to begin."""
        self.place = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop; a pipe would need a reader
        self.running = None
        with suppress(OSError):
            self.running = subprocess.Popen(self.command, stdout=self.place, stderr=subprocess.DEVNULL)
        end = time.perf_counter() + 3
        while self.running and os.fstat(self.place.fileno()).st_size == 0 and time.perf_counter() < end:
            time.sleep(0.02)
        self.skip = os.fstat(self.place.fileno()).st_size

    def stop(self) -> float | None:
        """Stop it and return the mean of what it has printed since `start`, in watts; None if that is nothing."""
        if self.running:
            self.running.terminate()
            try:
                self.running.wait(2)
            except subprocess.TimeoutExpired:
                self.running.kill()
                self.running.wait()
        self.place.seek(self.skip)
        lines = self.place.read().decode(errors="replace").splitlines()
        self.place.close()
        known = [value for line in lines if (value := watts(line)) is not None]
        return sum(known) / len(known) if known else None


def watts(line: str) -> float | None:
    """Return the power that a line of `nvidia-smi` (a number) or `tegrastats` (rails, in mW) tells, or None.

    Of a board with a rail for all that goes in, that one counts; of another the sum of its rails.
    """
    with suppress(ValueError):
        return float(line)
    rails = {name: float(now) / 1000 for name, now in re.findall(r"(\w+) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)", line)}
    rails = {name: value for name, value in rails.items() if name.startswith(("VDD", "VIN", "POM", "GPU", "CPU", "SOC",
             "CV", "SYS"))}  # fmt: skip
    for whole in ("VDD_IN", "POM_5V_IN"):
        if whole in rails:
            return rails[whole]
    return sum(rails.values()) if rails else None


def noise(rounds: list[dict[str, Any]], medians: list[float], settled: bool) -> list[str]:
    """Return why a row's numbers are to be doubted: an empty list where nothing was seen.

    `rounds` are what each round's `Watch` saw, `medians` each round's median latency.
    """
    found = []
    if not settled:
        found.append("the warm-up did not settle")
    if len(medians) > 1 and max(medians) > 1.1 * min(medians):
        found.append(f"the rounds' medians differ by {100 * (max(medians) / min(medians) - 1):.0f} %")
    others = max((seen.get("others") or 0.0 for seen in rounds), default=0.0)
    if others > 0.2:
        found.append(f"other work kept {others:.1f} processors busy")
    stolen = max((seen.get("stolen") or 0.0 for seen in rounds), default=0.0)
    if stolen > 0.02:
        found.append(f"the host took {100 * stolen:.0f} % of a processor away")
    if throttled := sum(seen.get("throttled") or 0 for seen in rounds):
        found.append(f"the processor was throttled {throttled} times")
    rates = [rate for seen in rounds for rate in seen.get("mhz") or []]
    if rates and min(rates) < 0.8 * max(rates):
        found.append(f"the clock ran between {min(rates):,.0f} and {max(rates):,.0f} MHz")
    return found


def peak_mib() -> float | None:
    """Return the most memory, in MiB, that this process has held, or None where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        # Linux's rusage remembers what held this process's place before it was started: its parent.
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        return round(int(text.partition("VmHWM:")[2].split()[0]) / 1024, 1)
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20, 1)


def _jiffies() -> tuple[float | None, float | None]:
    """Return the seconds that all processors have been busy, and that the host has taken away."""
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text(encoding="utf-8").split("\n")[0].split()[1:]]
        tick = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None, None
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq) / tick, steal / tick


def _throttles() -> int | None:
    """Return how often the processors have been throttled since the system started."""
    counts = [_number(path) for path in _CPU.glob("cpu[0-9]*/thermal_throttle/core_throttle_count")]
    known = [int(count) for count in counts if count is not None]
    return sum(known) if known else None


def _energy() -> float | None:
    """Return the joules that the processors' packages have used since some moment (RAPL; often only root may ask)."""
    known = [_number(path) for path in _RAPL.glob("intel-rapl:[0-9]*/energy_uj") if path.parent.name.count(":") == 1]
    found = [value for value in known if value is not None]
    return sum(found) / 1e6 if found else None


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
