"""Accuracy of the very file that is timed: of several fields each in its own, and their mean."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kfdeploy.arrays import Floats
from kfdeploy.data.imageset import ImageSet
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.errors import DataError
from kfdeploy.targets.base import Setup, run_in_batches
from kfdeploy.tasks.kinds.classes import label_columns
from kfdeploy.tasks.spec import TaskSpec, class_names, columns, fields_of, joined

Subject = tuple[str, ...]  # the tasks that models are scored on
Columns = Mapping[str, Sequence[str]]  # of each field the columns that compete in it
Marks = Mapping[str, Floats]  # of each field, for each image (N,), 1: right, 0: wrong, nan: it does not count
Right = dict[tuple[str, Subject], Marks]  # (sha256, subject) → its marks


def columns_of(tasks: Sequence[TaskSpec]) -> Columns:
    """Return the columns of each field of some tasks."""
    names = class_names(tasks)
    return {field: [names[i] for i in which] for field, which in fields_of(tasks).items()}


def score(
    opened: Sequence[Artifact], test: ImageSet, subjects: Mapping[Subject, Columns], report: Callable[[str], None]
) -> Right:
    """Return what each model gets right, subject by subject: of the test images that any of its fields has.

    Raises:
        DataError: no test image is of a subject, or of one of its fields.
    """
    right: Right = {}
    for artifact in opened:
        report(f"accuracy of {artifact.path.name}")
        known = [name for name in test.classes if name in artifact.classes]
        mine = test.only(known)
        logits = logits_on(artifact, mine, os.cpu_count() or 1)
        for subject, fields in subjects.items():
            if {name for names in fields.values() for name in names} <= set(known):
                right[artifact.sha256, subject] = marks(artifact, mine, logits, fields)
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
            found.append(joined(run_in_batches(session, images, artifact.batch or 128), artifact.tasks))
    return np.concatenate(found)


def marks(artifact: Artifact, data: ImageSet, logits: np.ndarray[Any, Any], fields: Columns) -> Marks:
    """Return of each field whether the largest of its columns is an image's label; see `Marks`.

    The images are those of the set that have a label in any of the fields, among its columns.

    Raises:
        DataError: none has a label in a field.
    """
    found: dict[str, Floats] = {}
    for field, names in fields.items():
        labels = data.labels_of(field)
        own = np.where(labels >= 0, label_columns(data.classes, names)[labels], -1)
        if not (own >= 0).any():
            of = f" in '{field}'" if len(fields) > 1 else ""
            raise DataError(f"no test image has a label{of} among {', '.join(names)}")
        best = logits[:, columns(artifact.classes, names)].argmax(1)
        found[field] = np.where(own >= 0, best == own, np.nan)
    some = np.any([~np.isnan(each) for each in found.values()], axis=0)
    return {field: each[some] for field, each in found.items()}


def correct(artifact: Artifact, data: ImageSet, fields: Columns, threads: int) -> Marks:
    """Return what an artifact gets right of a set's images; see `marks`.

    Raises:
        DataError: the set is empty, or no image of it has a label in a field.
    """
    return marks(artifact, data, logits_on(artifact, data, threads), fields)


def shares(found: Marks) -> dict[str, float]:
    """Return the accuracy in each field."""
    return {field: float(each[~np.isnan(each)].mean()) for field, each in found.items()}


def told(found: Marks) -> dict[str, Any]:
    """Return what a result says of marks: accuracy and images; of several fields the mean, and each one's own."""
    own = shares(found)
    about: dict[str, Any] = {"accuracy": float(np.mean(list(own.values()))), "images": len(next(iter(found.values())))}
    if len(found) > 1:
        counts = {field: int((~np.isnan(each)).sum()) for field, each in found.items()}
        about["fields"] = [{"field": f, "accuracy": value, "images": counts[f]} for f, value in own.items()]
    return about
