"""Measuring: the clock of `kfdeploy.clock` on an artifact, the accuracy loop, and the intervals of both.

Run as `python -m kfdeploy.measure '<json>'`, this module is one round of one artifact in a fresh process.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np

from kfdeploy import clock
from kfdeploy.artifact import Artifact
from kfdeploy.clock import QUICK, Protocol, Round, time_runs
from kfdeploy.data.pixels import stages
from kfdeploy.data.source import ImageSet
from kfdeploy.errors import DataError, KfdeployError
from kfdeploy.pool import versions
from kfdeploy.targets.base import Device, Scenario
from kfdeploy.verify import run_in_batches

__all__ = ["QUICK", "Job", "Protocol", "Round", "correct", "describe_machine", "difference_interval", "measure",
           "measure_afresh", "ratio_interval", "time_runs"]  # fmt: skip
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Job:
    """One artifact in one setting."""

    artifact: str
    scenario: Scenario
    threads: int
    batch: int


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
    cores = clock.pin(job.threads)
    golden, image = artifact.golden()[0], artifact.image
    inputs = [{"image": images} for images in clock.rotation(golden, job.batch)]
    began = time.perf_counter_ns()
    with artifact.session(Device(threads=job.threads, scenario=job.scenario)) as session:
        load = (time.perf_counter_ns() - began) / 1e6

        def call(i: int) -> None:
            session.run(inputs[i % 16])
            session.synchronize()

        found = time_runs(call, protocol, gpu=clock.on_gpu(artifact.manifest))
    found.load, found.cores = load, cores
    found.stages = clock.time_stages(stages(golden[0], image.size, image.channels, image.resize, image.interpolation))
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


def logits_on(artifact: Artifact, data: ImageSet, threads: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return an artifact's logits (N, C) of a set's images. The artifact is the file that is timed.

    Raises:
        DataError: the set is empty.
    """
    if not len(data):
        raise DataError("there are no test images of these classes")
    found: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    with artifact.session(Device(threads=threads)) as session:
        for start in range(0, len(data), 512):
            images = data.load(slice(start, start + 512))
            found.append(run_in_batches(session, images, artifact.batch or 128)["logits"])
    return np.concatenate(found)


def correct(artifact: Artifact, data: ImageSet, columns: Sequence[int], threads: int) -> Floats:
    """Return 1 or 0 for each image: whether the argmax over `columns` of the artifact's logits is its label.

    Labels index `columns`.
    """
    logits = logits_on(artifact, data, threads)
    right: Floats = (logits[:, list(columns)].argmax(1) == data.labels).astype(np.float64)
    return right


def describe_machine() -> dict[str, Any]:
    """Return what is known of this machine, without its name or its paths."""
    return clock.describe_machine(versions("kfdeploy", "numpy", "onnx", "onnxruntime", "openvino", "torch"))


def _main() -> None:
    asked = json.loads(sys.argv[1])
    try:
        found = measure(Job(**cast(dict[str, Any], asked["job"])), Protocol(**asked["protocol"]))
    except KfdeployError as error:
        sys.exit(str(error))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    _main()
