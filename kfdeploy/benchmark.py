"""Benchmarking: assemblies against students and teacher on the same tasks; latency, throughput, accuracy, size."""

import itertools
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.artifact import Artifact
from kfdeploy.clock import summarise
from kfdeploy.data import ImageSet, load_split
from kfdeploy.errors import PoolError, TaskError, UnsupportedError
from kfdeploy.files import SCHEMA
from kfdeploy.measure import (
    QUICK,
    Floats,
    Job,
    Protocol,
    Round,
    correct,
    describe_machine,
    difference_interval,
    measure_afresh,
    ratio_interval,
)
from kfdeploy.spec import columns
from kfdeploy.targets.base import Scenario

SCENARIOS: tuple[Scenario, ...] = ("single-stream", "offline")


def benchmark(
    artifacts: Sequence[str | Path] = (),
    *,
    scenarios: Sequence[str] = SCENARIOS,
    threads: Sequence[int] = (1,),
    batch: int = 32,
    quick: bool = False,
    data: str | Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure artifacts (default: all in `artifacts/`) and compare each assembly with every other model.

    Every model is held to the first assembly's tasks: its logits masked to their classes, over the test images of
    those classes. Without an assembly the classes are those that all models know. `single-stream` has a batch of 1,
    `offline` of `batch`. `data` is a folder with `test/<class>/` in place of the data the models were made with.

    Returns `{"schema", "kind", "quick", "protocol", "machine", "rows", "comparisons"}`. In a comparison of `a` with
    `b`, `p50_ratio` is a's median latency over b's (below 1: a is faster) with its 95 % interval, and
    `accuracy_difference` is a's accuracy minus b's.

    Raises:
        PoolError: there are no artifacts, or one is not whole.
        TaskError: a model lacks a class of the tasks.
        DataError: there are no test images.
    """
    opened = _open(artifacts)
    tasks, classes = _subject(opened)
    for setting in scenarios:
        if setting not in SCENARIOS:
            raise UnsupportedError(f"there is no scenario '{setting}'", allowed=SCENARIOS)
    settings = [setting for setting in SCENARIOS if setting in scenarios]
    protocol = QUICK if quick else Protocol()
    threads = sorted(set(threads))
    for artifact, setting in itertools.product(opened, settings):
        size = 1 if setting == "single-stream" else batch
        if artifact.batch not in (0, size):
            raise UnsupportedError(
                f"'{artifact.path}' has the fixed batch {artifact.batch}, and {setting} would need {size}",
                hint="export it with a dynamic batch, or choose --scenario and --batch to fit",
            )
    test = test_images(opened[0], classes, data)  # what is not there is missed before the measuring, not after
    jobs = {
        (artifact.path, scenario, count): Job(
            str(artifact.path), scenario, count, 1 if scenario == "single-stream" else batch
        )
        for artifact, scenario, count in itertools.product(opened, settings, threads)
    }
    rounds: dict[Any, list[Round]] = {key: [] for key in jobs}
    for number in range(protocol.rounds):
        # A new order each round, so that no artifact always follows the same neighbour.
        for key in random.Random(number).sample(list(jobs), len(jobs)):
            report(f"round {number + 1} of {protocol.rounds}: {key[0].name}, {key[1]}, {key[2]} threads")
            rounds[key].append(measure_afresh(jobs[key], protocol))
    right: dict[str, Floats] = {}
    for artifact in opened:
        report(f"accuracy of {artifact.path.name}")
        right[artifact.sha256] = correct(artifact, test, columns(artifact.classes, classes), os.cpu_count() or 1)
    names = [task.name for task in tasks]
    rows = [
        _row(artifact, jobs[key], rounds[key], right[artifact.sha256], names)
        for artifact, scenario, count in itertools.product(opened, settings, threads)
        for key in [(artifact.path, scenario, count)]
    ]
    return {
        "schema": SCHEMA,
        "kind": "benchmark",
        "quick": quick,
        "protocol": vars(protocol),
        "machine": describe_machine(),
        "rows": rows,
        "comparisons": _compare(rows, right),
    }


def test_images(artifact: Artifact, classes: Sequence[str], folder: str | Path | None) -> ImageSet:
    """Return the test images of `classes`, from `folder` or from the data the model was made with.

    Raises:
        DataError: they are not there.
    """
    made_with = artifact.manifest["data"]
    source, root = ("folder", str(folder)) if folder is not None else (made_with["source"], made_with["root"])
    return load_split(source, root, "test", artifact.image).only(classes).in_memory()


def _open(paths: Sequence[str | Path]) -> list[Artifact]:
    from kfdeploy.artifact import MANIFEST

    if not paths:
        here = sorted(path.parent for path in Path("artifacts").glob(f"*/{MANIFEST}"))
        paths = [path for path in here if not path.name.startswith(".") and path.suffix != ".partial"]
        if not paths:
            raise PoolError("there are no artifacts here", hint="kfdeploy export --target onnx, then benchmark")
    opened = [Artifact.open(path) for path in dict.fromkeys(Path(path) for path in paths)]
    for artifact in opened:
        artifact.check()
        one, other = (a.image for a in (opened[0], artifact))
        if (one.shape, one.resize, one.interpolation) != (other.shape, other.resize, other.interpolation):
            raise UnsupportedError(
                f"'{artifact.path}' takes images of {other.shape} (resized to {other.resize}, {other.interpolation}), "
                f"'{opened[0].path}' of {one.shape} (resized to {one.resize}, {one.interpolation})",
                hint="compare models that take the same images",
            )
    # Assemblies first, then students, then the teacher.
    return sorted(opened, key=lambda artifact: (artifact.kind, str(artifact.path)))


def _subject(opened: Sequence[Artifact]) -> tuple[Any, list[str]]:
    """Return the tasks that everything is held to, and their classes."""
    first = next((artifact for artifact in opened if artifact.kind == "assembly"), None)
    if first is None:
        classes = [name for name in opened[0].classes if all(name in artifact.classes for artifact in opened)]
        if len(classes) < 2:
            raise TaskError("these models have fewer than two classes in common")
        return [task for task in opened[0].tasks if set(task.classes) <= set(classes)], classes
    for artifact in opened:
        columns(artifact.classes, first.classes, f"{artifact.kind} '{artifact.name}'")
    return first.tasks, list(first.classes)


def _row(artifact: Artifact, job: Job, rounds: list[Round], right: Floats, tasks: list[str]) -> dict[str, Any]:
    return {
        "kind": artifact.kind,
        "name": artifact.name,
        "tasks": tasks,
        "target": artifact.target,
        "precision": artifact.precision,
        "threads": job.threads,
        "batch": job.batch,
        "scenario": job.scenario,
        "accuracy": float(right.mean()),
        "images": len(right),
        "bytes": artifact.bytes,
        "parameters": artifact.manifest["parameters"],
        "sha256": artifact.sha256,
        **summarise(rounds, job.batch),
    }


def _compare(rows: list[dict[str, Any]], right: dict[str, Floats]) -> list[dict[str, Any]]:
    """Compare each assembly with every student and teacher in the same setting."""
    setting = ("target", "precision", "threads", "scenario")
    found = []
    for a, b in itertools.product(rows, rows):
        if a["kind"] != "assembly" or b["kind"] == "assembly" or any(a[key] != b[key] for key in setting):
            continue
        ratio, interval = ratio_interval(
            [np.array(s) / a["batch"] for s in a["samples_ms"]], [np.array(s) / b["batch"] for s in b["samples_ms"]]
        )
        difference, spread = difference_interval(right[a["sha256"]], right[b["sha256"]])
        found.append(
            {
                "a": a["name"],
                "b": b["name"],
                **{key: a[key] for key in setting},
                "p50_ratio": round(ratio, 4),
                "interval": [round(v, 4) for v in interval],
                "accuracy_difference": round(difference, 5),
                "accuracy_interval": [round(v, 5) for v in spread],
            }
        )
    return found
