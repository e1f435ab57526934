"""What a subset of tasks is worth, exactly, from stored logits: a task's logits do not depend on its neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kfdeploy.arrays import Labels
from kfdeploy.errors import PoolError, listed
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.kinds import classes as kind
from kfdeploy.tasks.spec import TaskSpec, class_names, fields_of


@dataclass(frozen=True)
class Accuracy:
    """A share of images that are classified right, and their number."""

    value: float
    images: int


def subset_accuracy(evidence: Evidence, tasks: Sequence[TaskSpec]) -> Accuracy:
    """Return the accuracy of tasks together; of several fields the mean of theirs, over the images that any has.

    The columns of `evidence.logits` are the tasks', in their order.
    """
    found = list(accuracies(evidence, tasks).values())
    if len(found) == 1:
        return found[0]
    known = np.any([_labels(evidence, tasks, field) >= 0 for field in fields_of(tasks)], axis=0)
    return Accuracy(float(np.mean([each.value for each in found])), int(known.sum()))


def accuracies(evidence: Evidence, tasks: Sequence[TaskSpec]) -> dict[str, Accuracy]:
    """Return of each field its accuracy: argmax over its tasks' columns, on the images whose class is among them."""
    found = {}
    for field in fields_of(tasks):
        logits, labels = _among(evidence, tasks, field)
        found[field] = Accuracy(kind.accuracy(logits, labels), len(labels))
    return found


def confusions(
    evidence: Evidence, tasks: Sequence[TaskSpec]
) -> dict[str, np.ndarray[Any, np.dtype[np.int64]]]:  # field → (c, c)
    """Return of each field how many images of each class (a row) are taken for each (a column), among its tasks'."""
    return {field: kind.confusion(*_among(evidence, tasks, field)) for field in fields_of(tasks)}


def calibration_error(evidence: Evidence, tasks: Sequence[TaskSpec], bins: int = 15) -> float:
    """Return the expected calibration error of tasks (Guo et al. 2017, Eq. 3); of several fields the mean of theirs.

    Confidence is the largest share; `bins` are of equal width.
    """
    each = [kind.calibration_error(*_among(evidence, tasks, field), bins) for field in fields_of(tasks)]
    return float(np.mean(each))


def unknown_classes(evidence: Evidence, tasks: Sequence[TaskSpec]) -> list[str]:
    """Return the columns without a single validation image that has these tasks' logits: of them nothing is known."""
    there = {name for names in evidence.labels.values() for name in names}
    return [name for name in class_names(tasks) if name not in there]


def known_accuracy(evidence: Evidence, tasks: Sequence[TaskSpec]) -> Accuracy | None:
    """Return the accuracy of tasks together, or None where there is a class without images to tell it by."""
    return None if unknown_classes(evidence, tasks) else subset_accuracy(evidence, tasks)


def require_known(evidence: Evidence, tasks: Sequence[TaskSpec], where: str) -> None:
    """Refuse to tell an accuracy that leaves out some of the classes.

    Raises:
        PoolError: for a class there is no validation image for which every task has logits.
    """
    lacking = unknown_classes(evidence, tasks)
    if lacking:
        together = ", ".join(listed(task.name for task in tasks))
        worth, whose = ("are worth together", "them all") if len(tasks) > 1 else ("is worth", "it")
        raise PoolError(
            f"what {together} {worth} cannot be known: '{where}' has no validation logits of {whose} on images of "
            f"{', '.join(listed(lacking))}",
            hint="plan from the pool that has them (an assembly's parts have none, nor do tasks that were added apart "
            "and merged for each other's images), or assemble them and measure: kfdeploy benchmark",
        )


def _among(
    evidence: Evidence, tasks: Sequence[TaskSpec], field: str
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], Labels]:
    """Return a field's logits and labels (columns of them) of the images whose class is among its tasks'."""
    labels = _labels(evidence, tasks, field)
    inside = labels >= 0
    return evidence.logits[inside][:, fields_of(tasks)[field]], labels[inside]


def _labels(evidence: Evidence, tasks: Sequence[TaskSpec], field: str) -> Labels:
    """Return the column of each image (V,) among those of a field's tasks, or -1."""
    return kind.label_columns(evidence.labels[field], class_names(t for t in tasks if t.field == field))
