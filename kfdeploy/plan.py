"""What a subset of tasks is worth, exactly, from stored logits: a task's logits do not depend on its neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kfdeploy.pool import Evidence


@dataclass(frozen=True)
class Accuracy:
    """A share of images that are classified right, and their number."""

    value: float
    images: int


def subset_accuracy(evidence: Evidence, classes: Sequence[str]) -> Accuracy:
    """Return the accuracy over the images whose class is among `classes`: argmax over those classes' columns.

    `classes` are the columns of `evidence.logits`, in their order.
    """
    column = {name: i for i, name in enumerate(classes)}
    labels = np.array([column.get(name, -1) for name in evidence.labels])
    inside = labels >= 0
    right = evidence.logits[inside].argmax(1) == labels[inside]
    return Accuracy(float(right.mean()) if len(right) else float("nan"), int(inside.sum()))


def shares(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:  # (N, C) → (N, C)
    """Return the softmax over the classes of a subset: their distribution, given that it is one of them."""
    wide = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    out: np.ndarray[Any, np.dtype[np.float64]] = wide / wide.sum(1, keepdims=True)
    return out


def calibration_error(evidence: Evidence, classes: Sequence[str], bins: int = 15) -> float:
    """Return the expected calibration error of a subset (Guo et al. 2017, Eq. 3) over the images whose class is in it.

    Confidence is the largest share; `bins` are of equal width. `classes` are the columns of `evidence.logits`.
    """
    column = {name: i for i, name in enumerate(classes)}
    labels = np.array([column.get(name, -1) for name in evidence.labels])
    inside = labels >= 0
    share = shares(evidence.logits[inside])
    confidence, right = share.max(1), share.argmax(1) == labels[inside]
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = [
        abs(float(right[place == b].mean() - confidence[place == b].mean())) * (place == b).mean() for b in set(place)
    ]
    return float(sum(gaps))


def calibrate(
    logits: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], owner: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.float64]]:  # (V, C), (V,), (C,) → (K,)
    """Return each task's temperature: what its log-odds against "other" are divided by (Guo et al. 2017, section 4.2).

    It minimises the task's negative log-likelihood on these images; between 1/20 and 20.
    """
    from scipy.optimize import minimize_scalar

    found = []
    for task in range(int(owner.max()) + 1):
        own = np.flatnonzero(owner == task)
        odds = np.concatenate([np.zeros((len(logits), 1)), logits[:, own].astype(np.float64)], 1)
        column = np.searchsorted(own, labels)
        mine = (column < len(own)) & (own[np.minimum(column, len(own) - 1)] == labels)
        target = np.where(mine, column + 1, 0)

        def loss(log_t: float, odds: Any = odds, target: Any = target) -> float:
            scaled = odds / np.exp(log_t)
            top = scaled.max(1)
            lse = top + np.log(np.exp(scaled - top[:, None]).sum(1))
            return float((lse - scaled[np.arange(len(scaled)), target]).mean())

        best = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded", options={"xatol": 1e-4})
        found.append(float(np.exp(best.x)))
    return np.array(found)
