"""Images and labels as numpy files: root/{train,test}/images.npy, `<field>.npy` and attributes.csv beside it.

The images stay on the disk. A row of them is read at its place when it is asked for, and not mapped into memory: a file
that is cut short meanwhile is an error then, where a page of a map that is gone would end the process.
"""

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from kfdeploy.arrays import Images, Labels
from kfdeploy.data.attributes import ATTRIBUTES, read_attributes
from kfdeploy.data.described import known_of, noted, stored
from kfdeploy.data.fields import MOST_VALUES, NO_MAPS, Asked, Column, Table, require_maps_unasked
from kfdeploy.data.imageset import ImageSet
from kfdeploy.data.names import class_list
from kfdeploy.errors import DataError, first_line
from kfdeploy.reading import open_regular, reason
from kfdeploy.tasks.spec import LARGEST_SIDE, ImageSpec

IMAGES = "images.npy"
LAYOUT = (
    f"arrays are laid out as root/{{train,test}}/{IMAGES}, uint8 of N × H × W × 1 or 3 or of N × H × W, and beside it "
    f"<field>.npy with N whole numbers, or {ATTRIBUTES} with N rows"
)
_MOST_SIDES = 4


def has_arrays(root: Path) -> bool:
    """Return whether a folder is laid out as arrays."""
    return any((root / split / IMAGES).is_file() for split in ("train", "test"))


@dataclass(frozen=True)
class Rows:
    """Images in a .npy file: where each begins."""

    path: Path
    shape: tuple[int, ...]  # of an image
    offset: int
    at: Labels  # (N,) which of the file's images these are

    def take(self, indices: Labels) -> "Rows":
        """Return the images at `indices`."""
        return replace(self, at=self.at[indices])

    def pixels(self, indices: Labels) -> Images:
        """Return the images at `indices`, uint8 (n, h, w) or (n, h, w, c).

        Raises:
            DataError: the file is gone, or shorter than it was.
        """
        out = np.empty((len(indices), *self.shape), np.uint8)
        size = math.prod(self.shape)
        try:
            with open_regular(self.path) as stream:
                for i, row in enumerate(self.at[indices]):
                    stream.seek(self.offset + int(row) * size)
                    if stream.readinto(out[i].data) != size:
                        raise DataError(f"'{self.path}' ends before its image {row} does", hint="copy it again")
        except OSError as error:
            raise DataError(f"'{self.path}' cannot be read: {reason(error)}", hint="copy it again") from None
        return out

    def __str__(self) -> str:
        return str(self.path)


