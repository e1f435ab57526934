"""Which images a choice is made on: validation images on record, samples spread over them, test images."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from kfdeploy.arrays import Images, Labels
from kfdeploy.data.content import find
from kfdeploy.data.fields import Asked, lone_class
from kfdeploy.data.imageset import ImageSet
from kfdeploy.data.npy import IMAGES as ARRAYS
from kfdeploy.data.npy import has_arrays
from kfdeploy.data.sources import load_split
from kfdeploy.errors import DataError
from kfdeploy.manifest import DataOrigin
from kfdeploy.places import alternatives, found_data
from kfdeploy.tasks.evidence import Seen
from kfdeploy.tasks.kinds.classes import label_columns
from kfdeploy.tasks.spec import ImageSpec

IMAGES = 512  # that ranges of activations are observed on
_ALIKE = 8  # levels of 255, on average over an image
SPLIT_SEED = 0  # the validation images are the same whatever the seed of the run


def validation_images(
    about: DataOrigin, seen: Seen, image: ImageSpec, count: int, folder: str | Path | None = None
) -> Images:
    """Return `count` of the validation images (N, H, W, C), evenly spread over them.

    Raises:
        DataError: they are not there.
    """
    if seen.content is None:  # all, as they are told by all
        return validation_set(about, seen, image, folder).take(spread(len(seen.rows), count)).load()
    return validation_set(about, seen.take(spread(len(seen.rows), count)), image, folder).load()


def sample(data: ImageSet) -> Images:
    """Return the images (N, H, W, C) to observe, evenly spread over a set."""
    return data.take(spread(len(data), IMAGES)).load()


def spread(total: int, count: int) -> Any:
    """Return `count` indices (or all) evenly spread over `total`."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def validation_set(about: DataOrigin, seen: Seen, image: ImageSpec, folder: str | Path | None = None) -> ImageSet:
    """Return the validation images on record, in their order and of the classes on record.

    They are known by content: pictures and classes that came later, and other names, change nothing. What 0.1.0 wrote
    knows them by position; there, their classes and the golden samples tell whether they are the same ones.

    Raises:
        DataError: some are not there.
    """
    first: DataError | None = None
    for each in [dict(about)] if folder is not None else alternatives(about):
        place, origin = folder or each["root"] or about["source"], cast(DataOrigin, each)
        try:
            split = load(origin, "train", image, folder, only=seen.labels)
            return found_again(split, seen, f"the train split at '{place}'")
        except DataError as error:
            first = first or error
    assert first is not None  # there is a first place
    raise first


def found_again(split: ImageSet, seen: Seen, where: str) -> ImageSet:
    """Return the images on record out of `split`, which `where` names; see `validation_set`.

    Raises:
        DataError: some are not there.
    """
    index = _by_position(split, seen, where) if seen.content is None else _by_content(split, seen, where)
    found = split.take(index)
    said = {column: field for field, names in seen.labels.items() for column in names if column}
    names = tuple(dict.fromkeys((*split.classes, *said)))
    labels = [label_columns(each, names) for each in seen.labels.values()]
    if not split.fields:
        return replace(found, classes=names, labels=labels[0])
    known = dict(zip(split.classes, split.fields, strict=True)) | said
    # In the order of the record's fields, to which those come that it knows nothing of.
    others = [name for name in split.field_names if name not in seen.labels]
    labels += [label_columns(found.texts_of(name), names) for name in others]
    order = [name for field in (*seen.labels, *others) for name in names if known[name] == field]
    back = label_columns(names, order)
    table = np.stack(labels, axis=1)
    return replace(
        found, classes=tuple(order), labels=np.where(table >= 0, back[table], -1),
        fields=tuple(known[name] for name in order),
    )  # fmt: skip


