"""Proving an artifact right: the same images through it and, on record, through the torch network; task by task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfdeploy.errors import ParityError, PoolError
from kfdeploy.pool import tolerance
from kfdeploy.spec import TaskSpec
from kfdeploy.targets.base import Arrays, Session

if TYPE_CHECKING:
    from kfdeploy.pool import Pool


@dataclass(frozen=True)
class Verdict:
    """What was observed: the largest difference, by task, what is allowed, and over how many samples."""

    difference: float
    tolerance: float
    samples: int
    tasks: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed; one that is not a number is not."""
        return self.difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "difference": self.difference,
            "tolerance": self.tolerance,
            "samples": self.samples,
            "tasks": dict(self.tasks),
        }


def run_in_batches(session: Session, images: np.ndarray[Any, Any], batch: int) -> Arrays:
    """Run all images, `batch` at a time (0: all at once); a last, smaller batch is filled up and cut off again."""
    size = batch or len(images)
    found: list[Arrays] = []
    for start in range(0, len(images), size):
        piece = images[start : start + size]
        short = size - len(piece)
        filled = np.concatenate([piece, np.repeat(piece[-1:], short, axis=0)]) if short and batch else piece
        found.append({name: array[: len(piece)] for name, array in session.run({"image": filled}).items()})
    return {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}


def compare(
    session: Session,
    images: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    tasks: Sequence[TaskSpec],
    *,
    batch: int = 0,
    allowed: float | None = None,
) -> Verdict:
    """Run golden images (G, H, W, C) and compare the logits with the expected ones (G, C): names, shapes, values.

    Raises:
        ParityError: an output is missing or has another shape.
    """
    outputs = run_in_batches(session, images, batch)
    if list(outputs) != ["logits"]:
        raise ParityError(f"the model's outputs are {list(outputs)}", allowed=["logits"])
    logits = outputs["logits"]
    if logits.shape != expected.shape:
        raise ParityError(f"the model's logits have shape {logits.shape}, the golden samples' have {expected.shape}")
    # A NaN compares as nothing: make it the worst there is.
    difference = np.nan_to_num(np.abs(logits - expected), nan=np.inf).max(0, initial=0)
    by_task, start = {}, 0
    for task in tasks:
        by_task[task.name] = float(difference[start : start + len(task.classes)].max(initial=0))
        start += len(task.classes)
    limit = tolerance(expected) if allowed is None else allowed
    return Verdict(float(difference.max(initial=0)), limit, len(images), by_task)


def require(verdict: Verdict, what: str) -> None:
    """Refuse a model whose difference is not allowed.

    Raises:
        ParityError: with the worst task and the tolerance that would have passed.
    """
    if verdict.passed:
        return
    worst = max(verdict.tasks, key=lambda name: verdict.tasks[name])
    would = f"--atol {_round_up(verdict.difference):.2g}" if np.isfinite(verdict.difference) else "no tolerance"
    raise ParityError(
        f"{what} differs from the torch network by {verdict.difference:.3g} on {verdict.samples} golden samples, and "
        f"{verdict.tolerance:.3g} is allowed (worst task: '{worst}')",
        hint=f"{would} would have passed",
    )


def verify(path: str | Path, *, atol: float | None = None, threads: int = 1) -> Verdict:
    """Verify an artifact, an assembly, a student or a pool again: its files' hashes, then its golden samples.

    Raises:
        PoolError: a file is missing, truncated or altered.
        ParityError: the difference is above the tolerance.
    """
    from kfdeploy import artifact, model, pool
    from kfdeploy.targets.base import Device

    path = Path(path)
    if (path / artifact.MANIFEST).is_file():
        exported = artifact.Artifact.open(path)
        exported.check()
        images, golden = exported.golden()
        with exported.session(Device(threads=threads)) as session:
            verdict = compare(session, images, golden, exported.tasks, batch=exported.batch, allowed=atol)
    elif (path / pool.MANIFEST).is_file():
        verdict = _verify_pool(pool.Pool.open(path), atol, threads)
    else:
        from kfdeploy.targets import onnx

        network = model.Model.open(path)
        network.check()
        evidence = network.evidence()
        with onnx.open(network.path, Device(threads=threads)) as session:
            verdict = compare(session, evidence.images, evidence.golden, network.tasks, allowed=atol)
    require(verdict, f"'{path}'")
    return verdict


def find(paths: Sequence[str | Path]) -> list[Path]:
    """Return what to verify: the named folders, or all artifacts here, else the assembly, else the pool.

    Raises:
        PoolError: none was named and there is none here.
    """
    if paths:
        return [Path(path) for path in paths]
    artifacts = sorted(path.parent for path in Path("artifacts").glob("*/manifest.json"))
    found = artifacts or [path for path in (Path("assembly"), Path("pool")) if path.is_dir()][:1]
    if not found:
        raise PoolError("there is nothing to verify here", hint="kfdeploy verify <artifact, assembly, student or pool>")
    return found


def _verify_pool(whole: "Pool", atol: float | None, threads: int) -> Verdict:
    """Check every file of a pool, and every task at once against the golden samples."""
    import tempfile

    from kfdeploy.compose import compose
    from kfdeploy.targets import onnx
    from kfdeploy.targets.base import Device

    whole.check()
    common, template = whole.graphs()
    graph = compose(common, template, [whole.part(task) for task in whole.tasks], "branches")
    evidence = whole.evidence()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / onnx.MODEL).write_bytes(graph.SerializeToString())
        with onnx.open(Path(folder), Device(threads=threads)) as session:
            return compare(session, evidence.images, evidence.golden, whole.tasks, allowed=atol)


def _round_up(value: float) -> float:
    """Round up to two digits, so that a printed tolerance passes."""
    digits = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(np.ceil(value / digits) * digits)
