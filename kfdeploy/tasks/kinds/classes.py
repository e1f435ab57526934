"""Classes: argmax over the columns of logits, and what is counted of it. Pure arrays, for a device as for a pool.

Logits are (N, C), a column a class; labels are (N,), columns of the logits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Labels = np.ndarray[Any, np.dtype[np.int64]]


def label_columns(labels: Sequence[str], classes: Sequence[str]) -> Labels:
    """Return the column of each label (N,), a class's name, among `classes`; -1 where it is none of them."""
    column = {name: i for i, name in enumerate(classes)}
    return np.array([column.get(name, -1) for name in labels], dtype=np.int64)


def accuracy(logits: np.ndarray[Any, Any], labels: Labels) -> float:
    """Return the share of images whose largest logit is their label's; NaN where there are no images."""
    return float((logits.argmax(1) == labels).mean()) if len(labels) else float("nan")


def auroc(known: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:  # (P,), (Q,)
    """Return the chance that one of these scores is higher than one of the others; ties count half."""
    both = np.concatenate([known, other])
    _, place, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # tied scores share their mean rank
    P, Q = len(known), len(other)
    return float((ranks[:P].sum() - P * (P + 1) / 2) / (P * Q)) if P and Q else float("nan")


def auc(logits: np.ndarray[Any, Any], labels: Labels) -> float:
    """Return the mean over the classes of the area under the curve of each against the rest, by its share.

    Images without a label (-1) do not count, nor classes that none of the others is of; NaN where there is none.
    """
    share, labels = shares(logits[labels >= 0]), labels[labels >= 0]
    each = [auroc(share[labels == c, c], share[labels != c, c]) for c in np.unique(labels)]
    return float(np.mean(each)) if each else float("nan")


def confusion(logits: np.ndarray[Any, Any], labels: Labels) -> Labels:
    """Return how many images of each class (a row) are taken for each (a column): (C, C)."""
    found = np.zeros((logits.shape[1], logits.shape[1]), np.int64)
    np.add.at(found, (labels, logits.argmax(1)), 1)
    return found


def worst_pairs(table: Labels, most: int = 10) -> list[tuple[int, int]]:
    """Return which classes (rows of a confusion (C, C)) are most often taken for which others, the worst first."""
    wrong = np.where(np.eye(len(table), dtype=bool), 0, table).ravel()
    order = np.argsort(-wrong, kind="stable")[:most]
    return [(int(i) // len(table), int(i) % len(table)) for i in order if wrong[i]]


def shares(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:  # (N, C) → (N, C)
    """Return the softmax over the classes of a subset: their distribution, given that it is one of them."""
    wide = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    out: np.ndarray[Any, np.dtype[np.float64]] = wide / wide.sum(1, keepdims=True)
    return out


def calibration_error(logits: np.ndarray[Any, Any], labels: Labels, bins: int = 15) -> float:
    """Return the expected calibration error (Guo et al. 2017, Eq. 3); `bins` of the confidence are of equal width."""
    share = shares(logits)
    confidence, right = share.max(1), share.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = [
        abs(float(right[place == b].mean() - confidence[place == b].mean())) * (place == b).mean() for b in set(place)
    ]
    return float(sum(gaps))
