"""What subsets are worth, and which a budget or an accuracy allows: arithmetic on stored logits, and nothing is run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from kfdeploy.arrays import Floats
from kfdeploy.errors import PoolError, TaskError, UnsupportedError
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.kinds.classes import label_columns
from kfdeploy.tasks.spec import TaskSpec, class_names

MOST = 16  # tasks whose every subset is told: 65,535 lines
_AT_ONCE = 4_000_000  # cells of images × subsets that are computed together
Bools = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Field:
    """The tasks of one field, which compete in one argmax.

    An image of task t is classified right in a subset that holds t unless one of the subset's tasks *beats* it: has a
    column above the image's own. Which tasks beat an image does not depend on the subset, so the accuracy of many
    subsets is one product of matrices.
    """

    tasks: np.ndarray[Any, np.dtype[np.int64]]  # (k,) which of the tasks of all fields
    owner: np.ndarray[Any, np.dtype[np.int64]]  # (C,) of each column the place of its task in `tasks`
    labels: np.ndarray[Any, np.dtype[np.int64]]  # (V,) the column of each image, -1: of no task
    logits: np.ndarray[Any, np.dtype[np.float32]]  # (V, C)
    known: Bools | None  # (V, k) whether a task has logits for an image; None: all have

    @cached_property
    def _kinds(self) -> tuple[Any, Any, Any, Any]:
        """Images of one label that the same tasks beat are alike: return the label, what beats (or hides), how many.

        `(U,) columns, (U, K) beaten, (U, K) hidden, (U,) counts`, sorted by column.
        """
        inside = self.labels >= 0
        known = np.ones((len(self.labels), len(self.tasks)), np.bool_) if self.known is None else self.known
        inside[inside] = known[inside, self.owner[self.labels[inside]]]
        labels, logits, known = self.labels[inside], self.logits[inside], known[inside]
        own = np.take_along_axis(logits, labels[:, None], 1)
        # As argmax has it: of equal columns the first.
        above = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))  # (V, C)
        starts = np.searchsorted(self.owner, np.arange(len(self.tasks)))
        beaten = np.logical_or.reduceat(above, starts, axis=1) & known if len(labels) else known
        order = np.argsort(labels, kind="stable")
        counts = np.ones(len(labels), np.int64)
        if len(self.tasks) <= 64 and len(labels):
            bits = np.packbits(np.concatenate([beaten, ~known], axis=1), axis=1)
            bytes_ = np.concatenate([labels[:, None].astype(">u4").view(np.uint8).reshape(-1, 4), bits], axis=1)
            rows = np.ascontiguousarray(bytes_).view(f"V{bytes_.shape[1]}").ravel()
            _, order, counts = np.unique(rows, return_index=True, return_counts=True)
        return labels[order], beaten[order].astype(np.float32), (~known[order]).astype(np.float32), counts

    def accuracies(self, masks: Bools) -> tuple[Floats, np.ndarray[Any, np.dtype[np.int64]]]:  # (S, K)
        """Return each subset's accuracy over the images of its tasks, argmax over its classes, and their number (S,).

        An accuracy is nan where a class of the subset has no image for which all its tasks have logits.
        """
        labels, beaten, hidden, counts = self._kinds
        present, starts = np.unique(labels, return_index=True)
        values, images = np.full(len(masks), np.nan), np.zeros(len(masks), np.int64)
        some_hidden = bool(hidden.any())
        step = max(1, _AT_ONCE // max(1, len(labels)))
        for start in range(0, len(masks) if len(labels) else 0, step):
            mask = masks[start : start + step].T  # (K, s)
            weights = mask.astype(np.float32)
            there = mask[self.owner[labels]]  # (U, s)
            if some_hidden:
                there &= hidden @ weights == 0
            right = counts @ (there & (beaten @ weights == 0))
            total = counts @ there
            seen = np.zeros((len(self.owner), mask.shape[1]), np.bool_)  # (C, s)
            seen[present] = np.logical_or.reduceat(there, starts, axis=0)
            whole = (seen | ~mask[self.owner]).all(0) & (total > 0)
            part = slice(start, start + step)
            images[part] = total
            values[part] = np.where(whole, right / np.maximum(total, 1), np.nan)
        return values, images

    @cached_property
    def alike(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The kind of each image (V,): those of one kind count in the same subsets; see `counts`."""
        found: np.ndarray[Any, np.dtype[np.int64]] = self._counted[1]
        return found

    @cached_property
    def _counted(self) -> tuple[Any, Any]:
        """Return the kinds of images (U, 1 + k), their task or -1 and the tasks without logits, and each image's."""
        owner = np.where(self.labels >= 0, self.owner[self.labels], -1)
        hidden = np.zeros((len(owner), len(self.tasks)), np.bool_) if self.known is None else ~self.known
        kinds, kind = np.unique(np.column_stack([owner, hidden]), axis=0, return_inverse=True)
        return kinds, kind.reshape(-1)

    def counts(self, masks: Bools) -> Bools:  # (S, k) → (U, S)
        """Return which kinds of images count in which subsets: those of their tasks, where all of them have logits."""
        kinds = self._counted[0]
        owner, hidden = kinds[:, 0], kinds[:, 1:].astype(np.float32)
        found: Bools = (owner >= 0)[:, None] & masks.T[owner] & (hidden @ masks.T.astype(np.float32) == 0)
        return found


