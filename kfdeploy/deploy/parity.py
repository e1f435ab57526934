"""Comparing a model's logits with the expected ones, task by task, and saying which step and module is to blame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kfdeploy.errors import ParityError, UnsupportedError
from kfdeploy.graph.known import known_beside
from kfdeploy.graph.reference import require_finite, run, tolerance
from kfdeploy.targets.base import Session, run_in_batches
from kfdeploy.tasks.openset import scores
from kfdeploy.tasks.spec import TaskSpec, fields_of, joined, widths_of

if TYPE_CHECKING:
    from onnx import ModelProto


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
    equal: float = 1.0  # the share of answers, one a field and sample, with the same likeliest class

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed; one that is not finite is not, whatever the tolerance."""
        return bool(np.isfinite(self.difference)) and self.difference <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "step": self.step,
            "difference": self.difference,
            "tolerance": self.tolerance,
            "samples": self.samples,
            "tasks": dict(self.tasks),
            "equal": self.equal,
        }


def allowed_in(precision: str, expected: np.ndarray[Any, Any], atol: float | None = None) -> float:
    """Return the largest difference allowed in a step that computes in `precision`: ours, or what was asked for.

    Raises:
        ParityError: an expected logit is not finite, which would allow everything.
    """
    require_finite(expected, "the golden logits")
    return TOLERANCE[precision] * max(1.0, float(np.abs(expected).max(initial=0))) if atol is None else atol


def check_atol(atol: float | None) -> None:
    """Refuse a tolerance that would let everything through, or nothing.

    Raises:
        UnsupportedError: as above.
    """
    if atol is not None and not (0 <= atol < np.inf):
        raise UnsupportedError(f"--atol is {atol}", allowed=("a number from 0 on, such as 0.001",))


def compare(
    session: Session,
    images: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    tasks: Sequence[TaskSpec],
    *,
    batch: int = 0,
    allowed: float | None = None,
    step: str = "engine",
    thresholds: Mapping[str, float] | None = None,
) -> Verdict:
    """Run golden images (G, H, W, C) and compare the outputs with the expected logits (G, C): names, shapes, values.

    Where `thresholds` has one for an output, the model also says whether an image is of its tasks at all (`known`),
    which must fit its logits.

    Raises:
        ParityError: an output is missing or has another shape, or `known` does not fit; there are no golden samples, or
            they are not finite.
    """
    widths, thresholds = widths_of(tasks), thresholds or {}
    count = sum(widths.values())
    if images.dtype != np.uint8 or not len(images) or expected.shape != (len(images), count):
        raise ParityError(
            f"{len(images)} golden images of {images.dtype} and golden logits of shape {expected.shape} prove nothing",
            allowed=(f"one uint8 image or more, and a logit for each of the {count} classes",),
            hint="copy the folder again, or make it again",
        )
    outputs = run_in_batches(session, images, batch)
    wanted = [*widths, *map(known_beside, thresholds)]
    if sorted(outputs) != sorted(wanted):
        raise ParityError(f"the model's outputs are {list(outputs)}", allowed=wanted)
    for name, width in widths.items():
        if outputs[name].shape != (len(images), width):
            raise ParityError(
                f"the model's {name} have shape {outputs[name].shape}, the golden samples' have {(len(images), width)}"
            )
    logits = joined(outputs, tasks)
    for name, threshold in thresholds.items():
        _fits(outputs, name, threshold, step)
    return judge(logits, expected, tasks, tolerance(expected) if allowed is None else allowed, step)


def _require_alike(logits: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    if logits.shape != expected.shape:
        raise ParityError(f"the model's logits have shape {logits.shape}, the golden samples' have {expected.shape}")


def _fits(outputs: Mapping[str, np.ndarray[Any, Any]], name: str, threshold: float, step: str) -> None:
    """Refuse an output `known` that is not what the logits of the output called `name` give."""
    known, score = outputs[known_beside(name)], scores(outputs[name])
    if known.shape != score.shape:
        raise ParityError(f"the model's output '{known_beside(name)}' has shape {known.shape}, and not {score.shape}")
    # Bfloat16, the coarsest that any target computes in, has 8 bits; the float32 graph is held to float32.
    least = TOLERANCE["fp32"] if step == "onnx" else 2**-7
    size = max(1.0, abs(threshold), float(np.abs(score).max(initial=0)))
    apart = np.nan_to_num(np.abs(known - (score - threshold)), nan=np.inf, posinf=np.inf)
    worst = float(apart.max(initial=0))
    if not (np.isfinite(worst) and worst <= least * size):
        raise ParityError(
            f"the model's output '{known_beside(name)}' differs by {worst:.3g} from what its logits give, "
            f"and {least * size:.3g} is allowed"
        )


def judge(
    logits: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    tasks: Sequence[TaskSpec],
    allowed: float,
    step: str = "engine",
) -> Verdict:
    """Compare logits (G, C) with the expected ones, task by task.

    Raises:
        ParityError: an expected logit is not finite, or they are of different shapes.
    """
    _require_alike(logits, expected)
    require_finite(expected, "the golden logits")
    # A NaN compares as nothing: make it the worst there is.
    difference = np.nan_to_num(np.abs(logits - expected), nan=np.inf, posinf=np.inf).max(0, initial=0)
    by_task, start = {}, 0
    for task in tasks:
        by_task[task.name] = float(difference[start : start + len(task.classes)].max(initial=0))
        start += len(task.classes)
    same = [logits[:, own].argmax(1) == expected[:, own].argmax(1) for own in fields_of(tasks).values()]
    equal = float(np.mean(same)) if logits.size else 1.0
    return Verdict(float(difference.max(initial=0)), allowed, len(logits), by_task, step, equal)


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
    wrong = [
        name
        for name, difference in verdict.tasks.items()
        if not (np.isfinite(difference) and difference <= verdict.tolerance)
    ]
    if len(wrong) == len(verdict.tasks):
        return "the CKN" if len(wrong) > 1 else "the CKN or the only task's network"
    return f"the network of {', '.join(repr(name) for name in wrong)}"


def blame(before: "ModelProto", after: "ModelProto", images: np.ndarray[Any, Any], tasks: Sequence[TaskSpec]) -> str:
    """Return which module of an assembly differs most between two of its graphs, relative to its own features.

    Both are run by ONNX Runtime with the modules' outputs, which have the same names in both, given out besides.
    """
    from kfdeploy.graph.heads import head_inputs

    common, own = head_inputs(before, len(tasks))
    if not common:
        return ""
    names = list(dict.fromkeys([common, *own]))
    found = [run(model, images, names) for model in (before, after)]
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


def _round_up(value: float) -> float:
    """Round up to two digits, so that a printed tolerance passes."""
    digits = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(np.ceil(value / digits) * digits)
