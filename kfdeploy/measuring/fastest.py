"""Choosing by measurement: bank or branches, and which precision, the candidates in alternating rounds."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy import targets
from kfdeploy.arrays import Floats
from kfdeploy.data.imageset import ImageSet
from kfdeploy.data.splits import spread, validation_set
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.export import FUSE, check_fuse, chosen_options, convert, export, move, place_in
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.prepare import prepare_for
from kfdeploy.errors import ComposeError, KfdeployError, UnsupportedError
from kfdeploy.graph.compose import Form
from kfdeploy.measuring.accuracy import columns_of, correct, shares, told
from kfdeploy.measuring.intervals import ratio_interval
from kfdeploy.measuring.rounds import Job, alternating, measure_afresh
from kfdeploy.outputs import check_output
from kfdeploy.targets.base import Session, Setup, Target
from kfdeploy.targets.device.clock import Protocol
from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.writing import place_of

__all__ = ["FUSE", "export_fastest", "faster_form"]
Report = Callable[[str], None]

# Shorter than a benchmark: a choice, not a number to be quoted.
NOISE = 0.5  # between the medians of rounds, as a share; beyond it a ratio of two precisions says nothing
LOOK = Protocol(rounds=3, runs=400, least=30, seconds=0.4, window=0.1, patience=1.0, quick=True)


def export_fastest(
    model: Model | str | Path,
    target: str,
    *,
    precision: str = "auto",
    fuse: str | None = "auto",
    max_drop: float = 0.01,
    images: int = 2000,
    data: str | Path | None = None,
    out: str | Path = "artifacts",
    force: bool = False,
    wait: bool = False,
    report: Report = lambda _: None,
    **settings: Any,
) -> tuple[Artifact, list[dict[str, Any]]]:
    """Export a model in the form and the precision that measure fastest here; what is named is not measured.

    With `fuse="auto"` an assembly is timed as a bank and as branches, and the faster is exported. With
    `precision="auto"` it is exported in every precision that its target has, and the fastest that loses at most
    `max_drop` is kept: each is timed single-stream in fresh processes and scored on validation images of the model's
    classes (at most `images` of them, from the data it was made with or from `data`); the drop is from fp32's accuracy,
    in the field that loses most.
    `settings` are those of `export`.

    Returns the artifact, in its place under `out`, and for each measured precision a row with its numbers and why it
    was not kept.

    Raises:
        UnsupportedError: the target cannot run here, so nothing could be measured; or `max_drop` is not a share.
        DataError: the validation images are not there.
        ParityError: not even fp32 is right.
    """
    # Long by its arguments: it has all that a choice of form and precision may be given.
    if not 0 <= max_drop < 1:
        raise UnsupportedError(f"--max-drop is {max_drop}", allowed=("a share from 0 to 1, such as 0.01",))
    check_fuse(fuse, FUSE)
    module = targets.load(target, "fp32" if precision == "auto" else precision)
    if precision != "auto":
        model = model if isinstance(model, Model) else Model.open(model)
        named = _in_form(model, module, precision, fuse, report, out=out, force=force, wait=wait, **settings)
        return named, []
    if unable := module.can_run():
        what, hint = f"--precision auto measures, and {unable}", "name a precision, and measure there"
        raise UnsupportedError(what, allowed=module.GRAPHS, hint=hint)
    model = model if isinstance(model, Model) else Model.open(model)
    places: dict[str, Path] = {name: place_in(Path(out), model, target, name) for name in module.GRAPHS}
    for place in places.values():
        check_output(place, force=force)
    seen = _validation(model, images, data)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=place_of(Path(out))) as work:
        made: dict[str, Artifact] = {}
        for name in module.GRAPHS:
            report(f"{name}: exporting")
            of_int8 = settings if name == "int8" else {k: v for k, v in settings.items() if k != "int8_head"}
            try:
                made[name] = _in_form(model, module, name, fuse, report, out=work, **of_int8)
            except KfdeployError as error:
                if name == "fp32":
                    raise
                report(f"{name}: {error}")
                rows.append({"precision": name, "why": str(error)})
        rows += _measured(made, seen, model.tasks, report)
        kept = _judge(rows, max_drop)
        facts = {"max_drop": max_drop, "rows": rows}
        return move(made[kept], places[kept], force=force, wait=wait, auto=facts), rows


def faster_form(model: Model, module: Target, setting: Any, report: Report) -> tuple[Form | None, dict[str, float]]:
    """Measure an assembly as a bank and as branches on this machine; return the faster, and both medians in ms.

    Raises:
        UnsupportedError: the target cannot run here.
    """
    if unable := module.can_run():
        raise UnsupportedError(f"--fuse auto measures, and {unable}", hint="choose --fuse bank or --fuse branches")
    forms: tuple[Form, ...] = ("bank", "branches")
    images = model.evidence().images[: setting.batch or 1]
    with tempfile.TemporaryDirectory() as place, ExitStack() as opened:
        sessions = {}
        for form in forms:
            try:
                prepared = prepare_for(model, module, setting, form)
            except ComposeError as error:
                report(f"{form}: {error}")
                continue
            folder = Path(place) / form
            folder.mkdir()
            convert(module, setting, prepared, folder)
            sessions[form] = opened.enter_context(module.open(folder, setting, Setup()))
        samples = alternate({form: _runs(session, images) for form, session in sessions.items()})
    found = {name: round(float(np.median(times)), 5) for name, times in samples.items()}
    for name, middle in found.items():
        report(f"{name}: p50 {middle:.3f} ms")
    return next(form for form in forms if form == min(found, key=lambda name: found[name])), found


def _in_form(
    model: Model, module: Target, precision: str, fuse: str | None, report: Report, **settings: Any
) -> Artifact:
    """Export in one precision; where `fuse` is `auto`, in the form that measures faster, which is put on record."""
    measured: dict[str, float] = {}
    form: str | None = fuse
    if fuse == "auto":
        form = None
        if model.parts is not None:
            own = {key: value for key, value in settings.items() if key in module.Options.__dataclass_fields__}
            form, measured = faster_form(model, module, chosen_options(module, precision=precision, **own), report)
    return export(model, module.NAME, precision=precision, fuse=form, measured=measured, **settings)


def _runs(session: Session, images: Any) -> Callable[[], list[float]]:
    """Return a function that times some runs of a model, in milliseconds."""
    import time

    def run() -> list[float]:
        times = []
        for _ in range(60):
            began = time.perf_counter_ns()
            session.run({"image": images})
            session.synchronize()
            times.append((time.perf_counter_ns() - began) / 1e6)
        return times[10:]

    return run


def alternate(candidates: Mapping[str, Callable[[], list[float]]], rounds: int = 9) -> dict[str, list[float]]:
    """Time candidates in alternating rounds in this process; return every sample after the first round, a warm-up."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for number, name in alternating(candidates, rounds + 1):
        times = candidates[name]()
        if number:
            found[name] += times
    return found