def header_of(path: Path) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return the type and the shape of the array in a .npy file, and where its data begin.

    Raises:
        DataError: it is none, in the order of Fortran, of objects, or has not just as many bytes as its shape has.
    """
    try:
        with open_regular(path) as stream:
            return _header(stream, path)
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {reason(error)}", hint=LAYOUT) from None


def _header(stream: BinaryIO, path: Path) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = readers[version](stream)
    except Exception as error:  # numpy passes on what the texts in a damaged header make go wrong
        raise DataError(f"'{path}' is no .npy file: {first_line(error)[:300]}", hint=LAYOUT) from None
    there = os.fstat(stream.fileno()).st_size - stream.tell()
    if fortran or dtype.hasobject or dtype.itemsize == 0:
        how = "in the order of columns" if fortran else f"of {dtype.str!r:.40}"
        raise DataError(f"'{path}' is {how}, which is not read", hint="np.save(path, np.ascontiguousarray(array))")
    if len(shape) > _MOST_SIDES or not all(type(side) is int and side >= 0 for side in shape):
        raise DataError(f"'{path}' has the shape {shape!r:.80}", hint=LAYOUT)
    if math.prod(shape) * dtype.itemsize != there:
        raise DataError(
            f"'{path}' has the shape {shape} of {dtype} and {there:,} bytes of data", hint="copy it again, or save it"
        )
    return dtype, shape, stream.tell()


def arrays(root: Path, split: str, image: ImageSpec, asked: Asked) -> ImageSet:
    """Return a split of arrays; the images stay on the disk.

    Raises:
        DataError: something is not there, of another type or shape, or nothing is known of the images.
    """
    path = root / split / IMAGES
    if not path.is_file():
        hint = ""
        if split == "test" and (root / "train" / IMAGES).is_file():
            hint = "--set data.test=0.1 takes a share of the train images for it, as data.validation does"
        raise DataError(f"there is no '{path}'; {LAYOUT}", hint=hint or "--set data.root=<folder>")
    dtype, shape, offset = header_of(path)
    if dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise DataError(f"'{path}' has the shape {shape} of {dtype}; {LAYOUT}")
    if not all(1 <= side <= LARGEST_SIDE for side in shape[1:]) or not shape[0]:
        raise DataError(f"'{path}' has the shape {shape}, and no image with sides of 1 to {LARGEST_SIDE:,} in it")
    table, note = _table(root, split, shape[0], asked)
    other = root / "train"
    train = None
    if split == "test" and not asked.again and (other / IMAGES).is_file():
        train = _table(root, "train", header_of(other / IMAGES)[1][0], asked)[0]
    images = stored(Rows(path, tuple(shape[1:]), offset, np.arange(shape[0])), shape[0], image)
    return noted(known_of(images, table, train, asked, np.arange(shape[0])), note)


def _table(root: Path, split: str, count: int, asked: Asked) -> tuple[Table, str]:
    """Return what is known of the images of a split, and a sentence about arrays that are no labels."""
    folder = root / split
    table = Table(str(folder), lambda line: f"'{folder / ATTRIBUTES}', line {line}", {}, count)
    if (folder / ATTRIBUTES).is_file():
        table, _ = read_attributes(folder / ATTRIBUTES, asked, files=False)
        if table.rows != count:
            raise DataError(f"'{folder / ATTRIBUTES}' has {table.rows:,} rows, and '{IMAGES}' {count:,} images")
        inner = table.where
        table.where = lambda place: place if isinstance(place, str) else inner(place)
    listed: dict[str, tuple[str, ...]] = {}
    odd = []
    for path in sorted(folder.glob("*.npy")):
        name = path.stem
        table.ignored += (name,) if name in asked.ignore else ()
        if path.name == IMAGES or not asked.reads(name):
            continue
        if name in table.columns:
            raise DataError(
                f"'{path}' and '{folder / ATTRIBUTES}' both say what '{name}' is", hint="remove one of them"
            )
        dtype, shape, offset = header_of(path)
        if len(shape) != 1 or dtype.kind not in "iu":
            require_maps_unasked(name, asked, str(path))
            odd.append(path.name)
            continue
        if shape[0] != count:
            raise DataError(f"'{path}' has {shape[0]:,} labels, and '{IMAGES}' {count:,} images")
        names = _names(root, name, asked)
        table.columns[name] = _column(path, dtype, offset, count, names)
        listed |= {name: names} if names else {}
    if not table.columns and not table.ignored:
        raise DataError(f"nothing says what is in the images of '{folder}'; {LAYOUT}")
    table.listed = listed
    note = f"{', '.join(odd)} in '{folder}' were left out, as they hold no list of whole numbers ({NO_MAPS})"
    return table, note if odd else ""


def _names(root: Path, name: str, asked: Asked) -> tuple[str, ...]:
    """Return what the numbers of a field are called, if anybody says it: a list beside the splits, or the recipe."""
    if (root / f"{name}.txt").is_file():
        return tuple(each[0] for each in class_list(str(root / f"{name}.txt")))
    order = tuple(asked.orders.get(name, ()))
    return () if all(text.isascii() and text.isdigit() for text in order) else order


def _column(path: Path, dtype: np.dtype[Any], offset: int, count: int, names: tuple[str, ...]) -> Column:
    with open_regular(path) as stream:
        stream.seek(offset)
        data = stream.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise DataError(f"'{path}' was changed while it was read", hint="read it again")
    labels = np.frombuffer(data, dtype).astype(np.int64)
    column = Column()
    values, first = np.unique(labels, return_index=True)
    if len(values) > MOST_VALUES + 1:
        column.many = True
        return column
    for value, place in zip(values.tolist(), first.tolist(), strict=True):
        if value < -1 or (names and value >= len(names)):
            allowed = f"0 to {len(names) - 1}" if names else "0 and more"
            raise DataError(f"'{path}', image {place} has the label {value} (allowed: {allowed}, -1 where unknown)")
    texts = {value: names[value] if names else str(value) for value in values.tolist() if value >= 0}
    for row in np.flatnonzero(labels >= 0).tolist():
        column.put(row, texts[int(labels[row])], f"'{path}', image {row}")
    return column
