"""Accuracy of the very file that is timed."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kfdeploy.arrays import Floats
from kfdeploy.data.imageset import ImageSet
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.errors import DataError
from kfdeploy.targets.base import Setup, run_in_batches
from kfdeploy.tasks.kinds.classes import label_columns
from kfdeploy.tasks.spec import columns

Subject = tuple[str, ...]  # the tasks that models are scored on
Right = dict[tuple[str, Subject], Floats]  # (sha256, subject) → which images are right


def score(
    opened: Sequence[Artifact], test: ImageSet, subjects: dict[Subject, list[str]], report: Callable[[str], None]
) -> Right:
    """Return which test images each model gets right, subject by subject."""
    right: Right = {}
    for artifact in opened:
        report(f"accuracy of {artifact.path.name}")
        known = [name for name in test.classes if name in artifact.classes]
        mine = test.only(known)
        logits = logits_on(artifact, mine, os.cpu_count() or 1)
        for subject, classes in subjects.items():
            if set(classes) <= set(known):
                chosen = columns(artifact.classes, classes)
                labels = label_columns(mine.classes, classes)[mine.labels]
                inside = labels >= 0
                best = logits[inside][:, chosen].argmax(1)
                right[artifact.sha256, subject] = (best == labels[inside]).astype(np.float64)
    return right


def logits_on(artifact: Artifact, data: ImageSet, threads: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return an artifact's logits (N, C) of a set's images. The artifact is the file that is timed.

    Raises:
        DataError: the set is empty.
    """
    if not len(data):
        raise DataError("there are no test images of these classes")
    found: list[np.ndarray[Any, np.dtype[np.float32]]] = []
    with artifact.session(Setup(threads=threads)) as session:
        for images in data.batches():
            found.append(run_in_batches(session, images, artifact.batch or 128)["logits"])
    return np.concatenate(found)


def correct(artifact: Artifact, data: ImageSet, columns: Sequence[int], threads: int) -> Floats:
    """Return 1 or 0 for each image: whether the argmax over `columns` of the artifact's logits is its label.

    Labels index `columns`.
    """
    logits = logits_on(artifact, data, threads)
    right: Floats = (logits[:, list(columns)].argmax(1) == data.labels).astype(np.float64)
    return right
