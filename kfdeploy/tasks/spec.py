"""What travels with weights: how an image becomes an input, and what the outputs mean."""

import math
import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from kfdeploy.errors import PoolError, TaskError, listed, nearest
from kfdeploy.manifest import Files

Interpolation = Literal["nearest", "bilinear", "bicubic"]
KINDS = ("classification", "classes")  # what a task may be; the former is what schema 1 calls the latter
CLASS = "class"  # the field of class folders, whose output is `logits`; others' outputs have their own names
LOGITS = "logits"
LARGEST_SIDE = 1 << 14  # pixels of a side that a file may ask for


@dataclass(frozen=True)
class ImageSpec:
    """How an image becomes the model's input.

    A file is decoded, its shorter side is resized to `resize` pixels (0: not at all, the size must fit), and the
    centre `size` (height, width) is cut out, giving uint8 (N, H, W, C). `mean` and `std` apply to values in [0, 1],
    inside the graph.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int = 0
    interpolation: Interpolation = "bilinear"
    layout: str = "NHWC"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return (*self.size, self.channels)

    def fault(self) -> str:
        """Return in what way it describes no image, or an empty string; it may come from a file of somebody's."""
        sides = (*self.size, self.resize)
        if len(self.size) != 2 or not all(type(side) is int and 0 <= side <= LARGEST_SIDE for side in sides):
            return f"size {self.size} and resize {self.resize} are not two sides and one, up to {LARGEST_SIDE} pixels"
        if not all(self.size) or type(self.channels) is not int or self.channels not in (1, 3):
            return f"size {self.size} and {self.channels!r:.20} channels (allowed: sides from 1, channels 1 or 3)"
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels or not all(type(v) in (int, float) and math.isfinite(v) for v in values):
                return f"{name} is {values!r:.60}, and not {self.channels} finite numbers"
        if min(self.std) <= 0:
            return f"std is {self.std}, and must be above 0"
        if self.interpolation not in get_args(Interpolation):
            return f"interpolation is {self.interpolation!r:.40} (allowed: {', '.join(get_args(Interpolation))})"
        return "" if self.layout == "NHWC" else f"layout is {self.layout!r:.40} (allowed: NHWC)"

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "ImageSpec":
        """Read back what `to_json` wrote."""
        known: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
        return cls(**known)


