"""Measuring: the clock of `kfdeploy.targets.device.clock` on an artifact, in fresh processes and alternating rounds.

Run as `python -m kfdeploy.measuring.rounds '<json>'`, this module is one round of one artifact in a fresh process.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

from kfdeploy.deploy.artifact import Artifact
from kfdeploy.errors import KfdeployError
from kfdeploy.manifest import versions
from kfdeploy.targets.base import Scenario, Setup
from kfdeploy.targets.device import clock
from kfdeploy.targets.device.clock import Protocol, Round, time_runs
from kfdeploy.targets.device.pixels import stages

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One artifact in one setting."""

    artifact: str
    scenario: Scenario
    threads: int
    batch: int
    photo: str = ""  # a file of the user's, to time decoding on; else a PNG of a golden sample


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
    with artifact.session(Setup(threads=job.threads, scenario=job.scenario)) as session:
        load = (time.perf_counter_ns() - began) / 1e6

        def call(i: int) -> None:
            session.run(inputs[i % 16])
            session.synchronize()

        found = time_runs(call, protocol, gpu=session.gpu)
    found.load, found.cores = load, cores
    fit = image.size, image.channels, image.resize, image.interpolation
    found.stages = clock.time_stages(stages(golden[0], *fit, job.photo))
    return found


def measure_afresh(job: Job, protocol: Protocol) -> Round:
    """Measure an artifact in a process of its own.

    Raises:
        KfdeployError: it failed there.
    """
    text = json.dumps({"job": asdict(job), "protocol": asdict(protocol)})
    done = subprocess.run(
        [sys.executable, "-m", "kfdeploy.measuring.rounds", text], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]
        raise KfdeployError(f"measuring '{job.artifact}' failed: {last[0]}", hint=f"kfdeploy verify {job.artifact}")
    return Round(**json.loads(done.stdout))


def alternating(names: Iterable[T], rounds: int) -> Iterator[tuple[int, T]]:
    """Give every name once a round, backwards every second time: none always follows the same neighbour."""
    order = list(names)
    for number in range(rounds):
        for name in order[:: -1 if number % 2 else 1]:
            yield number, name


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
