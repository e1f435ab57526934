"""Choosing by measurement: bank or branches, and which precision, the candidates in alternating rounds."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy import targets
from kfdeploy.arrays import Floats
from kfdeploy.data.splits import validation_set
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.prepare import prepare
from kfdeploy.errors import ComposeError, ParityError, UnsupportedError
from kfdeploy.files import check_output, commit, dump_json
from kfdeploy.graph.compose import Form
from kfdeploy.measuring.accuracy import correct
from kfdeploy.measuring.intervals import ratio_interval
from kfdeploy.measuring.rounds import Job, measure_afresh
from kfdeploy.targets.base import Device, Target
from kfdeploy.targets.device.clock import Protocol
from kfdeploy.tasks.spec import columns

# Shorter than a benchmark: a choice, not a number to be quoted.
LOOK = Protocol(rounds=3, runs=400, least=30, seconds=0.4, window=0.1, patience=1.0, quick=True)
Samples = Mapping[str, list[Floats]]


def faster_form(
    model: Model, module: Target, setting: Any, report: Callable[[str], None]
) -> tuple[Form | None, dict[str, float]]:
    """Measure an assembly as a bank and as branches on this machine; return the faster, and both medians in ms.

    Raises:
        UnsupportedError: the target cannot run here.
    """
    if unable := module.can_run():
        raise UnsupportedError(f"--fuse auto measures, and {unable}", hint="choose --fuse bank or --fuse branches")
    from kfdeploy.deploy.export import convert

    forms: tuple[Form, ...] = ("bank", "branches")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folders = {}
        for form in forms:
            try:
                prepared = prepare(model, module.GRAPHS[setting.precision], form)
            except ComposeError as error:
                report(f"{form}: {error}")
                continue
            folders[form] = Path(place) / form
            folders[form].mkdir()
            convert(module, setting, prepared, folders[form])
        images = model.evidence().images[: setting.batch or 1]
        samples = alternate({form: _runs(module, folder, setting, images) for form, folder in folders.items()})
    for name, times in samples.items():
        found[name] = round(float(np.median(times)), 5)
        report(f"{name}: p50 {found[name]:.3f} ms")
    return next(form for form in forms if form == min(found, key=lambda name: found[name])), found


def _runs(module: Target, folder: Path, setting: Any, images: Any) -> Callable[[], list[float]]:
    """Return a function that times some runs of a model, in milliseconds."""
    import time

    session = module.open(folder, setting, Device()).__enter__()

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
    for number in range(rounds + 1):
        for name in sorted(candidates, reverse=bool(number % 2)):
            times = candidates[name]()
            if number:
                found[name] += times
    return found


def export_fastest(
    model: Model | str | Path,
    target: str,
    *,
    max_drop: float = 0.01,
    images: int = 2000,
    data: str | Path | None = None,
    out: str | Path = "artifacts",
    force: bool = False,
    report: Callable[[str], None] = lambda _: None,
    **settings: Any,
) -> tuple[Artifact, list[dict[str, Any]]]:
    """Export a model in every precision that its target has, and keep the fastest that loses at most `max_drop`.

    Each is timed single-stream in fresh processes and scored on validation images of the model's classes (at most
    `images` of them, from the data it was made with or from `data`); the drop is from fp32's accuracy. Returns the
    artifact that is kept, in its place under `out`, and a row for each precision with its numbers and why it was not
    kept.

    Raises:
        UnsupportedError: the target cannot run here, so nothing could be measured; or `max_drop` is not a share.
        DataError: the validation images are not there.
        ParityError: not even fp32 is right.
    """
    from kfdeploy.deploy.export import export

    if not 0 <= max_drop < 1:
        raise UnsupportedError(f"--max-drop is {max_drop}", allowed=("a share from 0 to 1, such as 0.01",))
    module = targets.load(target)
    if unable := module.can_run():
        raise UnsupportedError(
            f"--precision auto measures, and {unable}",
            allowed=module.GRAPHS,
            hint="name a precision, and measure there",
        )
    model = model if isinstance(model, Model) else Model.open(model)
    places: dict[str, Path] = {
        precision: Path(out) / f"{model.name}-{target}-{precision}" for precision in module.GRAPHS
    }
    for place in places.values():
        check_output(place, force=force)
    labels, rows_of = model.validation()
    inside = np.flatnonzero(np.isin(labels, model.classes))
    picked = inside[np.unique(np.linspace(0, len(inside) - 1, min(images, len(inside))).round().astype(int))]
    about = model.manifest.get("data") or {}
    seen = validation_set(about, rows_of[picked], model.image, data).only(model.classes).in_memory()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=_beside(Path(out))) as work:
        made: dict[str, Artifact] = {}
        for precision in module.GRAPHS:
            report(f"{precision}: exporting")
            try:
                made[precision] = export(model, target, precision=precision, out=work, **settings)
            except (ParityError, UnsupportedError) as error:
                if precision == "fp32":
                    raise
                rows.append({"precision": precision, "why": str(error)})
        jobs = {name: Job(str(a.path), "single-stream", 1, a.batch or 1) for name, a in made.items()}
        samples: dict[str, list[Floats]] = {name: [] for name in jobs}
        for number in range(LOOK.rounds):
            for name in sorted(jobs, reverse=bool(number % 2)):
                report(f"{name}: round {number + 1} of {LOOK.rounds}")
                samples[name].append(np.array(measure_afresh(jobs[name], LOOK).samples))
        base = 0.0
        for name, artifact in made.items():
            right = float(correct(artifact, seen, columns(artifact.classes, model.classes), 1).mean())
            base = right if name == "fp32" else base
            ratio, interval = ratio_interval(samples[name], samples["fp32"])
            rows.append(
                {
                    "precision": name,
                    "p50_ms": round(float(np.median(np.concatenate(samples[name]))), 5),
                    "p50_ratio": round(ratio, 4),
                    "interval": [round(value, 4) for value in interval],
                    "accuracy": right,
                    "drop": round(base - right, 6),
                    "images": len(seen),
                    "bytes": artifact.bytes,
                    "convolutions": artifact.manifest["executed"]["convolutions"],
                }
            )
        kept = _judge(rows, max_drop)
        place = places[kept]
        path = made[kept].path / "manifest.json"
        manifest = made[kept].manifest | {"auto": {"max_drop": max_drop, "rows": rows}}
        path.write_text(dump_json(manifest), encoding="utf-8")
        place.parent.mkdir(parents=True, exist_ok=True)
        commit(made[kept].path, place)
    return Artifact.open(place), rows


def _judge(rows: list[dict[str, Any]], max_drop: float) -> str:
    """Say of each row whether it is kept, or why not, in place; return the precision that is."""
    kept = "fp32"
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
                f"loses {100 * row['drop']:.2f} points, and {100 * max_drop:.2f} are allowed"
                if row["drop"] > max_drop
                else "not the fastest"
            )
    return kept


def _beside(out: Path) -> Path:
    """Return a folder on the disk of `out` that is there."""
    while not out.is_dir():
        out = out.absolute().parent
    return out
