"""What a subset of tasks is worth, exactly, from stored logits: a task's logits do not depend on its neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from kfdeploy.errors import TaskError
from kfdeploy.pool import Evidence
from kfdeploy.spec import TaskSpec, class_names, columns


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


def confusion(evidence: Evidence, classes: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:  # (C, C)
    """Return how many images of each class (a row) are taken for each (a column), over the images of these classes."""
    column = {name: i for i, name in enumerate(classes)}
    labels = np.array([column.get(name, -1) for name in evidence.labels])
    inside = labels >= 0
    found = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(found, (labels[inside], evidence.logits[inside].argmax(1)), 1)
    return found


def masked(evidence: Evidence, known: Sequence[str], wanted: Sequence[str]) -> Evidence:
    """Return a model's evidence with the columns of `wanted` alone, in that order: the model masked to them.

    Raises:
        TaskError: it does not know one of them.
    """
    chosen = columns(known, wanted)
    return replace(evidence, golden=evidence.golden[:, chosen], logits=evidence.logits[:, chosen])


@dataclass(frozen=True)
class Subsets:
    """Every task's validation logits, ready for the accuracy of any subset of tasks: arithmetic, and nothing is run."""

    names: tuple[str, ...]
    owner: np.ndarray[Any, np.dtype[np.int64]]  # (C,) the task of each column
    labels: np.ndarray[Any, np.dtype[np.int64]]  # (V,) the column of each image, -1: of no task
    logits: np.ndarray[Any, np.dtype[np.float32]]  # (V, C)

    @classmethod
    def of(cls, evidence: Evidence, tasks: Sequence[TaskSpec]) -> "Subsets":
        """Return the subsets of these tasks, whose classes are the evidence's columns."""
        classes = class_names(tuple(tasks))
        column = {name: i for i, name in enumerate(classes)}
        owner = np.repeat(np.arange(len(tasks)), [len(task.classes) for task in tasks])
        labels = np.array([column.get(name, -1) for name in evidence.labels], dtype=np.int64)
        return cls(tuple(task.name for task in tasks), owner, labels, evidence.logits)

    def accuracy(self, chosen: Sequence[int]) -> float:
        """Return the share of images of these tasks (indices) that are classified right among their classes."""
        own = np.flatnonzero(np.isin(self.owner, list(chosen)))
        inside = np.isin(self.labels, own)
        right = own[self.logits[inside][:, own].argmax(1)] == self.labels[inside]
        return float(right.mean()) if len(right) else float("nan")

    def best(self, size: int, most: int = 5000) -> tuple[list[int], float, bool]:
        """Return the most accurate subset of `size` tasks, its accuracy, and whether all of them were looked at.

        Where there are more than `most`, tasks are left out one after another, each time the one whose going helps
        most.
        """
        if comb(len(self.names), size) <= most:
            found = max(combinations(range(len(self.names)), size), key=self.accuracy)
            return list(found), self.accuracy(found), True
        left = list(range(len(self.names)))
        while len(left) > size:
            left = max(([i for i in left if i != gone] for gone in left), key=self.accuracy)
        return left, self.accuracy(left), False


@dataclass(frozen=True)
class Choice:
    """A chosen subset: indices of tasks, its accuracy, and whether every subset of that size was looked at."""

    tasks: tuple[int, ...]
    accuracy: float
    all: bool


def choose_subset(
    subsets: Subsets, *, size: int | None = None, within: int | None = None, min_accuracy: float | None = None
) -> Choice:
    """Return the most accurate subset of `size` tasks, or the largest of at most `within` that is accurate enough.

    Raises:
        TaskError: nothing meets what is asked; it names the nearest that there is.
    """
    count = len(subsets.names)
    if size is not None and size > count:
        raise TaskError(f"{size} tasks were asked for, and there are {count}", hint=f"--size {count}")
    if within is not None and within < 1:
        raise TaskError("not one task fits into the budget", hint="a larger --budget-ms: see the costs of one task")
    largest = min(size or count, within or count)
    if size is not None and largest < size:
        raise TaskError(f"{size} tasks do not fit into the budget; the nearest is {largest}", hint=f"--size {largest}")
    nearest: Choice | None = None
    for k in [size] if size else range(largest, 0, -1):
        if min_accuracy is not None and k < 2 and len(subsets.owner) == count:
            break  # a single class is right always, and tells nothing
        tasks, accuracy, whole = subsets.best(k)
        found = Choice(tuple(tasks), accuracy, whole)
        if min_accuracy is None or accuracy >= min_accuracy:
            return found
        if nearest is None or accuracy > nearest.accuracy:
            nearest = found
    best = (
        ""
        if nearest is None
        else (
            f"; the nearest is {', '.join(subsets.names[i] for i in nearest.tasks)} with {100 * nearest.accuracy:.2f} %"
        )
    )
    raise TaskError(f"no subset reaches {100 * (min_accuracy or 0):g} %{best}")


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
