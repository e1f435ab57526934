"""What else the machine did while something was timed: clock rate, other work, throttling, energy, memory.

This file is copied into the device kits as it is. It needs nothing but Python; what a machine does not tell is None.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_CPU = Path("/sys/devices/system/cpu")
_RAPL = Path("/sys/class/powercap")
_LEAST = 1.0  # seconds: in less, the system's own counting is too coarse to tell others' work


class Watch:
    """Opened around a measurement, and asked to `look` between timed calls, never inside one."""

    def __enter__(self) -> "Watch":
        self.rates: list[float] = []
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
            "joules": None if energy is None or self.energy is None or energy < self.energy else energy - self.energy,
            "peak_mib": peak_mib(),
        }

    def look(self) -> None:
        """Note the processors' clock rate, where the machine tells."""
        rates = [_number(path) for path in _CPU.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")]
        known = [rate / 1000 for rate in rates if rate]
        if known:
            self.rates += [round(min(known)), round(max(known))]


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