@dataclass(frozen=True)
class Subsets:
    """Every task's validation logits, ready for the accuracy of any subset of tasks.

    Tasks of one field compete in one argmax; a subset of several fields is worth the mean of theirs, each over its own
    images. So there is a `Field` for each, and what subsets are worth is put together from what their parts are.
    """

    names: tuple[str, ...]
    owner: np.ndarray[Any, np.dtype[np.int64]]  # (C,) the task of each column
    labels: np.ndarray[Any, np.dtype[np.int64]]  # (V,) or (V, F) the column of each image in each field, -1: of no task
    logits: np.ndarray[Any, np.dtype[np.float32]]  # (V, C)
    known: Bools | None = None  # (V, K) whether a task has logits for an image; None: all have
    fields: tuple[str, ...] = ()  # (K,) the field of each task; none: all are of one

    @classmethod
    def of(cls, evidence: Evidence, tasks: Sequence[TaskSpec]) -> "Subsets":
        """Return the subsets of these tasks, whose classes are the evidence's columns."""
        return cls(*_tables(tasks, evidence.labels), evidence.logits, None, tuple(task.field for task in tasks))

    @classmethod
    def of_pool(cls, pool: Pool, tasks: Sequence[TaskSpec] | None = None) -> "Subsets":
        """Return the subsets of some of a pool's tasks (default: all), each with every image that it has logits for.

        Raises:
            PoolError: a file is missing or altered.
        """
        chosen = pool.tasks if tasks is None else tasks
        labels: dict[str, tuple[str, ...]] = dict.fromkeys((task.field for task in chosen), ())
        logits = [np.empty((0, sum(len(task.classes) for task in chosen)), np.float32)]
        known = [np.empty((0, len(chosen)), np.bool_)]
        for block in pool.blocks(chosen):
            count = len(block.seen)
            for field in labels:
                labels[field] += block.seen.labels.get(field, ("",) * count)
            logits.append(block.columns(chosen))
            known.append(np.tile([found is not None for found in block.logits], (count, 1)))
        fields = tuple(task.field for task in chosen)
        return cls(*_tables(chosen, labels), np.concatenate(logits), np.concatenate(known), fields)

    @cached_property
    def parts(self) -> dict[str, "Field"]:
        """The tasks of each field, by themselves."""
        fields = self.fields or ("",) * len(self.names)
        found = {}
        for i, name in enumerate(dict.fromkeys(fields)):
            tasks = np.flatnonzero(np.array([field == name for field in fields]))
            columns = np.flatnonzero(np.isin(self.owner, tasks))
            place = np.full(len(self.owner) + 1, -1)  # the last is that of no column, -1
            place[columns] = np.arange(len(columns))
            labels = self.labels if self.labels.ndim == 1 else self.labels[:, i]
            known = None if self.known is None else self.known[:, tasks]
            owner = np.searchsorted(tasks, self.owner[columns])
            found[name] = Field(tasks, owner, place[labels], self.logits[:, columns], known)
        return found

    def each(self, masks: Bools) -> tuple[Floats, Floats]:  # (S, K) → (F, S), (F, S)
        """Return each field's accuracy in each subset and the number of its images; nan where it has no task there."""
        values, images = np.full((len(self.parts), len(masks)), np.nan), np.full((len(self.parts), len(masks)), np.nan)
        for i, part in enumerate(self.parts.values()):
            there = masks[:, part.tasks]
            some = there.any(1)
            own, back = np.unique(there[some], axis=0, return_inverse=True) if len(self.parts) > 1 else (there, ...)
            for out, found in zip((values, images), part.accuracies(own), strict=True):
                out[i, some] = found[back]
        return values, images

    def accuracies(self, masks: Bools) -> tuple[Floats, np.ndarray[Any, np.dtype[np.int64]]]:  # (S, K)
        """Return what each subset is worth and on how many images (S,): of one field its accuracy, else the mean.

        An accuracy is over the images of its tasks, argmax over its classes. It is nan where a class of the subset has
        no image for which all its field's tasks have logits. Of several fields an image counts that any of them has.
        """
        values, images = self.each(masks)
        if len(values) == 1:
            return values[0], images[0].astype(np.int64)
        chosen = self._chosen(masks)
        return np.where(chosen, values, 0.0).sum(0) / np.maximum(chosen.sum(0), 1), self._images(masks)

    def _images(self, masks: Bools) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return how many images count for some field of each subset (S,)."""
        there = [part.alike for part in self.parts.values()]
        rows = np.stack(there, axis=1)  # (V, F) images that are alike to a field are of one kind in it
        kinds, counts = np.unique(rows, axis=0, return_counts=True)
        found = np.zeros(len(masks), np.int64)
        step = max(1, _AT_ONCE // max(1, len(kinds)))
        for start in range(0, len(masks), step):
            part = slice(start, start + step)
            some = np.zeros((len(kinds), len(masks[part])), np.bool_)
            for i, field in enumerate(self.parts.values()):
                some |= field.counts(masks[part][:, field.tasks])[kinds[:, i]]
            found[part] = counts @ some
        return found

    def _chosen(self, masks: Bools) -> Bools:  # → (F, S)
        """Return of which fields a subset has a task."""
        found: Bools = np.stack([masks[:, part.tasks].any(1) for part in self.parts.values()])
        return found

    def least(self, masks: Bools) -> Floats:  # (S, K) → (S,)
        """Return the accuracy of the field of each subset that has the least, nan where one is not known."""
        values, _ = self.each(masks)
        found: Floats = np.where(self._chosen(masks), values, np.inf).min(0)
        return found

    def lone(self, masks: Bools) -> Bools:  # (S, K) → (S,)
        """Return which subsets have a field with one class alone: it is right always, and tells nothing."""
        widths = np.bincount(self.owner, minlength=len(self.names))
        columns = np.stack([masks[:, part.tasks] @ widths[part.tasks] for part in self.parts.values()])
        found: Bools = (columns == 1).any(0)
        return found

    def accuracy(self, chosen: Sequence[int]) -> float:
        """Return the accuracy of these tasks (indices), or nan; see `accuracies`."""
        return float(self.accuracies(self._masks([chosen]))[0][0])

    def every(self) -> tuple[Bools, Floats, np.ndarray[Any, np.dtype[np.int64]]]:
        """Return all subsets but the empty one (S, K), small ones first, with their accuracies and images (S,).

        Raises:
            UnsupportedError: there are more than `MOST` tasks.
            PoolError: not one accuracy is known.
        """
        K = len(self.names)
        check_count(K)
        codes = np.arange(1, 2**K)
        masks = (codes[:, None] >> np.arange(K) & 1).astype(np.bool_)
        masks = masks[np.argsort(masks.sum(1), kind="stable")]
        values, images = self.accuracies(masks)
        if np.isnan(values).all():
            raise _unknown()
        return masks, values, images

    def best(self, size: int, most: int = 20_000, floor: float | None = None) -> "Choice":
        """Return the most accurate subset of `size` tasks, of those that have every field at `floor` or above.

        Where none has, it is the one whose least field is the best. Subsets of a single class are passed over then; of
        several fields those with a single class of one, which is right always, unless the size has no others. Where
        there are more than `most`, tasks are left out one after another, each time the one whose going helps most.
        """
        left = list(range(len(self.names)))
        if comb(len(left), size) <= most:
            return self._highest(self._masks(list(combinations(left, size))), floor, whole=True)
        found = Choice((), float("nan"), all=False)
        while len(left) > size:
            found = self._highest(self._masks([[i for i in left if i != gone] for gone in left]), floor, whole=False)
            left = list(found.tasks)
        return found

    def _highest(self, masks: Bools, floor: float | None, *, whole: bool) -> "Choice":
        values, _ = self.accuracies(masks)
        least = values if len(self.parts) == 1 else self.least(masks)
        score = values
        if floor is not None or len(self.parts) > 1:
            telling = np.where(self.lone(masks), np.nan, values)
            if floor is not None or not np.isnan(telling).all():  # else none of the size tells anything
                values = score = telling
        if floor is not None:
            score = np.where(least >= floor, 1 + values, least)
        place = int(np.where(np.isnan(values), -1.0, score).argmax())
        return Choice(tuple(np.flatnonzero(masks[place]).tolist()), float(values[place]), whole, float(least[place]))

    def _masks(self, chosen: Sequence[Sequence[int]]) -> Bools:  # (S, K)
        masks = np.zeros((len(chosen), len(self.names)), np.bool_)
        np.put_along_axis(masks, np.array(chosen, dtype=np.int64), True, axis=1)
        return masks


@dataclass(frozen=True)
class Choice:
    """A chosen subset: indices of tasks, its accuracy, and whether every subset of that size was looked at."""

    tasks: tuple[int, ...]
    accuracy: float  # of several fields the mean
    all: bool
    least: float = float("nan")  # the accuracy of the field that has the least


def choose_subset(
    subsets: Subsets, *, size: int | None = None, within: int | None = None, min_accuracy: float | None = None
) -> Choice:
    """Return the most accurate subset of `size` tasks, or the largest of at most `within` that is accurate enough.

    Accurate enough is a subset with `min_accuracy` in every field of its tasks.

    Raises:
        TaskError: nothing meets what is asked; it names the nearest that there is.
        PoolError: of no subset of these sizes the accuracy is known.
    """
    count = len(subsets.names)
    if size is not None and size > count:
        raise TaskError(f"{size} tasks were asked for, and there are {count}", hint=f"--size {count}")
    if within is not None and within < 1:
        raise TaskError("not one task fits into the budget", hint="a larger --budget-ms: see the costs of one task")
    largest = min(size or count, within or count)
    if size is not None and largest < size:
        raise TaskError(f"{size} tasks do not fit into the budget; the nearest is {largest}", hint=f"--size {largest}")
    nearest: Choice | None = None
    for k in [size] if size else range(largest, 0, -1):
        found = subsets.best(k, floor=min_accuracy)
        if np.isnan(found.accuracy):
            continue
        if min_accuracy is None or found.least >= min_accuracy:
            return found
        if nearest is None or found.least > nearest.least:
            nearest = found
    if nearest is not None:
        names = ", ".join(subsets.names[i] for i in nearest.tasks)
        every = " in each of its fields" if len(subsets.parts) > 1 else ""
        raise TaskError(
            f"no subset reaches {100 * (min_accuracy or 0):g} %{every}; the nearest is {names} with "
            f"{100 * nearest.least:.2f} %",
            hint=f"--min-accuracy {int(nearest.least * 10_000) / 10_000:g}",
        )
    if min_accuracy is not None and largest < 2:
        raise TaskError(
            "a single class is right always, and no subset of two fits",
            hint="plan without --min-accuracy, or with a larger budget",
        )
    raise _unknown()


def check_count(tasks: int) -> None:
    """Refuse to tell every subset of too many tasks.

    Raises:
        UnsupportedError: there are more than `MOST`.
    """
    if tasks > MOST:
        raise UnsupportedError(
            f"{tasks:,} tasks have too many subsets to tell each: at most {MOST} tasks ({2**MOST - 1:,} subsets)",
            hint=f"name up to {MOST} with --tasks, or look for the best of a size: --size 3",
        )


def _unknown() -> PoolError:
    return PoolError(
        "what subsets are worth cannot be known: there are no validation images for which all their tasks have logits",
        hint="plan from the pool that they were made in (an assembly's parts have no validation logits)",
    )


def _tables(tasks: Sequence[TaskSpec], labels: Mapping[str, Sequence[str]]) -> tuple[Any, Any, Any]:
    """Return the names of tasks, the task of each column (C,), and each image's column in each field (V, F) or -1."""
    owner = np.repeat(np.arange(len(tasks)), [len(task.classes) for task in tasks])
    columns = class_names(tasks)
    fields = dict.fromkeys(task.field for task in tasks)
    return tuple(task.name for task in tasks), owner, np.stack([label_columns(labels[f], columns) for f in fields], 1)
