"""Which images a choice is made on: validation images on record, samples spread over them, test images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.arrays import Images
from kfdeploy.data.imageset import ImageSet
from kfdeploy.data.sources import load_split
from kfdeploy.errors import DataError
from kfdeploy.manifest import DataOrigin
from kfdeploy.tasks.spec import ImageSpec

IMAGES = 512  # that ranges of activations are observed on
SPLIT_SEED = 0  # the validation images are the same whatever the seed of the run


def validation_images(
    about: DataOrigin, rows: Sequence[int] | Any, image: ImageSpec, count: int, folder: str | Path | None = None
) -> Images:
    """Return `count` of the validation images (N, H, W, C), evenly spread over them.

    Raises:
        DataError: they are not there.
    """
    rows = np.asarray(rows)
    return validation_set(about, rows[spread(len(rows), count)], image, folder).load()


def sample(data: ImageSet) -> Images:
    """Return the images (N, H, W, C) to observe, evenly spread over a set."""
    return data.take(spread(len(data), IMAGES)).load()


def spread(total: int, count: int) -> Any:
    """Return `count` indices (or all) evenly spread over `total`."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def validation_set(about: DataOrigin, rows: Any, image: ImageSpec, folder: str | Path | None = None) -> ImageSet:
    """Return the images at some rows of the train split.

    Raises:
        DataError: they are not there.
    """
    source, root = _place(about, folder)
    split = load_split(source, root, "train", image)
    place = {int(row): i for i, row in enumerate(split.rows)}
    if any(int(row) not in place for row in rows):
        raise DataError(
            f"the train split at '{root or source}' lacks some of the validation images on record",
            hint="name the folder that it was made with: --data <folder>",
        )
    return split.take(np.array([place[int(row)] for row in rows], dtype=np.int64))


def test_images(about: DataOrigin, image: ImageSpec, classes: Sequence[str], folder: str | Path | None) -> ImageSet:
    """Return the test images of `classes`, from `folder` or from the data the model was made with.

    Raises:
        DataError: they are not there.
    """
    source, root = _place(about, folder)
    return load_split(source, root, "test", image).only(classes).in_memory()


def _place(about: DataOrigin, folder: str | Path | None) -> tuple[str, str]:
    """Return the source and root to read from: a folder in place of what a model was made with, where one is named."""
    return ("folder", str(folder)) if folder is not None else (about["source"], about["root"])
