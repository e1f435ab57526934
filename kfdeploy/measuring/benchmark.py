"""Benchmarking: assemblies against students and teacher on the same tasks; latency, throughput, accuracy, size."""

import itertools
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.data.splits import photo_of, test_images
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.here import find_artifacts
from kfdeploy.errors import KfdeployError, PoolError, TaskError, UnsupportedError
from kfdeploy.manifest import stamp
from kfdeploy.measuring.accuracy import Columns, Marks, Right, Subject, columns_of, score, told
from kfdeploy.measuring.answer import answer
from kfdeploy.measuring.intervals import difference_interval, mean_difference_interval, ratio_interval
from kfdeploy.measuring.rounds import Job, describe_machine, measure_afresh
from kfdeploy.reading import MOST_JSON, ReadingError, json_of, read_regular
from kfdeploy.schema import flag, listing, mapping, number, record, table, whole
from kfdeploy.targets.base import Scenario
from kfdeploy.targets.device.clock import QUICK, Protocol, Round, summarise
from kfdeploy.writing import write_file

SCENARIOS: tuple[Scenario, ...] = ("single-stream", "offline")
Key = tuple[Path, str, int]  # of a row: the artifact, the scenario, the threads
_SETTING = ("target", "precision", "threads", "scenario")


def benchmark(
    artifacts: Sequence[str | Path] = (),
    *,
    scenarios: Sequence[str] = SCENARIOS,
    threads: Sequence[int] = (1,),
    batch: int = 32,
    quick: bool = False,
    data: str | Path | None = None,
    finished: Path | None = None,
    max_ms: float | None = None,
    max_mb: float | None = None,
    min_accuracy: float | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure artifacts (default: all in `artifacts/`) and compare each assembly with every student and teacher.

    Each assembly's tasks are a *subject*: every model that knows their classes is scored on them, its logits masked to
    them, over the test images of those classes. Of several fields each is scored by itself, on the images that have a
    label in it, and a subject's accuracy is the mean. Without an assembly the one subject is the classes that all
    models know. `single-stream` has a batch of 1, `offline` of `batch`. `data` is a folder with `test/<class>/` in
    place of the data the models were made with. `finished` is a file that keeps each round as it ends: an interrupted
    benchmark goes on from it. `max_ms`, `max_mb` and `min_accuracy` are the constraints under which a winner is named.

    Returns `{"schema", "kind", "quick", "protocol", "machine", "rows", "comparisons", "answers", "break_even"}`. A row
    has its `accuracies` as `[{"tasks", "accuracy", "images"}, …]`, one a subject, where there are several fields with
    `fields`, `[{"field", "accuracy", "images"}, …]`; one that cannot be measured here stays, with its `reason`. In a
    comparison of `a` with `b`, `p50_ratio` is a's median latency over b's (below 1: a is faster) with its 95 %
    interval, and `accuracy_difference` is a's accuracy minus b's, of several fields on average and in `fields` of
    each. For answers see `answer`.

    Raises:
        PoolError: there are no artifacts, or one is not whole.
        TaskError: the models have fewer than two classes in common.
        UnsupportedError: no row at all can be measured here.
        DataError: there are no test images.
    """
    opened = _open(artifacts)
    subjects = _subjects(opened)
    if unknown := [setting for setting in scenarios if setting not in SCENARIOS]:
        raise UnsupportedError(f"there is no scenario '{unknown[0]}'", allowed=SCENARIOS)
    settings = [setting for setting in SCENARIOS if setting in scenarios]
    protocol = QUICK if quick else Protocol()
    # What is not there is missed before the measuring, not after.
    each = (names for fields in subjects.values() for names in fields.values())
    everything = list(dict.fromkeys(name for names in each for name in names))
    test = test_images(opened[0].data, opened[0].image, everything, data)
    photo = photo_of(opened[0].data, opened[0].image, data)
    jobs, reasons = _jobs(opened, settings, threads, batch, photo)
    able = {key: job for key, job in jobs.items() if key not in reasons}
    rounds = _measure(able, protocol, finished, opened, reasons, report)
    right = score([a for a in opened if any(key[0] == a.path for key in rounds)], test, subjects, report)
    owners = {artifact.path: artifact for artifact in opened}
    rows = [_row(owners[k[0]], jobs[k], rounds.get(k, []), right, subjects, reasons.get(k, "")) for k in jobs]
    result = {
        **stamp("benchmark"),
        "quick": quick,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": vars(protocol),
        "machine": describe_machine(),
        "rows": rows,
        "comparisons": _compare(rows, right),
    }
    return result | answer(result, max_ms=max_ms, max_mb=max_mb, min_accuracy=min_accuracy)


def _jobs(
    opened: Sequence[Artifact], settings: Sequence[Scenario], threads: Sequence[int], batch: int, photo: str
) -> tuple[dict[Key, Job], dict[Key, str]]:
    """Return what there is to measure, and of what cannot be measured here the reason.

    Raises:
        UnsupportedError: nothing can.
    """
    jobs: dict[Key, Job] = {}
    reasons: dict[Key, str] = {}
    for artifact, scenario, count in itertools.product(opened, settings, sorted(set(threads))):
        size = 1 if scenario == "single-stream" else batch
        key = (artifact.path, scenario, count)
        jobs[key] = Job(str(artifact.path), scenario, count, size, photo)
        if artifact.batch not in (0, size):
            reasons[key] = f"it has the fixed batch {artifact.batch}, and {scenario} needs {size}"
        elif why := artifact.cannot_run():
            reasons[key] = why
    if jobs.keys() == reasons.keys():
        first = next(iter(reasons))
        raise UnsupportedError(
            f"nothing here can be measured; '{first[0]}', {first[1]}: {reasons[first]}",
            hint="export with a dynamic batch for this machine, or choose --scenario and --batch to fit",
        )
    return jobs, reasons


def _measure(
    jobs: dict[Key, Job],
    protocol: Protocol,
    finished: Path | None,
    opened: Sequence[Artifact],
    reasons: dict[Key, str],
    report: Callable[[str], None],
) -> dict[Key, list[Round]]:
    """Measure every job in every round, a new order each, and keep what is done; a job that fails gives its reason."""
    # A round counts again only for the very same file, setting and machine.
    hashes = {artifact.path: artifact.sha256 for artifact in opened}
    about = {"machine": describe_machine()["cpu"], "protocol": vars(protocol)}
    done: dict[str, Any] = {}
    if finished is not None and finished.is_file():
        try:
            kept = json_of(read_regular(finished, MOST_JSON))
            done = {} if _KEPT(kept) or kept["about"] != about else kept["rounds"]
        except (OSError, ReadingError):
            done = {}
    rounds: dict[Key, list[Round]] = {key: [] for key in jobs}
    for turn in range(protocol.rounds):
        # A new order each round, so that no artifact always follows the same neighbour.
        for key in random.Random(turn).sample(list(jobs), len(jobs)):
            if key in reasons:
                continue
            name = f"{turn} {hashes[key[0]]} {key[1]} {key[2]} {jobs[key].batch}"
            if name not in done:
                report(f"round {turn + 1} of {protocol.rounds}: {key[0].name}, {key[1]}, {key[2]} threads")
                try:
                    done[name] = asdict(measure_afresh(jobs[key], protocol))
                except KfdeployError as error:
                    reasons[key] = str(error)
                    del rounds[key]
                    continue
                if finished is not None:
                    write_file(finished, json.dumps({"about": about, "rounds": done}), durable=False)
            rounds[key].append(Round(**done[name]))
    return rounds


_MS = number(0, 1e12)
_ROUND = record(
    {"samples": listing(_MS), "load": _MS, "first": _MS, "warm_up": _MS, "stable": flag, "stages": mapping(_MS),
     "watch": table, "cores": listing(whole())},
    only=True,
)  # fmt: skip
_KEPT = record({"about": table, "rounds": mapping(_ROUND)})


def _open(paths: Sequence[str | Path]) -> list[Artifact]:
    opened = [Artifact.open(path) for path in find_artifacts(paths)]
    for artifact in opened:
        artifact.check()
        if not artifact.classes:
            raise PoolError(f"'{artifact.path}' has no class names", hint="kfdeploy export")
        one, other = (a.image for a in (opened[0], artifact))
        if (one.shape, one.resize, one.interpolation) != (other.shape, other.resize, other.interpolation):
            raise UnsupportedError(
                f"'{artifact.path}' takes images of {other.shape} (resized to {other.resize}, {other.interpolation}), "
                f"'{opened[0].path}' of {one.shape} (resized to {one.resize}, {one.interpolation})",
                hint="compare models that take the same images",
            )
    # Assemblies first, then students, then the teacher.
    return sorted(opened, key=lambda artifact: (artifact.kind, str(artifact.path)))


def _subjects(opened: Sequence[Artifact]) -> dict[Subject, Columns]:
    """Return what models are scored on: the tasks of each assembly, else the classes that all models know."""
    found = {_names(artifact): columns_of(artifact.tasks) for artifact in opened if artifact.kind == "assembly"}
    if found:
        return found
    fields = {
        field: [name for name in names if all(name in artifact.classes for artifact in opened)]
        for field, names in columns_of(opened[0].tasks).items()
    }
    fields = {field: names for field, names in fields.items() if len(names) > 1}
    if not fields:
        raise TaskError("these models have fewer than two classes in common")
    return {tuple(name for names in fields.values() for name in names): fields}


def _names(artifact: Artifact) -> Subject:
    return tuple(task.name for task in artifact.tasks)


def _row(
    artifact: Artifact, job: Job, rounds: list[Round], right: Right, subjects: dict[Subject, Columns], reason: str
) -> dict[str, Any]:
    own = _names(artifact)
    mine = {subject: right[artifact.sha256, subject] for subject in subjects if (artifact.sha256, subject) in right}
    scored = {subject: told(found) for subject, found in mine.items()}
    # An assembly is about its own tasks; another model about those of the first assembly that it knows.
    subject = own if own in scored and artifact.kind == "assembly" else next(iter(scored), None)
    row: dict[str, Any] = {
        "kind": artifact.kind,
        "name": artifact.name,
        "tasks": list(subject or own),
        "target": artifact.target,
        "precision": artifact.precision,
        "threads": job.threads,
        "batch": job.batch,
        "scenario": job.scenario,
        **(scored[subject] if subject else {"accuracy": None, "images": 0}),
        "accuracies": [{"tasks": list(name), **about} for name, about in scored.items()],
        "bytes": artifact.bytes,
        "parameters": artifact.parameters,
        "training": artifact.training,
        "sha256": artifact.sha256,
    }
    return row | ({"reason": reason} if reason else summarise(rounds, job.batch))


def _compare(rows: list[dict[str, Any]], right: Right) -> list[dict[str, Any]]:
    """Compare each assembly with every student and teacher in the same setting, on the assembly's own tasks."""
    found = []
    for a, b in itertools.product(rows, rows):
        subject = tuple(a["tasks"])
        if a["kind"] != "assembly" or b["kind"] == "assembly" or any(a[key] != b[key] for key in _SETTING):
            continue
        if "reason" in a or "reason" in b or (b["sha256"], subject) not in right:
            continue
        ratio, interval = ratio_interval(
            [np.array(s) / a["batch"] for s in a["samples_ms"]], [np.array(s) / b["batch"] for s in b["samples_ms"]]
        )
        found.append(
            {
                "a": a["name"],
                "b": b["name"],
                "b_kind": b["kind"],
                "tasks": list(subject),
                **{key: a[key] for key in _SETTING},
                "p50_ratio": round(ratio, 4),
                "interval": [round(v, 4) for v in interval],
                **_differences(right[a["sha256"], subject], right[b["sha256"], subject]),
            }
        )
    return found


def _differences(a: Marks, b: Marks) -> dict[str, Any]:
    """Return by how much a is more accurate than b: of several fields on average, and each in its own."""
    each = {}
    for field, mine in a.items():
        counts = ~np.isnan(mine)
        each[field] = difference_interval(mine[counts], b[field][counts])

    def said(difference: float, spread: tuple[float, float]) -> dict[str, Any]:
        rounded = [round(value, 5) for value in spread]
        return {"accuracy_difference": round(difference, 5), "accuracy_interval": rounded}

    if len(each) == 1:
        return said(*next(iter(each.values())))
    mean = mean_difference_interval(list(a.values()), [b[field] for field in a])
    return said(*mean) | {"fields": [{"field": field} | said(*found) for field, found in each.items()]}
