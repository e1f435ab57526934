"""Exporting: a model becomes an artifact of a target, proved right step by step before it is there."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy import targets
from kfdeploy.deploy.artifact import ABOUT, Artifact, described_as, faces
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.parity import Verdict, allowed_in, blame, check_atol, compare, judge, require
from kfdeploy.deploy.prepare import prepare_for
from kfdeploy.errors import OutputError, UnsupportedError, nearest
from kfdeploy.files import dump_json, sha256
from kfdeploy.graph.compose import Form
from kfdeploy.graph.precision import Prepared, write
from kfdeploy.graph.reference import run_joined, tolerance
from kfdeploy.manifest import ARTIFACT, GOLDEN, GRAPH, describe_files, stamp, versions
from kfdeploy.names import check_name
from kfdeploy.outputs import check_not_read, output_folder
from kfdeploy.places import shipped_data
from kfdeploy.schema import MOST_BATCH
from kfdeploy.targets.base import Setup, Target
from kfdeploy.targets.kits import write_kit
from kfdeploy.tasks.spec import outputs_of

_LONGEST = 220  # bytes of a folder's name, beside which unfinished work has a longer one
FUSE = ("auto", "bank", "branches")
FORMS = ("bank", "branches")


def export(
    model: Model | str | Path,
    target: str = "onnx",
    *,
    precision: str = "fp32",
    batch: int = 0,
    out: str | Path = "artifacts",
    atol: float | None = None,
    fuse: str | None = None,
    kit: bool = False,
    force: bool = False,
    wait: bool = False,
    measured: Mapping[str, float] | None = None,
    **options: Any,
) -> Artifact:
    """Export a model to `out/<name>-<target>-<precision>`, verified on its golden samples before it is there.

    `batch` 0 keeps the batch dynamic. `fuse` composes an assembly anew, as a `bank` or as `branches`; `measured` are
    the milliseconds of both that it was chosen by (`kfdeploy.measuring.fastest` measures them). `kit` puts the target's
    device kit beside the model. `options` are the target's own (`input`, `int8_head`; `provider` of `onnx`). `atol`
    replaces the tolerance of every step.

    Raises:
        UnsupportedError: the target, the precision or an option is not there.
        MissingDependencyError: the runtime is not installed.
        DeviceError: the processor that was asked for is not there.
        PoolError: the model is not whole, or int8 was asked of one that was never calibrated.
        ParityError: a step differs by more than the tolerance; it names the module to blame and what would have passed.
        OutputError: the place is taken and `force` is not set, another process writes there and `wait` is not, or it
            cannot be written.
    """
    if not 0 <= batch <= MOST_BATCH:
        raise UnsupportedError(f"the batch is {batch}", allowed=("0 (dynamic)", "1", "2", "…", str(MOST_BATCH)))
    check_atol(atol)
    module = targets.load(target, precision)
    setting = chosen_options(module, precision=precision, batch=batch, **options)
    check_fuse(fuse, FORMS)
    model = model if isinstance(model, Model) else Model.open(model)
    model.check()
    folder = place_in(Path(out), model, target, precision)
    check_not_read(folder, model.path)
    with output_folder(folder, force=force, wait=wait) as work:
        form: Form | None = "bank" if fuse == "bank" else "branches" if fuse == "branches" else None
        prepared = prepare_for(model, module, setting, form)
        _write(work, model, module, setting, prepared, atol, dict(measured or {}), kit=kit)
    return Artifact.open(folder)


def place_in(out: Path, model: Model, target: str, precision: str) -> Path:
    """Return the folder in `out` that an artifact of a model gets; the model's name may come from somebody's file.

    Raises:
        PoolError: the name is none for a folder.
        OutputError: it is too long for one.
    """
    where = f"the name in '{model.path}'"
    name = f"{check_name(model.name, where)}-{target}-{precision}"
    if len(name.encode()) > _LONGEST:
        raise OutputError(
            f"the artifact's folder would have a name of {len(name.encode())} bytes, and {_LONGEST} are allowed",
            hint="assemble it into a folder with a shorter name: its own name is that",
        )
    return out / name


def move(artifact: Artifact, place: Path, *, force: bool = False, wait: bool = False, **facts: Any) -> Artifact:
    """Move an artifact that was exported elsewhere on this disk to its place, with what was measured of it on record.

    Raises:
        OutputError: the place is taken and `force` is not set, or cannot be written.
    """
    with output_folder(place, force=force, wait=wait) as work:
        for path in list(artifact.path.iterdir()):
            path.rename(work / path.name)
        (work / ARTIFACT).write_text(dump_json(artifact.manifest | facts), encoding="utf-8")
    return Artifact.open(place)


def chosen_options(module: Target, **asked: Any) -> Any:
    """Return a target's options.

    Raises:
        UnsupportedError: it has no option of that name.
    """
    known = list(module.Options.__dataclass_fields__)
    for name in asked:
        if name not in known:
            raise UnsupportedError(
                f"target '{module.NAME}' has no option '{name}'", allowed=known, hint=nearest(name, known)
            )
    return module.Options(**asked)


def check_fuse(fuse: str | None, allowed: Sequence[str] = FUSE) -> None:
    """Refuse a form that there is not.

    Raises:
        UnsupportedError: as above.
    """
    if fuse is not None and fuse not in allowed:
        hint = nearest(fuse, allowed)
        if fuse == "auto":
            hint = "to measure both: kfdeploy export --fuse auto, or kfdeploy.measuring.fastest.export_fastest"
        raise UnsupportedError(f"--fuse is '{fuse}'", allowed=allowed, hint=hint)


def convert(module: Target, setting: Any, prepared: Prepared, work: Path) -> list[str]:
    """Write a prepared graph as the target's own files into `work`; return their names."""
    with tempfile.TemporaryDirectory() as place:
        return module.convert(write(prepared.graph, Path(place) / "model.onnx"), work, setting)


