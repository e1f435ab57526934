"""What a subset of tasks is worth, exactly, from stored logits: a task's logits do not depend on its neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kfdeploy.arrays import Labels
from kfdeploy.errors import PoolError, listed
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.kinds import classes as kind
from kfdeploy.tasks.spec import TaskSpec, class_names


@dataclass(frozen=True)
class Accuracy:
    """A share of images that are classified right, and their number."""

    value: float
    images: int


def subset_accuracy(evidence: Evidence, classes: Sequence[str]) -> Accuracy:
    """Return the accuracy over the images whose class is among `classes`: argmax over those classes' columns.

    `classes` are the columns of `evidence.logits`, in their order.
    """
    logits, labels = _among(evidence, classes)
    return Accuracy(kind.accuracy(logits, labels), len(labels))


def confusion(evidence: Evidence, classes: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:  # (C, C)
    """Return how many images of each class (a row) are taken for each (a column), over the images of these classes."""
    return kind.confusion(*_among(evidence, classes))


def calibration_error(evidence: Evidence, classes: Sequence[str], bins: int = 15) -> float:
    """Return the expected calibration error of a subset (Guo et al. 2017, Eq. 3) over the images whose class is in it.

    Confidence is the largest share; `bins` are of equal width. `classes` are the columns of `evidence.logits`.
    """
    return kind.calibration_error(*_among(evidence, classes), bins)


def unknown_classes(evidence: Evidence, classes: Sequence[str]) -> list[str]:
    """Return the classes without a single validation image with these columns' logits: of them nothing is known."""
    there = set(evidence.labels)
    return [name for name in classes if name not in there]


def known_accuracy(evidence: Evidence, tasks: Sequence[TaskSpec]) -> Accuracy | None:
    """Return the accuracy of tasks together, or None where there is a class without images to tell it by."""
    classes = class_names(tuple(tasks))
    return None if unknown_classes(evidence, classes) else subset_accuracy(evidence, classes)


def require_known(evidence: Evidence, tasks: Sequence[TaskSpec], where: str) -> None:
    """Refuse to tell an accuracy that leaves out some of the classes.

    Raises:
        PoolError: for a class there is no validation image for which every task has logits.
    """
    lacking = unknown_classes(evidence, class_names(tuple(tasks)))
    if lacking:
        together = ", ".join(listed(task.name for task in tasks))
        worth, whose = ("are worth together", "them all") if len(tasks) > 1 else ("is worth", "it")
        raise PoolError(
            f"what {together} {worth} cannot be known: '{where}' has no validation logits of {whose} on images of "
            f"{', '.join(listed(lacking))}",
            hint="plan from the pool that has them (an assembly's parts have none, nor do tasks that were added apart "
            "and merged for each other's images), or assemble them and measure: kfdeploy benchmark",
        )


def _among(evidence: Evidence, classes: Sequence[str]) -> tuple[np.ndarray[Any, np.dtype[np.float32]], Labels]:
    """Return the logits and labels (columns) of the images whose class is among `classes`."""
    labels = kind.label_columns(evidence.labels, classes)
    inside = labels >= 0
    return evidence.logits[inside], labels[inside]
