"""What a source knows of its images besides pixels: columns of texts, the classes that they make, and the labels."""

import re
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kfdeploy.arrays import Labels
from kfdeploy.errors import DataError, listed, nearest
from kfdeploy.tasks.spec import CLASS, column_names, field_fault

MOST_VALUES = 4096  # of a field: a column with more names its images rather than telling what is on them
MOST_FIELDS = 1000
_MOST_TEXT = 1000  # letters of a value; of a field's name a fifth
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DIGITS = re.compile(r"([0-9]{1,18})")
MAPS = ("segmentation", "depth", "normals", "saliency")  # kinds of fields that are to come
KINDS = ("classes",)
NO_MAPS = "maps of labels are not there yet"


@dataclass(frozen=True)
class Asked:
    """What is asked of a source that knows several things of an image; see `[data]` of a recipe.

    `again` is asked with where images are read that a training has seen: nothing that came since stops that. Fields
    that nothing can be learned of are then left out and not refused, values that came are taken in, and images or rows
    that lack each other are left out.
    """

    orders: Mapping[str, Sequence[str]] = field(default_factory=dict)  # fields that are spoken of; classes or nothing
    only: Collection[str] | None = None  # the fields that are read; None: all
    ignore: Collection[str] = ()
    partial: bool = False
    images: int = 0  # of dsprites
    again: bool = False

    def reads(self, name: str) -> bool:
        """Return whether a field is read."""
        return name not in self.ignore and (self.only is None or name in self.only)

    @property
    def lenient(self) -> bool:
        """Whether images and rows that lack each other are left out."""
        return self.partial or self.again


class Column:
    """One field of a table: its different texts, and of each row the number of one, -1 where nothing is known."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.places: list[Any] = []  # of each text where it stood first
        self.many = False  # there are too many different ones, and no more is kept
        self._codes = array("i")

    def put(self, row: int, text: str, place: Any) -> None:
        """Say what a row's text is; rows come in their order, and some may be left out."""
        number = self.known.setdefault(text, len(self.known))
        if number == len(self.places):
            self.places.append(place)
            self.many = self.many or number >= MOST_VALUES
        if self.many:
            self.known, self.places = {}, []
        else:
            self._codes.extend([-1] * (row - len(self._codes)))
            self._codes.append(number)

    def codes(self, rows: int) -> Labels:
        """Return the numbers of `rows` rows (rows,)."""
        found = np.full(rows, -1, np.int64)
        found[: len(self._codes)] = np.frombuffer(self._codes, np.intc) if self._codes else 0
        return found


@dataclass
class Table:
    """What a file, or a split, says of its images: columns by field, of `rows` rows."""

    origin: str  # a file, or what holds the images
    where: Callable[[Any], str]  # what a place in it is called
    columns: dict[str, Column]
    rows: int = 0
    ignored: tuple[str, ...] = ()  # fields that are there, and were to be left out
    listed: Mapping[str, Sequence[str]] = field(default_factory=dict)  # orders that lie beside it

    def checked(self, asked: Asked) -> "Table":
        """Return it with those fields only that something can be learned of.

        Raises:
            DataError: one that is asked for cannot be; or one is asked for that is not there.
        """
        kept = dict(self.columns)
        for name, column in self.columns.items():
            if why := _fault(name, column, asked):
                if not asked.again:
                    raise DataError(f"'{self.origin}': {why}", hint=f"leave it out: data.ignore = ['{name}']")
                del kept[name]
        for name in () if asked.again else (*asked.orders, *(asked.only or ())):
            if name not in self.columns and asked.reads(name):
                raise DataError(
                    f"'{self.origin}' has no field '{name}'", allowed=listed(self.columns),
                    hint=nearest(name, list(self.columns)),
                )  # fmt: skip
        return Table(self.origin, self.where, kept, self.rows, self.ignored, self.listed)


def _fault(name: str, column: Column, asked: Asked) -> str:
    if why := name_fault(name):
        return why
    if column.many:
        return f"the field '{name}' has more than {MOST_VALUES:,} values: it looks like an identifier"
    if len(column.known) < 2 and not asked.again:
        only = "".join(f"one value, '{text}'" for text in column.known) or "no value"
        return f"the field '{name}' has {only}: there is nothing to tell apart"
    return ""


def name_fault(name: str) -> str:
    """Return why a field cannot be called that, or an empty string: it is the name of an output of a graph."""
    if len(name) > _MOST_TEXT // 5:
        return f"the field {name!r:.80} has a name of {len(name):,} letters (allowed: up to {_MOST_TEXT // 5})"
    return field_fault(name)


