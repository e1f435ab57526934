"""Proving an artifact right: golden images through every step from the torch network to the engine, task by task.

torch → ONNX → the precision's ONNX → the engine. Each step is compared with the one before it, so that a failure says
which step failed, and which module is to blame: the CKN, or which task's network.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfdeploy.errors import ParityError, PoolError
from kfdeploy.openset import KNOWN, scores, threshold_of
from kfdeploy.pool import tolerance
from kfdeploy.spec import TaskSpec
from kfdeploy.store import locate
from kfdeploy.targets.base import Arrays, Session

if TYPE_CHECKING:
    from onnx import ModelProto

    from kfdeploy.pool import Pool


# The largest difference allowed in one step, over max(1, largest logit). float16 rounds to 2^-11, int8 to 2^-8 of each
# tensor's range, a dozen layers deep; whether that costs accuracy is measured, not bounded.
TOLERANCE: Mapping[str, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.2}


@dataclass(frozen=True)
class Verdict:
    """What was observed: the largest difference, by task, what is allowed, and over how many samples."""

    difference: float
    tolerance: float
    samples: int
    tasks: Mapping[str, float]
    step: str = "engine"

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed; one that is not a number is not."""
        return self.difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "step": self.step,
            "difference": self.difference,
            "tolerance": self.tolerance,
            "samples": self.samples,
            "tasks": dict(self.tasks),
        }


def allowed_in(precision: str, expected: np.ndarray[Any, Any], atol: float | None = None) -> float:
    """Return the largest difference allowed in a step that computes in `precision`."""
    return TOLERANCE[precision] * max(1.0, float(np.abs(expected).max(initial=0))) if atol is None else atol


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
    step: str = "engine",
    threshold: float | None = None,
) -> Verdict:
    """Run golden images (G, H, W, C) and compare the logits with the expected ones (G, C): names, shapes, values.

    With a `threshold` the model also says whether an image is of its tasks at all (`known`), which must fit its logits.

    Raises:
        ParityError: an output is missing or has another shape, or `known` does not fit.
    """
    outputs = run_in_batches(session, images, batch)
    wanted = ["logits"] if threshold is None else ["logits", KNOWN]
    if sorted(outputs) != sorted(wanted):
        raise ParityError(f"the model's outputs are {list(outputs)}", allowed=wanted)
    logits = outputs["logits"]
    if logits.shape != expected.shape:
        raise ParityError(f"the model's logits have shape {logits.shape}, the golden samples' have {expected.shape}")
    if threshold is not None:
        _fits(outputs[KNOWN], logits, threshold, step)
    return judge(logits, expected, tasks, tolerance(expected) if allowed is None else allowed, step)


def _fits(known: np.ndarray[Any, Any], logits: np.ndarray[Any, Any], threshold: float, step: str) -> None:
    """Refuse an output `known` that is not what its own logits give."""
    score = scores(logits)
    if known.shape != score.shape:
        raise ParityError(f"the model's output 'known' has shape {known.shape}, and not {score.shape}")
    # Bfloat16, the coarsest that any target computes in, has 8 bits; the float32 graph is held to float32.
    least = TOLERANCE["fp32"] if step == "onnx" else 2**-7
    size = max(1.0, abs(threshold), float(np.abs(score).max(initial=0)))
    worst = float(np.nan_to_num(np.abs(known - (score - threshold)), nan=np.inf).max(initial=0))
    if not worst <= least * size:
        raise ParityError(
            f"the model's output 'known' differs by {worst:.3g} from what its logits give, "
            f"and {least * size:.3g} is allowed"
        )


def judge(
    logits: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    tasks: Sequence[TaskSpec],
    allowed: float,
    step: str = "engine",
) -> Verdict:
    """Compare logits (G, C) with the expected ones, task by task."""
    # A NaN compares as nothing: make it the worst there is.
    difference = np.nan_to_num(np.abs(logits - expected), nan=np.inf).max(0, initial=0)
    by_task, start = {}, 0
    for task in tasks:
        by_task[task.name] = float(difference[start : start + len(task.classes)].max(initial=0))
        start += len(task.classes)
    return Verdict(float(difference.max(initial=0)), allowed, len(logits), by_task, step)


def require(verdict: Verdict, what: str, blame: str = "") -> None:
    """Refuse a model whose difference is not allowed.

    Raises:
        ParityError: with the step, the module to blame, and the tolerance that would have passed.
    """
    if verdict.passed:
        return
    worst = max(verdict.tasks, key=lambda name: verdict.tasks[name])
    would = f"--atol {_round_up(verdict.difference):.2g}" if np.isfinite(verdict.difference) else "no tolerance"
    against = {"onnx": "the torch network", "engine": "the ONNX graph it was made from"}.get(
        verdict.step, "the float32 graph"
    )
    step = "" if verdict.step == "onnx" else f", step '{verdict.step}',"
    raise ParityError(
        f"{what}{step} differs from {against} by {verdict.difference:.3g} on {verdict.samples} "
        f"golden samples, and {verdict.tolerance:.3g} is allowed (worst task: '{worst}'; to blame: "
        f"{blame or suspect(verdict)})",
        hint=f"{would} would have passed",
    )