def _validation(model: Model, images: int, data: str | Path | None) -> ImageSet:
    """Return validation images of a model's classes, `images` of them at most."""
    seen = model.seen()
    inside = np.flatnonzero(np.any([np.isin(names, model.classes) for names in seen.labels.values()], axis=0))
    picked = seen.take(inside[spread(len(inside), images)])
    return validation_set(model.data, picked, model.image, data).only(model.classes).in_memory()


def _measured(
    made: Mapping[str, Artifact], seen: ImageSet, tasks: Sequence[TaskSpec], report: Report
) -> list[dict[str, Any]]:
    """Time artifacts by precision in alternating rounds of fresh processes and score them; return a row for each."""
    jobs = {name: Job(str(a.path), "single-stream", 1, a.batch or 1) for name, a in made.items()}
    samples: dict[str, list[Floats]] = {name: [] for name in jobs}
    rows: list[dict[str, Any]] = []
    for again in range(2):
        for number, name in alternating(list(jobs), LOOK.rounds):
            if name not in jobs:
                continue
            report(f"{name}: round {number + 1} of {LOOK.rounds}" + (", once more" if again else ""))
            try:
                samples[name].append(np.array(measure_afresh(jobs[name], LOOK).samples))
            except KfdeployError as error:
                if name == "fp32":
                    raise
                del jobs[name], samples[name]
                rows.append({"precision": name, "why": str(error)})
        noise = {name: _noise(found) for name, found in samples.items()}
        if max(noise.values()) <= NOISE:
            break
        worst = max(noise, key=lambda name: noise[name])
        report(f"noise: {worst} varies by {100 * noise[worst]:.0f} % from round to round; is something else running?")
    base: dict[str, float] = {}
    for name in samples:
        artifact = made[name]
        right = correct(artifact, seen, columns_of(tasks), 1)
        own, about = shares(right), told(right)
        base = own if name == "fp32" else base
        drops = {field: round(base.get(field, 0.0) - value, 6) for field, value in own.items()}
        for each in about.get("fields", ()):
            each["drop"] = drops[each["field"]]
        ratio, interval = ratio_interval(samples[name], samples["fp32"])
        rows.append(
            {
                "precision": name,
                "p50_ms": round(float(np.median(np.concatenate(samples[name]))), 5),
                "p50_ratio": round(ratio, 4),
                "interval": [round(value, 4) for value in interval],
                "noise": round(noise[name], 4),
                "drop": max(drops.values()),
                **about,
                "bytes": artifact.bytes,
                "convolutions": artifact.executed["convolutions"],
            }
        )
    return rows


def _noise(rounds: list[Floats]) -> float:
    """Return by how much the medians of rounds differ, as a share of the smallest."""
    middles = np.sort([float(np.median(samples)) for samples in rounds])
    return float(middles[-1] / middles[0] - 1)


def _where(row: Mapping[str, Any]) -> str:
    """Return the field that loses most, where there are several."""
    worst = max(row.get("fields", ()), key=lambda each: float(each["drop"]), default=None)
    return "" if worst is None else f" in {worst['field']}"


def _judge(rows: list[dict[str, Any]], max_drop: float) -> str:
    """Say of each row whether it is kept, or why not, in place; return the precision that is.

    Where rounds differ more than `NOISE` nothing is chosen: fp32 is kept, the plainest.
    """
    kept = "fp32"
    noisy = [row["precision"] for row in rows if row.get("noise", 0.0) > NOISE]
    if noisy:
        for row in rows:
            mine = row["precision"] == kept
            row.setdefault("why", "kept, as the timings are too noisy to choose by" if mine else "too noisy to choose")
        return kept
    fit = [row for row in rows if "p50_ms" in row and row["drop"] <= max_drop]
    for row in sorted(fit, key=lambda row: float(row["p50_ratio"])):
        # Faster is said only where the interval excludes 1; between equals the plainest stays.
        if row["interval"][1] < 1:
            kept = row["precision"]
            break
    for row in rows:
        if row["precision"] == kept:
            row["why"] = "kept"
        elif "why" not in row:
            row["why"] = (
                f"loses {100 * row['drop']:.2f} points{_where(row)}, and {100 * max_drop:.2f} are allowed"
                if row["drop"] > max_drop
                else "not the fastest"
            )
    return kept