def text_fault(text: str) -> str:
    """Return why a text cannot be the name of a class, or an empty string."""
    if len(text) > _MOST_TEXT:
        return f"has {len(text):,} letters, and a class is named in at most {_MOST_TEXT:,}"
    return f"has a control character in it: {text!r:.80}" if _CONTROL.search(text) else ""


def natural(texts: Collection[str]) -> tuple[str, ...]:
    """Return texts in the order in which people read them: numbers by their value, and so numbers inside words."""
    numbers = {text: _number(text) for text in texts}
    if all(number is not None for number in numbers.values()):
        return tuple(sorted(texts, key=lambda text: (numbers[text], text)))
    return tuple(sorted(texts, key=_pieces))


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"[+-]?[0-9]{1,300}(\.[0-9]{1,300})?", text) else None


def _pieces(text: str) -> tuple[Any, ...]:
    # Words and numbers by turns, so that like is compared with like.
    return tuple(int(piece) if i % 2 else piece for i, piece in enumerate(_DIGITS.split(text))), text


def classes_of(table: Table, asked: Asked) -> dict[str, tuple[str, ...]]:
    """Return the classes of each field of a train split: in the order that is asked for, else in the natural one.

    Raises:
        DataError: a value is not among those asked for, or one of those is nowhere.
    """
    found = {}
    for name, column in table.columns.items():
        order = tuple(asked.orders.get(name, ()))
        if not order:
            order = tuple(table.listed.get(name, ())) or natural(column.known)
        elif asked.again:
            order += natural([text for text in column.known if text not in order])
        elif lost := [text for text in order if text not in column.known]:
            raise DataError(
                f"'{table.origin}': no image has '{lost[0]}' as its '{name}', which data.fields.{name}.classes names",
                allowed=listed(natural(column.known)), hint=nearest(lost[0], list(column.known)),
            )  # fmt: skip
        found[name] = order
    return found


def labelled(
    table: Table, classes: Mapping[str, Sequence[str]], asked: Asked, *, own: bool
) -> tuple[tuple[str, ...], tuple[str, ...], Labels]:
    """Return the columns of all fields (C,), the field of each (C,), and the labels (rows, F), -1 where unknown.

    `own`: the classes are those of this split itself, and not of another.

    Raises:
        DataError: a value is none of the classes, a field is missing, or two columns have one name.
    """
    columns: list[str] = []
    fields: list[str] = []
    labels = np.full((table.rows, len(classes)), -1, np.int64)
    for i, (name, texts) in enumerate(classes.items()):
        if name not in table.columns:
            raise DataError(
                f"'{table.origin}' has no field '{name}', and the train split has", allowed=listed(table.columns),
                hint=f"add it, or leave it out: data.ignore = ['{name}']",
            )  # fmt: skip
        column = table.columns[name]
        if column.many:
            raise DataError(
                f"'{table.origin}': '{name}' has more than {MOST_VALUES:,} values, and train {len(texts):,}"
            )
        back = np.full(len(column.known) + 1, -1, np.int64)  # the last one is for what is unknown
        number = {text: j for j, text in enumerate(texts)}
        for text, code in column.known.items():
            if text not in number:
                lacks = f"data.fields.{name}.classes does not have it" if own else "no image of the train split is that"
                raise DataError(
                    f"{table.where(column.places[code])}: '{name}' is '{text}', and {lacks}",
                    allowed=listed(texts), hint=nearest(text, list(texts)),
                )  # fmt: skip
            back[code] = len(columns) + number[text]
        labels[:, i] = back[column.codes(table.rows)]
        columns += column_names(name, texts)
        fields += [name] * len(texts)
    for j, column_name in enumerate(columns):
        if (first := columns.index(column_name)) < j:
            raise DataError(
                f"'{table.origin}': the fields '{fields[first]}' and '{fields[j]}' both make a column '{column_name}'",
                hint=f"rename one, or leave it out: data.ignore = ['{fields[j]}']",
            )
    return tuple(columns), tuple(fields), labels


def require_maps_unasked(name: str, asked: Asked, what: str) -> None:
    """Refuse a field that is no column of classes, where it is asked for.

    Raises:
        DataError: as above.
    """
    if not asked.again and (name in asked.orders or name in (asked.only or ())):
        raise DataError(f"'{what}' is no list of classes, and {NO_MAPS}", hint=f"leave '{name}' out of the recipe")


def lone_class(fields: Sequence[str]) -> bool:
    """Return whether nothing is known of the images but their class, as of class folders."""
    return set(fields) == {CLASS}
