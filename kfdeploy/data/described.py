"""A described folder: root/{train,test}/images/ and beside it attributes.csv, which says what is known of each."""

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kfdeploy.arrays import Labels
from kfdeploy.data.attributes import ATTRIBUTES, read_attributes
from kfdeploy.data.fields import Asked, Table, classes_of, labelled, lone_class, require_maps_unasked
from kfdeploy.data.folders import images_in, left_out, numbered
from kfdeploy.data.images import Store
from kfdeploy.data.imageset import ImageSet
from kfdeploy.errors import DataError, nearest
from kfdeploy.targets.device.pixels import readable
from kfdeploy.tasks.spec import CLASS, ImageSpec

IMAGES = "images"
_FEW = 2000  # names of images that another is compared with, letter by letter
LAYOUT = f"a described folder is laid out as root/{{train,test}}/{IMAGES}/ and {ATTRIBUTES} beside it"


def is_described(folder: Path) -> bool:
    """Return whether a split's folder has images and a list of what is known of them, and not folders of classes."""
    return (folder / IMAGES).is_dir() and (folder / ATTRIBUTES).is_file()


def described(root: Path, split: str, image: ImageSpec, asked: Asked) -> ImageSet:
    """Return a split of a described folder, its images in the order of their names.

    Raises:
        DataError: an image without a row, a row without an image, or a table that is not as it should be.
    """
    folder = root / split
    if not is_described(folder):
        other = "test" if split == "train" else "train"
        raise DataError(f"'{root / other}' is a described folder, and '{folder}' is none; {LAYOUT}")
    for name in {*asked.orders, *(asked.only or ())}:
        if (folder / name).is_dir():
            require_maps_unasked(name, asked, str(folder / name))
    table, names = read_attributes(folder / ATTRIBUTES, asked, files=True)
    files, others = images_in(folder / IMAGES)
    if not files:
        raise DataError(f"'{folder / IMAGES}' has no images", allowed=readable(), hint="put some there")
    rows, note = _matched(files, folder, names, asked)
    kept = np.flatnonzero(rows >= 0)
    if not len(kept):
        raise DataError(f"no image in '{folder / IMAGES}' has a row in '{folder / ATTRIBUTES}'", hint=LAYOUT)
    train = None
    if split == "test" and not asked.again and is_described(root / "train"):
        train, _ = read_attributes(root / "train" / ATTRIBUTES, asked, files=True)
    found = known_of(
        ImageSet((), kept, np.arange(len(kept)), image, paths=tuple(files[i] for i in kept), root=folder / IMAGES),
        table, train, asked, rows[kept],
    )  # fmt: skip
    return noted(found, left_out(others, folder / IMAGES), note)


def _matched(files: Sequence[Path], folder: Path, names: Mapping[str, int], asked: Asked) -> tuple[Labels, str]:
    """Return the row of each file (N,), -1 where it has none, and a sentence about those that lack each other."""
    row = {_look(name): i for i, name in enumerate(names)}
    at: dict[str, int] = {}
    for i, path in enumerate(files):
        look = _look(path.relative_to(folder / IMAGES).as_posix())
        if look in at:
            raise DataError(
                f"two images in '{folder / IMAGES}' are called '{look}': one name is composed (NFC), one is not (NFD)",
                hint="rename one of them",
            )
        at[look] = i
    rows = np.array([row.get(look, -1) for look in at], np.int64)
    bare = [path for path, found in zip(files, rows, strict=True) if found < 0]
    lost = [(name, line) for name, line in names.items() if _look(name) not in at]
    partial = "data.partial = true leaves out images and rows that lack each other"
    csv = folder / ATTRIBUTES
    if lost and not asked.lenient:
        name, line = lost[0]
        inside = name.removeprefix(f"{IMAGES}/")
        close = f"names are those below '{IMAGES}': '{inside}'" if inside != name else _close(name, at)
        raise DataError(
            f"'{csv}', line {line}: there is no image '{name}' in '{folder / IMAGES}'"
            + (f" (nor {len(lost) - 1:,} others)" if len(lost) > 1 else ""),
            hint=close or partial,
        )
    if bare and not asked.lenient:
        raise DataError(
            f"the image '{bare[0]}' has no row in '{csv}'" + (f" (nor {len(bare) - 1:,} others)" if bare[1:] else ""),
            hint=partial,
        )
    if not bare and not lost:
        return rows, ""
    return rows, f"{len(bare):,} images without a row and {len(lost):,} rows without an image were left out of '{csv}'"


def _close(name: str, names: Collection[str]) -> str:
    """Return a hint at a name with another extension, or one that is nearly the same where there are not too many."""
    stem = name.rpartition(".")[0] or name
    same = next((other for other in names if other.rpartition(".")[0] in (stem, name)), "")
    return f"did you mean '{same}'?" if same else nearest(name, list(names) if len(names) <= _FEW else [])


def _look(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def known_of(images: ImageSet, table: Table, train: Table | None, asked: Asked, rows: Labels) -> ImageSet:
    """Return images with what a table says of them: `rows` (N,) are theirs in it, -1 where they have none.

    `train` is the table of the train split where this is another one; the classes are those of that.

    Raises:
        DataError: a field that is asked for is not as it should be, or a value of test is none of train's.
    """
    table = table if train is not None else table.checked(asked)
    classes = classes_of(table if train is None else train.checked(asked), asked)
    if not classes:
        raise DataError(f"'{table.origin}' has no field that is asked for", allowed=(*table.columns, *table.ignored))
    columns, fields, labels = labelled(table, classes, asked, own=train is None)
    labels = np.where(rows[:, None] >= 0, labels[rows], -1)
    found = replace(
        images, classes=columns, fields=fields, labels=labels, ignored=table.ignored, described=True,
    )  # fmt: skip
    if not lone_class(fields):
        return found
    # As of class folders: an image of which nothing at all is known says nothing.
    some = np.flatnonzero(labels[:, 0] >= 0)
    order = "source" if asked.orders.get(CLASS) else "numbers" if numbered(columns) else "names"
    plain = replace(found.take(some), fields=(), labels=labels[some, 0], rows=np.arange(len(some)), order=order)
    bare = len(labels) - len(some)
    return noted(plain, f"{bare:,} images without a class were left out of '{table.origin}'" if bare else "")


def noted(images: ImageSet, *sentences: str) -> ImageSet:
    """Return images with what is to be said of them added."""
    return replace(images, note=". ".join(each for each in (images.note, *sentences) if each))


def stored(store: Store, count: int, image: ImageSpec) -> ImageSet:
    """Return `count` images of a store, of which nothing is known yet."""
    return ImageSet((), np.zeros(count, np.int64), np.arange(count), image, store=store)