def _by_content(split: ImageSet, seen: Seen, where: str) -> Any:
    assert seen.content is not None
    # Where nothing has changed, only the files that are wanted are read.
    index = np.searchsorted(split.rows, seen.rows)  # rows ascend
    if int(index.max(initial=-1)) < len(split):
        same = split.take(index)
        if same.texts() == seen.texts and np.array_equal(same.contents(), seen.content):
            return index
    found = find(seen.content, seen.texts, split.contents(), split.texts())
    if lost := found.count(-1):
        first = seen.texts[found.index(-1)]
        raise DataError(
            f"{where} lacks {lost} of the {len(found)} validation images on record, the first of class '{first}'; they "
            "are known by their content, whatever their names",
            hint="name the folder that it was made with: --data <folder>",
        )
    return np.array(found, dtype=np.int64)


def _by_position(split: ImageSet, seen: Seen, where: str) -> Any:
    place = {int(row): i for i, row in enumerate(_in_old_order(split))}
    missing = any(int(row) not in place for row in seen.rows)
    index = np.array([] if missing else [place[int(row)] for row in seen.rows], dtype=np.int64)
    same = not missing and split.take(index).texts() == seen.texts
    if same and seen.golden is not None:
        which, golden = seen.golden
        again = split.load(index[which])
        # Decoders differ by a level or two; other pictures differ by tens.
        apart = np.abs(again.astype(np.int16) - golden).mean((1, 2, 3))
        same = bool((apart < _ALIKE).all())
    if not same:
        raise DataError(
            f"{where} is not as it was: the validation images on record are known by position alone (version 0.1.0 "
            "wrote no hashes), and other images lie there now",
            hint="put the folder back as it was, or name another: --data <folder>",
        )
    return index


def _in_old_order(split: ImageSet) -> Labels:
    """Return the rows that 0.1.0 gave to a set: it sorted the folders 0, 1, 10, 2 as words."""
    if split.order != "numbers":
        return split.rows
    words = np.argsort(np.array(split.classes))
    return np.argsort(np.concatenate([np.flatnonzero(split.labels == label) for label in words]), kind="stable")


def test_images(about: DataOrigin, image: ImageSpec, classes: Sequence[str], folder: str | Path | None) -> ImageSet:
    """Return the test images of `classes`, from `folder` or from the data the model was made with.

    Raises:
        DataError: they are not there.
    """
    found = load(about, "test", image, folder).only(classes)
    if lone_class(found.fields):  # other fields are there, and the model knows nothing of them
        found = replace(found, labels=found.labels[:, 0], fields=())
    return found.in_memory()


def photo_of(about: DataOrigin, image: ImageSpec, folder: str | Path | None) -> str:
    """Return a test image's file of middling size, to time decoding on; nothing where images are no files of their own.

    Raises:
        DataError: the images are not there.
    """
    files = [path for path in load(about, "test", image, folder).paths if isinstance(path, Path)]
    return str(sorted(files, key=lambda path: (path.stat().st_size, path))[len(files) // 2]) if files else ""


def load(
    about: DataOrigin, split: str, image: ImageSpec, folder: str | Path | None = None, *,
    only: Collection[str] | None = None,
) -> ImageSet:  # fmt: skip
    """Return a split of what a model was made with, or of a folder in its place; `only` those of its fields.

    Raises:
        DataError: it is not there.
    """
    about = cast(DataOrigin, found_data(about))
    source, root = about["source"], about["root"]
    if folder is not None:
        source, root = "arrays" if has_arrays(Path(folder)) else "folder", str(folder)
    asked = Asked(
        {name: tuple(entry.get("classes", ())) for name, entry in about.get("fields", {}).items()},
        only, about.get("ignore", ()), about.get("partial", False), about.get("count", 0), again=True,
    )  # fmt: skip
    names, test = about.get("names", ""), about.get("test", 0.0)
    try:
        return load_split(source, root, split, image, names=names, test=test, asked=asked)
    except DataError as error:  # its hints are for recipes, and whoever asks here has none
        laid = "with train/<class>/ and test/<class>/" if source != "arrays" else f"with train/{ARRAYS}"
        raise DataError(str(error), hint=f"name a folder {laid}: --data <folder>") from None
