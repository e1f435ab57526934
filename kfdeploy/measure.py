"""The clock, the accuracy loop, and the description of the machine.

Run as `python -m kfdeploy.measure '<json>'`, this module is one round of one artifact in a fresh process.
"""

import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from kfdeploy.artifact import Artifact
from kfdeploy.data.source import ImageSet
from kfdeploy.errors import DataError, KfdeployError
from kfdeploy.pool import versions
from kfdeploy.targets.base import Device, Scenario
from kfdeploy.verify import run_in_batches

Floats = np.ndarray[Any, np.dtype[np.float64]]


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


@dataclass(frozen=True)
class Job:
    """One artifact in one setting."""

    artifact: str
    scenario: Scenario
    threads: int
    batch: int


@dataclass
class Round:
    """What one fresh process measured, in milliseconds."""

    samples: list[float] = field(default_factory=list)
    load: float = 0.0  # from the file to a session that can run
    first: float = 0.0  # the first inference
    warm_up: float = 0.0
    stable: bool = False  # whether two windows of warm-up agreed


def time_runs(call: Callable[[int], object], protocol: Protocol) -> Round:
    """Warm up, then time `call(i)`, one after another; the calls alone are inside the timed region."""
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
        end = clock() + int(protocol.seconds * 1e9)
        while len(samples) < protocol.least or (len(samples) < protocol.runs and clock() < end):
            start = clock()
            call(i)
            samples.append(clock() - start)
            i += 1
    finally:
        gc.enable()
    found.samples = [round(sample / 1e6, 5) for sample in samples]
    return found


def measure(job: Job, protocol: Protocol) -> Round:
    """Measure an artifact in this process.

    Raises:
        KfdeployError: the artifact is not whole or cannot be opened, or has another fixed batch.
    """
    artifact = Artifact.open(job.artifact)
    if artifact.batch not in (0, job.batch):
        raise KfdeployError(
            f"'{job.artifact}' has the fixed batch {artifact.batch}, not {job.batch}",
            hint="export it with a dynamic batch",
        )
    if hasattr(os, "sched_setaffinity"):
        free = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, free[: job.threads])
    golden = artifact.golden()[0]
    # Distinct inputs in rotation, so that nothing is measured on one image that lies in a cache.
    inputs = [
        {"image": np.ascontiguousarray(np.take(golden, range(i, i + job.batch), axis=0, mode="wrap"))}
        for i in range(16)
    ]
    began = time.perf_counter_ns()
    with artifact.session(Device(threads=job.threads, scenario=job.scenario)) as session:
        load = (time.perf_counter_ns() - began) / 1e6

        def call(i: int) -> None:
            session.run(inputs[i % 16])
            session.synchronize()

        found = time_runs(call, protocol)
    found.load = load
    return found


def measure_afresh(job: Job, protocol: Protocol) -> Round:
    """Measure an artifact in a process of its own.

    Raises:
        KfdeployError: it failed there.
    """
    text = json.dumps({"job": asdict(job), "protocol": asdict(protocol)})
    done = subprocess.run([sys.executable, "-m", "kfdeploy.measure", text], capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        raise KfdeployError(f"measuring '{job.artifact}' failed: {last[0]}", hint=f"kfdeploy verify {job.artifact}")
    return Round(**json.loads(done.stdout))


def ratio_interval(a: Sequence[Floats], b: Sequence[Floats], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return the ratio of medians a/b and its bootstrapped 95 % interval, from samples in paired rounds.

    Rounds are drawn again as pairs (they shared the machine's state), and samples within each round.
    """
    random = np.random.default_rng(seed)
    draws = 400
    medians = np.empty((2, len(a), draws))  # the median of each round, drawn again
    for side, rounds in enumerate((a, b)):
        for r, samples in enumerate(rounds):
            picks = random.integers(len(samples), size=(draws, len(samples)))
            medians[side, r] = np.median(samples[picks], axis=1)
    rounds_drawn = random.integers(len(a), size=(4000, len(a)))
    which = random.integers(draws, size=(2, 4000, len(a)))
    drawn = np.median(medians[0, rounds_drawn, which[0]] / medians[1, rounds_drawn, which[1]], axis=1)
    centre = float(np.median([np.median(x) / np.median(y) for x, y in zip(a, b, strict=True)]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return centre, (float(low), float(high))


def difference_interval(a: Floats, b: Floats, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return the difference of means a − b and its paired-bootstrapped 95 % interval, over the same images."""
    paired = a - b
    counts = np.unique(paired, return_counts=True)
    # A mean over images drawn with replacement is a multinomial draw over the few values that occur.
    drawn = np.random.default_rng(seed).multinomial(len(paired), counts[1] / len(paired), size=10_000) @ counts[0]
    low, high = np.percentile(drawn / len(paired), [2.5, 97.5])
    return float(paired.mean()), (float(low), float(high))


def correct(artifact: Artifact, data: ImageSet, columns: Sequence[int], threads: int) -> Floats:
    """Return 1 or 0 for each image: whether the argmax over `columns` of the artifact's logits is its label.

    Labels index `columns`. The artifact is the file that is timed.
    """
    right: list[np.ndarray[Any, Any]] = []
    with artifact.session(Device(threads=threads)) as session:
        for start in range(0, len(data), 512):
            images = data.load(slice(start, start + 512))
            logits = run_in_batches(session, images, artifact.batch or 128)["logits"]
            right.append(logits[:, list(columns)].argmax(1) == data.labels[start : start + 512])
    if not right:
        raise DataError("there are no test images of these classes")
    return np.concatenate(right).astype(np.float64)


def describe_machine() -> dict[str, Any]:
    """Return what is known of this machine, without its name or its paths."""
    about: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "os": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "versions": versions("kfdeploy", "numpy", "onnx", "onnxruntime", "openvino", "torch"),
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


def _main() -> None:
    asked = json.loads(sys.argv[1])
    try:
        found = measure(Job(**cast(dict[str, Any], asked["job"])), Protocol(**asked["protocol"]))
    except KfdeployError as error:
        sys.exit(str(error))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    _main()