def suspect(verdict: Verdict) -> str:
    """Return the module that a verdict points at: one task's network where its task alone is wrong, else the CKN."""
    wrong = [name for name, difference in verdict.tasks.items() if not difference <= verdict.tolerance]
    if len(wrong) == len(verdict.tasks):
        return "the CKN" if len(wrong) > 1 else "the CKN or the only task's network"
    return f"the network of {', '.join(repr(name) for name in wrong)}"


def blame(before: "ModelProto", after: "ModelProto", images: np.ndarray[Any, Any], tasks: Sequence[TaskSpec]) -> str:
    """Return which module of an assembly differs most between two of its graphs, relative to its own features.

    Both are run by ONNX Runtime with the modules' outputs, which have the same names in both, given out besides.
    """
    from kfdeploy.heads import inputs
    from kfdeploy.quantize import with_outputs

    common, own = inputs(before, len(tasks))
    if not common:
        return ""
    names = list(dict.fromkeys([common, *own]))
    found = []
    for model in (before, after):
        session = _in_memory(with_outputs(model, names))
        found.append(dict(zip(names, session.run(names, {"image": images}), strict=True)))
    errors = {"the CKN": _relative(found[0][common], found[1][common])}
    for j, (task, name) in enumerate(zip(tasks, own, strict=True)):
        bank = name.startswith("bank/")
        pieces = [np.split(side[name], len(tasks), 1)[j] if bank else side[name] for side in found]
        errors[f"the network of '{task.name}'"] = _relative(*pieces)
    # A TSN reads the CKN: where the CKN is as wrong as what follows it, it comes first.
    worst = max(errors, key=lambda name: errors[name])
    return "the CKN" if errors["the CKN"] >= 0.5 * errors[worst] else worst


def _relative(expected: np.ndarray[Any, Any], seen: np.ndarray[Any, Any]) -> float:
    error = float(np.linalg.norm(seen - expected) / max(float(np.linalg.norm(expected)), 1e-12))
    return error if np.isfinite(error) else np.inf


def _in_memory(model: "ModelProto") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def logits_of(graph: "ModelProto", images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a graph's logits (N, C) on ONNX Runtime's CPU, the reference of every other runtime."""
    logits: np.ndarray[Any, Any] = _in_memory(graph).run(["logits"], {"image": images})[0]
    return logits


def verify(path: str | Path, *, atol: float | None = None, threads: int = 1) -> Verdict:
    """Verify an artifact, an assembly, a student or a pool again: its files' hashes, then its golden samples.

    Raises:
        PoolError: a file is missing, truncated or altered.
        ParityError: the difference is above the tolerance.
    """
    from kfdeploy import artifact, model, pool
    from kfdeploy.targets.base import Device

    path = locate(path)
    if isinstance(path, str):  # only pools are read from servers
        verdict = _verify_pool(pool.Pool.open(path), atol, threads)
    elif (path / artifact.MANIFEST).is_file():
        exported = artifact.Artifact.open(path)
        exported.check()
        images, _, expected = exported.golden()
        allowed = exported.manifest["verify"]["engine_tolerance"] if atol is None else atol
        with exported.session(Device(threads=threads)) as session:
            verdict = compare(
                session, images, expected, exported.tasks, batch=exported.batch, allowed=allowed,
                threshold=threshold_of(exported.manifest),
            )  # fmt: skip
    elif (path / pool.MANIFEST).is_file():
        verdict = _verify_pool(pool.Pool.open(path), atol, threads)
    else:
        from kfdeploy.targets import onnx

        network = model.Model.open(path)
        network.check()
        evidence = network.evidence()
        with onnx.open(network.path, onnx.Options(), Device(threads=threads)) as session:
            verdict = compare(
                session, evidence.images, evidence.golden, network.tasks, allowed=atol, step="onnx",
                threshold=threshold_of(network.manifest),
            )  # fmt: skip
    require(verdict, f"'{path}'")
    return verdict


def find(paths: Sequence[str | Path]) -> list[Path | str]:
    """Return what to verify: the named folders, or all artifacts here, else the assembly, else the pool.

    Raises:
        PoolError: none was named and there is none here.
    """
    if paths:
        return [locate(path) for path in paths]
    artifacts = sorted(path.parent for path in Path("artifacts").glob("*/manifest.json"))
    found = artifacts or [path for path in (Path("assembly"), Path("pool")) if path.is_dir()][:1]
    if not found:
        raise PoolError("there is nothing to verify here", hint="kfdeploy verify <artifact, assembly, student or pool>")
    return [*found]


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
        with onnx.open(Path(folder), onnx.Options(), Device(threads=threads)) as session:
            return compare(session, evidence.images, evidence.golden, whole.tasks, allowed=atol, step="onnx")


def _round_up(value: float) -> float:
    """Round up to two digits, so that a printed tolerance passes."""
    digits = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(np.ceil(value / digits) * digits)
