"""`attributes.csv`: a row an image, a column a field. Read in one pass, bounded, each fault told with its line."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from kfdeploy.data.fields import MOST_FIELDS, Asked, Column, Table, text_fault
from kfdeploy.errors import DataError, nearest
from kfdeploy.reading import open_regular, reason

ATTRIBUTES = "attributes.csv"
FILE = "file"  # the column that names the image
_MOST = 1 << 28  # bytes: a million images with forty attributes have a third of it
_MOST_ROWS = 10_000_000
_MOST_LINE = 1 << 20  # bytes
_SAVE = "save it as CSV in UTF-8, with commas between the columns and a header"


def read_attributes(path: Path, asked: Asked, *, files: bool) -> tuple[Table, dict[str, int]]:
    """Return the fields that are asked for, as they stand, and the line of each image's name in the order of the rows.

    With `files` each row must name an image in the column `file`; without, the rows are in the order of the images,
    and no names are returned.

    Raises:
        DataError: it is not there, no text in UTF-8, too large, or a row is not as the header says.
    """
    try:
        with open_regular(path) as stream:
            if (size := os.fstat(stream.fileno()).st_size) > _MOST:
                raise DataError(f"'{path}' has {size:,} bytes, and at most {_MOST:,} are read", hint=_SAVE)
            return _read(stream, path, asked, files)
    except FileNotFoundError:
        raise DataError(f"there is no '{path}'", hint="write it: file,shape,colour and a row for each image") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {reason(error)}", hint=_SAVE) from None


def _read(stream: BinaryIO, path: Path, asked: Asked, files: bool) -> tuple[Table, dict[str, int]]:
    reader = csv.reader(_lines(stream, path), strict=True)
    names: dict[str, int] = {}
    try:
        header = _header(next(reader, []), path, files)
        table = Table(
            str(path), lambda line: f"'{path}', line {line}",
            {name: Column() for name in header if name != FILE and asked.reads(name)},
            ignored=tuple(name for name in header if name in asked.ignore),
        )  # fmt: skip
        columns = [(header.index(name), name, column) for name, column in table.columns.items()]
        own = header.index(FILE) if files else -1
        for row in reader:
            if not row:  # a blank line
                continue
            line = reader.line_num
            if len(row) != len(header):
                raise DataError(f"'{path}', line {line} has {len(row)} values, and the header {len(header)}")
            if table.rows >= _MOST_ROWS:
                raise DataError(f"'{path}' has more than the {_MOST_ROWS:,} rows that are read")
            if files:
                _name(row[own].strip(), names, path, line)
            for i, name, column in columns:
                if text := row[i].strip():
                    if text not in column.known and (why := text_fault(text)):
                        raise DataError(f"'{path}', line {line}: the value of '{name}' {why}")
                    column.put(table.rows, text, line)
            table.rows += 1
    except csv.Error as error:
        raise DataError(f"'{path}', line {reader.line_num}: {error}", hint=_SAVE) from None
    return table, names


def _lines(stream: BinaryIO, path: Path) -> Iterator[str]:
    """Yield the lines as text; each is decoded by itself, so that the one that is none can be named."""
    left = _MOST
    for number in range(1, _MOST + 2):
        raw = stream.readline(_MOST_LINE + 1)
        left -= len(raw)
        if len(raw) > _MOST_LINE or left < 0:
            raise DataError(f"'{path}', line {number} goes on beyond what is read of such a file", hint=_SAVE)
        if not raw:
            return
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise DataError(f"'{path}', line {number} is no text in UTF-8: {raw[:40]!r}", hint=_SAVE) from None


def _header(row: list[str], path: Path, files: bool) -> list[str]:
    names = [name.strip() for name in row]
    if len(names) > MOST_FIELDS:
        raise DataError(f"'{path}' has {len(names):,} columns, and at most {MOST_FIELDS:,} are read")
    if files and FILE not in names:
        apart = len(names) == 1 and any(mark in names[0] for mark in ";\t|")
        close = "separate the columns with commas" if apart else nearest(FILE, names)
        raise DataError(
            f"'{path}', line 1: there is no column '{FILE}', which names the images (there are: "
            f"{', '.join(map(repr, names))[:300]})",
            hint=close or f"call the column with the names of the files '{FILE}'",
        )
    for i, name in enumerate(names):
        if not name:
            raise DataError(f"'{path}', line 1: column {i + 1} has no name")
        if name in names[:i]:
            raise DataError(f"'{path}', line 1: two columns are called '{name}'")
    return names


def _name(name: str, names: dict[str, int], path: Path, line: int) -> None:
    if not name:
        raise DataError(f"'{path}', line {line} names no image: its '{FILE}' is empty")
    if name in names:
        raise DataError(
            f"'{path}', line {line}: '{name}' has a row already, in line {names[name]}", hint="keep one of them"
        )
    names[name] = line