@dataclass(frozen=True)
class TaskSpec:
    """One task: its name, its classes in the order of its outputs, and the field of an image that they are of.

    A field is one thing known of an image: the class of its folder (`class`), or a column of `attributes.csv`. Tasks
    of one field compete in one argmax; those of several fields answer side by side.
    """

    name: str
    classes: tuple[str, ...]
    kind: Literal["classes"] = "classes"
    field: str = CLASS

    @property
    def output(self) -> str:
        """The graph's output that holds its columns, with those of the other tasks of its field."""
        return LOGITS if self.field == CLASS else self.field

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns, which no other field's has: `cat`, or `shape: square`."""
        return column_names(self.field, self.classes)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and strings; those of schema 1 where it can say them."""
        if self.field == CLASS:
            return {"name": self.name, "classes": list(self.classes), "kind": "classification"}
        return {"name": self.name, "classes": list(self.classes), "kind": self.kind, "field": self.field}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "TaskSpec":
        """Read back what `to_json` wrote."""
        return cls(fields["name"], tuple(fields["classes"]), field=fields.get("field", CLASS))


class Described:
    """What a pool, a model and an artifact say of themselves alike: images, tasks and files."""

    manifest: Any

    def require_image(self, place: object, hint: str) -> None:
        """Refuse a manifest whose image is none.

        Raises:
            PoolError: as above.
        """
        try:
            why = self.image.fault()
        except (KeyError, TypeError, AttributeError) as error:
            raise PoolError(f"'{place}' is incomplete: {error}", hint=hint) from None
        if why:
            raise PoolError(f"'{place}' describes an image that is none: {why}", hint=hint)

    @cached_property
    def image(self) -> ImageSpec:
        """How an image becomes the input."""
        return ImageSpec.from_json(self.manifest["image"])

    def require_fields(self, place: object, hint: str) -> None:
        """Refuse a manifest whose fields' names are taken inside a graph, or in which two columns have one name.

        Schema 1, which has no fields, is held to its classes by its graph and its files.

        Raises:
            PoolError: as above.
        """
        if self.manifest["schema"] != 1 and (why := fields_fault(self.tasks)):
            raise PoolError(f"'{place}' is wrong: {why}", hint=hint)

    @cached_property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks, in the order of the outputs: those of one field beside each other."""
        return together(TaskSpec.from_json(entry) for entry in self.manifest["tasks"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The columns of all its logits, of one task after another; see `TaskSpec.columns`."""
        return class_names(self.tasks)

    @property
    def files(self) -> Files:
        """Every file by its name, with its bytes and hash."""
        found: Files = self.manifest["files"]
        return found


_INNER = re.compile(r"(common|head|bank|task[0-9]*)/")  # how names inside a graph begin
_TAKEN = ("image", LOGITS, "known")  # a graph's input and outputs


def field_fault(name: str) -> str:
    """Return in what way a name cannot be a field's, which becomes the name of a graph's output; else nothing."""
    if name in _TAKEN or name.endswith(".known") or _INNER.match(name):  # `.known`: what `graph.known` adds beside one
        return f"the field '{name}' has a name that is taken inside a graph"
    if not name.isprintable() or name.strip() != name or not name:
        return f"the field {name!r:.80} has a name that does not print, or begins or ends with a space"
    return ""


def fields_fault(tasks: Iterable[TaskSpec]) -> str:
    """Return in what way tasks of several fields cannot stand in one graph, or an empty string."""
    owner: dict[str, str] = {}
    for task in tasks:
        if why := field_fault(task.field):
            return why
        for column in task.columns:
            if column in owner:
                return f"task '{task.name}' and task '{owner[column]}' both have the column '{column}'"
            owner[column] = task.name
    return ""


def column_names(field: str, classes: Iterable[str]) -> tuple[str, ...]:
    """Return the names of a field's columns: its classes, behind the field's name but for the field `class`."""
    return tuple(classes) if field == CLASS else tuple(f"{field}: {name}" for name in classes)


def class_names(tasks: Iterable[TaskSpec]) -> tuple[str, ...]:
    """Return the columns of the tasks, one task after another: the columns of all their logits side by side."""
    return tuple(name for task in tasks for name in task.columns)


def fields_of(tasks: Iterable[TaskSpec]) -> dict[str, list[int]]:
    """Return the fields of tasks in their order, and of each its columns among all that the tasks have."""
    found: dict[str, list[int]] = {}
    start = 0
    for task in tasks:
        found.setdefault(task.field, []).extend(range(start, start + len(task.classes)))
        start += len(task.classes)
    return found


def whole_field(task: TaskSpec, tasks: Sequence[TaskSpec]) -> bool:
    """Return whether a task has a field to itself, so that there is no other; the field `class` alone always has one.

    Where the class is all that is known of an image, images of classes in no task may come.
    """
    return fields_of(tasks).keys() != {CLASS} and [each.field for each in tasks].count(task.field) == 1


def together(tasks: Iterable[TaskSpec]) -> tuple[TaskSpec, ...]:
    """Return tasks with those of one field beside each other, which is how a graph gives them; else in their order."""
    by_field: dict[str, list[TaskSpec]] = {}
    for task in tasks:
        by_field.setdefault(task.field, []).append(task)
    return tuple(task for some in by_field.values() for task in some)


def outputs_of(tasks: Iterable[TaskSpec]) -> list[str]:
    """Return the names of the outputs of a graph of these tasks, one a field, in their order."""
    return list(dict.fromkeys(task.output for task in tasks))


def widths_of(tasks: Iterable[TaskSpec]) -> dict[str, int]:
    """Return the outputs of a graph of these tasks, one a field, in their order, and how many columns each has.

    Raises:
        ValueError: tasks of one field do not stand `together`, so that their columns lie apart.
    """
    found: dict[str, int] = {}
    for task in (chosen := tuple(tasks)):
        found[task.output] = found.get(task.output, 0) + len(task.classes)
    if chosen != together(chosen):
        raise ValueError("tasks of one field do not stand together")
    return found


def joined(outputs: Mapping[str, Any], tasks: Iterable[TaskSpec]) -> Any:  # → (N, C)
    """Return a model's outputs (N, ·) side by side: the columns of tasks that stand `together`."""
    names = outputs_of(tasks)
    return outputs[names[0]] if len(names) == 1 else np.concatenate([outputs[name] for name in names], axis=1)


def columns(known: Sequence[str], wanted: Sequence[str], who: str = "the model") -> list[int]:
    """Return the columns of a model's logits that hold the wanted classes, in their order.

    Raises:
        TaskError: the model lacks a class.
    """
    for name in wanted:
        if name not in known:
            raise TaskError(f"{who} does not know the class '{name}'", allowed=listed(known))
    return [list(known).index(name) for name in wanted]


def choose(tasks: Sequence[TaskSpec], names: Sequence[str], where: str) -> tuple[TaskSpec, ...]:
    """Return the tasks called `names`, in that order; a name that is none is split at its commas.

    Raises:
        TaskError: none was named, or one is unknown or there twice.
    """
    known = {task.name: task for task in tasks}
    return tuple(known[name] for name in choose_names(known, names, where))


def choose_names(known: Collection[str], names: Sequence[str], where: str) -> list[str]:
    """Return `names`, all of them known, in their order; see `choose`.

    Raises:
        TaskError: none was named, or one is unknown or there twice.
    """
    wanted = [piece for name in names for piece in ([name] if name in known else split_words([name]))]
    if not wanted:
        raise TaskError("no task was named", allowed=listed(known), hint="kfdeploy assemble --tasks cat dog")
    seen = set()
    for name in wanted:
        if name not in known:
            close = nearest(name, list(known))
            fixed = [close.split("'")[1] if n == name and close else n for n in wanted if n == name or n in known]
            command = f"  --tasks {shlex.join(fixed)}" if close else ""
            has = ", ".join(listed(known))
            raise TaskError(f"task '{name}' is not in {where} (it has: {has})", hint=close + command)
        if name in seen:
            raise TaskError(f"task '{name}' is asked for twice", hint="name each task once")
        seen.add(name)
    return wanted


def split_words(names: Sequence[str]) -> list[str]:
    """Return the names, those with commas split at them."""
    return [piece.strip() for name in names for piece in name.split(",") if piece.strip()]
