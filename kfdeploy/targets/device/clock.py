"""The clock, and the description of the machine: what `kfdeploy benchmark` and every device kit measure with.

This file is copied into the kits as it is, so that a device's numbers are made by the same lines: it needs numpy alone.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .watch import Watch, noise  # relative: the folder is copied into device kits as it is

_LOOKS = 100_000_000  # nanoseconds between two looks at the machine


@dataclass(frozen=True)
class Protocol:
    """How long to measure. A round ends after `runs` runs or `seconds`, but never before `least` runs.

    Warm-up ends when the medians of two windows of `window` seconds agree within 2 %, or after `patience` seconds.
    """

    rounds: int = 5
    runs: int = 2000
    least: int = 100
    seconds: float = 2.0
    window: float = 0.25
    patience: float = 5.0
    quick: bool = False


QUICK = Protocol(rounds=3, runs=200, least=10, seconds=0.2, window=0.05, patience=0.3, quick=True)


@dataclass
class Round:
    """What one fresh process measured, in milliseconds."""

    samples: list[float] = field(default_factory=list)
    load: float = 0.0  # from the file to a session that can run
    first: float = 0.0  # the first inference
    warm_up: float = 0.0
    stable: bool = False  # whether two windows of warm-up agreed
    stages: dict[str, float] = field(default_factory=dict)  # an image's decoding and fitting
    watch: dict[str, Any] = field(default_factory=dict)  # what the machine did meanwhile
    cores: list[int] = field(default_factory=list)  # the processors this process was kept on


def time_runs(call: Callable[[int], object], protocol: Protocol, *, gpu: bool = False) -> Round:
    """Warm up, then time `call(i)`, one after another; the calls alone are inside the timed region.

    `gpu` is whether they run on NVIDIA's first GPU, whose energy then counts.
    """
    clock, found = time.perf_counter_ns, Round()
    began = clock()
    call(0)
    found.first = (clock() - began) / 1e6
    before, i = 0.0, 1
    while (spent := (clock() - began) / 1e9) < protocol.patience and not found.stable:
        window: list[int] = []
        end = clock() + int(protocol.window * 1e9)
        while clock() < end or len(window) < 5:
            start = clock()
            call(i)
            window.append(clock() - start)
            i += 1
        middle = float(np.median(window))
        # One second at least, unless a quick look was asked for: clocks rise slowly.
        settled = protocol.quick or spent >= 1.0 - protocol.window
        found.stable = settled and abs(middle - before) <= 0.02 * middle
        before = middle
    found.warm_up = (clock() - began) / 1e6
    samples: list[int] = []
    gc.collect()
    gc.disable()
    try:
        with Watch(gpu=gpu) as watch:
            looked = clock()
            end = looked + int(protocol.seconds * 1e9)
            while len(samples) < protocol.least or (len(samples) < protocol.runs and clock() < end):
                start = clock()
                call(i)
                done = clock()
                samples.append(done - start)
                i += 1
                if done - looked > _LOOKS:
                    watch.look()
                    looked = clock()
    finally:
        gc.enable()
    found.watch = watch.seen
    found.samples = [round(sample / 1e6, 5) for sample in samples]
    return found


def time_stages(stages: dict[str, Callable[[], object]], runs: int = 30) -> dict[str, float]:
    """Return the median milliseconds of each stage that comes before inference, for one image."""
    found = {}
    for name, call in stages.items():
        times = []
        for _ in range(runs + 3):
            start = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - start) / 1e6)
        found[name] = round(float(np.median(times[3:])), 5)
    return found


def summarise(rounds: list[Round], batch: int) -> dict[str, Any]:
    """Return a row's latency and throughput, with every sample. Times are milliseconds a run of `batch` images."""
    samples = np.concatenate([found.samples for found in rounds])
    latency: dict[str, Any] = {
        "p50": round(float(np.median(samples)), 5),
        "p90": round(float(np.percentile(samples, 90)), 5),
        "n": len(samples),
    }
    if len(samples) * 0.01 >= 10:  # fewer than ten samples above it say nothing of a percentile
        latency["p99"] = round(float(np.percentile(samples, 99)), 5)
    settled = all(found.stable for found in rounds)
    return {
        "latency_ms": latency,
        "throughput": round(1000 * batch * len(samples) / float(samples.sum()), 2),
        "load_ms": round(float(np.median([found.load for found in rounds])), 2),
        "first_ms": round(float(np.median([found.first for found in rounds])), 3),
        "stable": all(found.stable for found in rounds),
        "noise": noise([r.watch for r in rounds], [float(np.median(r.samples)) for r in rounds], settled),
        "stages_ms": _stages(rounds, latency["p50"] / batch),
        "cores": rounds[0].cores,
        "peak_mib": _middle([r.watch.get("peak_mib") for r in rounds]),
        "mhz": _rates(rounds),
        "joules_from": rounds[0].watch.get("joules_from"),
        "joules": _middle([_per_image(r, batch) for r in rounds]),  # an image; None: not available here
        "samples_ms": [found.samples for found in rounds],
    }


def _middle(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.median(known)), 6) if len(known) == len(values) else None


def _rates(rounds: list[Round]) -> list[float] | None:
    known = [rate for r in rounds for rate in r.watch.get("mhz") or []]
    return [min(known), max(known)] if known else None


def _per_image(found: Round, batch: int) -> float | None:
    joules = found.watch.get("joules")
    return None if joules is None else float(joules) / (len(found.samples) * batch)


def _stages(rounds: list[Round], infer: float) -> dict[str, float]:
    """Return the milliseconds an image takes in each stage."""
    names = rounds[0].stages
    return {name: round(float(np.median([r.stages[name] for r in rounds])), 5) for name in names} | {
        "infer": round(infer, 5)
    }


def rotation(images: Any, batch: int) -> list[Any]:
    """Return 16 distinct inputs of `batch` images, so that nothing is measured on one image that lies in a cache."""
    return [np.ascontiguousarray(np.take(images, range(i, i + batch), axis=0, mode="wrap")) for i in range(16)]


def pin(threads: int) -> list[int]:
    """Keep this process on so many processors, where the system can; return which."""
    if not hasattr(os, "sched_setaffinity"):
        return []
    chosen = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, chosen)
    return chosen


def describe_machine(versions: dict[str, str]) -> dict[str, Any]:
    """Return what is known of this machine, without its name or its paths, and the versions of what runs on it."""
    about: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "versions": versions,
    }
    return {key: value for key, value in about.items() if value is not None}


def _cpu_name() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