def _write(
    work: Path,
    model: Model,
    module: Target,
    setting: Any,
    prepared: Prepared,
    atol: float | None,
    measured: dict[str, float],
    *,
    kit: bool,
) -> None:
    evidence = model.evidence()
    name = f"'{model.name}-{module.NAME}-{setting.precision}'"
    steps, expected = _ladder(model, prepared, setting.precision, evidence.images, evidence.golden, atol, name)
    files = convert(module, setting, prepared, work)
    text = dump_json(described_as(model, model.open_set) | {"precision": setting.precision}).encode()
    golden: dict[str, Any] = {"image": evidence.images, "logits": evidence.golden, "expected": expected}
    np.savez(work / GOLDEN, **golden, **{ABOUT: np.frombuffer(text, np.uint8)})  # type: ignore[arg-type]
    allowed = allowed_in(setting.precision, expected, atol)
    manifest = _manifest(model, module, setting, prepared, measured, files)

    def record(**more: Any) -> None:
        manifest.update(more)
        (work / ARTIFACT).write_text(dump_json(manifest), encoding="utf-8")

    unable = module.can_run()
    record(verify={"engine_tolerance": allowed})
    build = getattr(module, "build", None)
    if kit or build is not None:  # what is built on the device always has what builds it
        record(kit=write_kit(work, module.KIT))
    if build is not None and not unable:
        build(work, setting)
    if not unable:
        with module.open(work, setting, Setup()) as session:
            held = {"batch": setting.batch, "thresholds": model.thresholds}
            found = compare(session, evidence.images, expected, model.tasks, allowed=allowed, **held)
            total = compare(session, evidence.images, evidence.golden, model.tasks, allowed=np.inf, **held)
        require(found, name)
        steps.append(found)
    else:
        total = judge(expected, evidence.golden, model.tasks, np.inf, steps[-1].step)
    record(
        executed=module.executed(work, setting),
        verify={
            "difference": total.difference,
            "tolerance": sum(step.tolerance for step in steps),
            "samples": total.samples,
            "tasks": dict(total.tasks),
            "steps": [step.to_json() for step in steps],
            "equal": total.equal,
            "engine_tolerance": allowed,
            "not_run": unable,
        },
        files=describe_files(work, [*(work / file for file in files), work / GOLDEN]),
    )


def _manifest(
    model: Model, module: Target, setting: Any, prepared: Prepared, measured: dict[str, float], files: list[str]
) -> dict[str, Any]:
    """Return what is on record of an artifact before it has run."""
    from kfdeploy.version import __version__

    return {
        **stamp("artifact", [task.to_json() for task in model.tasks]),
        "version": __version__,
        "model": {"kind": model.kind, "name": model.name, "sha256": sha256(model.graph)},
        "target": module.NAME,
        "precision": setting.precision,
        "options": asdict(setting),
        "fuse": {"form": prepared.form, "p50_ms": measured} if prepared.form else None,
        "image": model.image.to_json(),
        "tasks": [task.to_json() for task in model.tasks],
        **faces(model, setting.batch, setting.input),
        "open_set": model.open_set,
        "parameters": model.parameters,
        "model_files": files,
        "versions": versions("onnx", module.PACKAGE),
        "training": training_of(model),
        "data": shipped_data(model.data, model.data.get("images") or model.files[GRAPH]["sha256"]),
        "kit": [],
    }


def training_of(model: Model) -> dict[str, Any] | None:
    """Return how long a model was trained, in epochs of so many images: of an assembly, its whole pool."""
    found = model.training
    return None if found is None else {key: found[key] for key in ("epochs", "images", "models") if key in found}


def _ladder(
    model: Model,
    prepared: Prepared,
    precision: str,
    images: np.ndarray[Any, Any],
    golden: np.ndarray[Any, Any],
    atol: float | None,
    name: str,
) -> tuple[list[Verdict], np.ndarray[Any, Any]]:
    """Prove torch → ONNX → the precision's ONNX, and return the verdicts and the last one's logits."""
    outputs = outputs_of(model.tasks)
    logits = run_joined(prepared.float32, images, outputs)
    steps = [judge(logits, golden, model.tasks, tolerance(golden) if atol is None else atol, "onnx")]
    require(steps[0], name)
    if prepared.graph is prepared.float32:
        return steps, logits
    found = run_joined(prepared.graph, images, outputs)
    steps.append(judge(found, logits, model.tasks, allowed_in(precision, logits, atol), precision))
    if not steps[-1].passed:
        require(steps[-1], name, blame(prepared.float32, prepared.graph, images, model.tasks))
    return steps, found
