"""None of these: the score that tells whether an image is of the assembled tasks at all, and its threshold.

The score is log Σ_c exp(logit_c) over the assembled classes (the negative free energy of Liu et al. 2020, Eq. 4, at
temperature 1). In a joint pool all logits were trained in one softmax, so that it falls where the mass is on classes
that were left out; with independent tasks it is the logarithm of the summed odds against "other". The output that
`graph.known` adds to a graph compares it with the threshold.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from kfdeploy.arrays import Floats
from kfdeploy.errors import PoolError, TaskError, UnsupportedError
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.kinds.classes import auroc
from kfdeploy.tasks.spec import CLASS, TaskSpec, class_names, fields_of

FALSE_ACCEPT = 0.05


@dataclass(frozen=True)
class OpenSet:
    """A threshold, what it was chosen for, and what it was seen to do on the validation images it was chosen on."""

    threshold: float  # of the score; the output `known` is the score less this
    false_accept: float  # the share of images of other classes that was to be accepted at most
    accepted: float  # the share of images of these classes that is accepted
    auroc: float  # of the score, these classes against the others
    known_images: int
    other_images: int

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}


def scores(logits: np.ndarray[Any, Any]) -> Floats:  # (N, C) → (N,)
    """Return log Σ_c exp(logit_c)."""
    wide = logits.astype(np.float64)
    top = wide.max(1)
    found: Floats = top + np.log(np.exp(wide - top[:, None]).sum(1))
    return found


def separation(evidence: Evidence, tasks: Sequence[TaskSpec]) -> dict[str, float]:
    """Return the AUROC of telling images of `classes` from others by the score, and by the largest softmax share.

    The latter is the usual baseline (Hendrycks & Gimpel 2017). The tasks are of one field; the columns of
    `evidence.logits` are theirs.
    """
    known, other = _known(evidence, tasks), _other(evidence, tasks)
    ways = {"score": scores(evidence.logits), "softmax": evidence.logits.max(1) - scores(evidence.logits)}
    return {name: auroc(found[known], found[other]) for name, found in ways.items()}


def open_sets(evidence: Evidence, tasks: Sequence[TaskSpec], false_accept: float = FALSE_ACCEPT) -> dict[str, OpenSet]:
    """Choose a threshold for each field of which a class is left out, on its own columns; see `open_set`.

    A field that these tasks hold whole has none: they answer for every image.

    Raises:
        UnsupportedError: as `open_set`.
        PoolError: as `open_set`.
        TaskError: no field has a class left out.
    """
    fields = fields_of(tasks)
    if len(fields) == 1:
        return {field: open_set(evidence, tasks, false_accept) for field in fields}
    found = {}
    for field, columns in fields.items():
        own = [task for task in tasks if task.field == field]
        seen = replace(evidence, logits=evidence.logits[:, columns])
        if not len(seen.logits) or _other(seen, own).any():
            found[field] = open_set(seen, own, false_accept)
    if not found:
        raise TaskError(
            f"no class of {', '.join(fields)} is left out: each of these answers for every image, and of strangers "
            "nothing is known",
            hint="leave a task out of a field that has several, or --open-set",
        )
    return found


def described(found: Mapping[str, OpenSet], tasks: Sequence[TaskSpec]) -> dict[str, Any]:
    """Return what the manifest of these tasks says of thresholds by field; see `by_field`."""
    each = {field: one.to_json() | {"threshold": one.threshold} for field, one in found.items()}
    return each[CLASS] if all(task.field == CLASS for task in tasks) else each


def open_set(evidence: Evidence, tasks: Sequence[TaskSpec], false_accept: float = FALSE_ACCEPT) -> OpenSet:
    """Choose the lowest threshold at which at most `false_accept` of the other classes' validation images are accepted.

    The tasks are of one field, and the columns of `evidence.logits` are theirs; images of other classes are those of
    the pool's tasks that were left out.

    Raises:
        UnsupportedError: the rate is not a share.
        PoolError: there are no validation logits to choose on.
        TaskError: no class was left out, so that nothing is known of strangers.
    """
    if not 0 <= false_accept < 1:
        raise UnsupportedError(f"--false-accept is {false_accept:g}", allowed=("a share from 0 to 1, such as 0.05",))
    if not len(evidence.logits):
        raise PoolError(
            "a threshold for 'none of these' is chosen on validation logits, and there are none for these tasks",
            hint="assemble from the pool itself, without --open-set otherwise",
        )
    known, strangers = _known(evidence, tasks), _other(evidence, tasks)
    if not strangers.any():
        raise TaskError(
            "no class is left out: every validation image is of one of these tasks, and of strangers nothing is known",
            hint="leave a task out, or --open-set",
        )
    found = scores(evidence.logits)
    other = np.sort(found[strangers])
    allowed = int(np.floor(false_accept * len(other)))
    # Just above the highest score that has to be refused; float32, as the graph will hold it.
    threshold = np.nextafter(np.float32(other[len(other) - 1 - allowed]), np.float32(np.inf))
    return OpenSet(
        float(threshold), false_accept, float((found[known] >= threshold).mean()), auroc(found[known], other),
        int(known.sum()), int(strangers.sum()),
    )  # fmt: skip


def _known(evidence: Evidence, tasks: Sequence[TaskSpec]) -> np.ndarray[Any, np.dtype[np.bool_]]:  # (V,)
    """Return which images are of these tasks."""
    return np.isin(evidence.labels[tasks[0].field], class_names(tasks))


def _other(evidence: Evidence, tasks: Sequence[TaskSpec]) -> np.ndarray[Any, np.dtype[np.bool_]]:  # (V,)
    """Return which images are of other classes of these tasks' field; of some nothing is known."""
    return np.isin(evidence.labels[tasks[0].field], [*class_names(tasks), ""], invert=True)


def by_field(open_set: Mapping[str, Any] | None, tasks: Sequence[TaskSpec]) -> dict[str, Any]:
    """Return what a manifest says of an open set by field, in the order of these tasks'.

    Of the field `class` alone it does not name it.
    """
    if open_set is None:
        return {}
    if not isinstance(open_set, Mapping) or all(task.field == CLASS for task in tasks):
        return {CLASS: open_set}
    order = [*fields_of(tasks), *open_set]  # a manifest's own is that of letters
    return {field: open_set[field] for field in dict.fromkeys(order) if field in open_set}


_AGAIN = "copy the folder again, or make it again"


def thresholds_of(open_set: Mapping[str, Any] | None, tasks: Sequence[TaskSpec]) -> dict[str, float]:
    """Return the thresholds of an assembly or an artifact by output, from what its manifest says of its open set.

    Raises:
        PoolError: one is no finite number, or of a field that it does not have.
    """
    outputs = {task.field: task.output for task in tasks}
    found = {}
    for field, about in by_field(open_set, tasks).items():
        value: Any = about.get("threshold") if isinstance(about, Mapping) else None
        if type(value) not in (int, float) or not math.isfinite(value):
            raise PoolError(f"the threshold of its open set is {value!r:.40}, and must be a finite number", hint=_AGAIN)
        if field not in outputs:
            raise PoolError(f"its open set is of the field {field!r:.80}, and it has none such", hint=_AGAIN)
        found[outputs[field]] = float(value)
    return found
