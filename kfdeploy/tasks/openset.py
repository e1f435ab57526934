"""None of these: the score that tells whether an image is of the assembled tasks at all, and its threshold.

The score is log Σ_c exp(logit_c) over the assembled classes (the negative free energy of Liu et al. 2020, Eq. 4, at
temperature 1). In a joint pool all logits were trained in one softmax, so that it falls where the mass is on classes
that were left out; with independent tasks it is the logarithm of the summed odds against "other". The output that
`graph.known` adds to a graph compares it with the threshold.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from kfdeploy.arrays import Floats
from kfdeploy.errors import PoolError, TaskError, UnsupportedError
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.spec import TaskSpec, class_names

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


def auroc(known: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:  # (P,), (Q,)
    """Return the chance that an image of these classes has a higher score than one of the others; ties count half."""
    both = np.concatenate([known, other])
    _, place, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # tied scores share their mean rank
    P, Q = len(known), len(other)
    return float((ranks[:P].sum() - P * (P + 1) / 2) / (P * Q)) if P and Q else float("nan")


def separation(evidence: Evidence, tasks: Sequence[TaskSpec]) -> dict[str, float]:
    """Return the AUROC of telling images of `classes` from others by the score, and by the largest softmax share.

    The latter is the usual baseline (Hendrycks & Gimpel 2017). The tasks are of one field; the columns of
    `evidence.logits` are theirs.
    """
    known = _known(evidence, tasks)
    ways = {"score": scores(evidence.logits), "softmax": evidence.logits.max(1) - scores(evidence.logits)}
    return {name: auroc(found[known], found[~known]) for name, found in ways.items()}


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
    known = _known(evidence, tasks)
    if known.all():
        raise TaskError(
            "no class is left out: every validation image is of one of these tasks, and of strangers nothing is known",
            hint="leave a task out, or --open-set",
        )
    found = scores(evidence.logits)
    other = np.sort(found[~known])
    allowed = int(np.floor(false_accept * len(other)))
    # Just above the highest score that has to be refused; float32, as the graph will hold it.
    threshold = np.nextafter(np.float32(other[len(other) - 1 - allowed]), np.float32(np.inf))
    return OpenSet(
        float(threshold), false_accept, float((found[known] >= threshold).mean()), auroc(found[known], other),
        int(known.sum()), int((~known).sum()),
    )  # fmt: skip


def _known(evidence: Evidence, tasks: Sequence[TaskSpec]) -> np.ndarray[Any, np.dtype[np.bool_]]:  # (V,)
    """Return which images are of these tasks."""
    return np.isin(evidence.labels[tasks[0].field], class_names(tasks))


def threshold_of(open_set: Mapping[str, Any] | None) -> float | None:
    """Return the threshold of an assembly or an artifact, from what its manifest says of it.

    Raises:
        PoolError: it is no finite number.
    """
    if open_set is None:
        return None
    found: Any = open_set.get("threshold") if isinstance(open_set, Mapping) else None
    if type(found) not in (int, float) or not math.isfinite(found):
        raise PoolError(
            f"the threshold of its open set is {found!r:.40}, and must be a finite number",
            hint="copy the folder again, or make it again",
        )
    return float(found)
