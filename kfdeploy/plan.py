"""What a subset of tasks is worth, exactly, from stored logits: a task's logits do not depend on its neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass

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
