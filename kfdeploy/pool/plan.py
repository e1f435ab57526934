"""What subsets and designs are worth under a budget or an accuracy: arithmetic on stored logits, and nothing is run."""

from collections.abc import Sequence
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
class Subsets:
    """Every task's validation logits, ready for the accuracy of any subset of tasks.

    An image of task t is classified right in a subset that holds t unless one of the subset's tasks *beats* it: has a
    column above the image's own. Which tasks beat an image does not depend on the subset, so the accuracy of many
    subsets is one product of matrices.
    """

    names: tuple[str, ...]
    owner: np.ndarray[Any, np.dtype[np.int64]]  # (C,) the task of each column
    labels: np.ndarray[Any, np.dtype[np.int64]]  # (V,) the column of each image, -1: of no task
    logits: np.ndarray[Any, np.dtype[np.float32]]  # (V, C)
    known: Bools | None = None  # (V, K) whether a task has logits for an image; None: all have

    @classmethod
    def of(cls, evidence: Evidence, tasks: Sequence[TaskSpec]) -> "Subsets":
        """Return the subsets of these tasks, whose classes are the evidence's columns."""
        owner, labels = _columns(tasks, evidence.labels[tasks[0].field])
        return cls(tuple(task.name for task in tasks), owner, labels, evidence.logits)

    @classmethod
    def of_pool(cls, pool: Pool, tasks: Sequence[TaskSpec] | None = None) -> "Subsets":
        """Return the subsets of some of a pool's tasks (default: all), each with every image that it has logits for.

        Raises:
            PoolError: a file is missing or altered.
        """
        chosen = pool.tasks if tasks is None else tasks
        widths = [len(task.classes) for task in chosen]
        labels: list[str] = []
        logits, known = [np.empty((0, sum(widths)), np.float32)], [np.empty((0, len(chosen)), np.bool_)]
        for block in pool.blocks(chosen):
            count = len(block.seen)
            columns = [
                np.zeros((count, width), np.float32) if found is None else found
                for found, width in zip(block.logits, widths, strict=True)
            ]
            labels += block.seen.labels[chosen[0].field]
            logits.append(np.concatenate(columns, axis=1))
            known.append(np.tile([found is not None for found in block.logits], (count, 1)))
        owner, places = _columns(chosen, labels)
        names = tuple(task.name for task in chosen)
        return cls(names, owner, places, np.concatenate(logits), np.concatenate(known))

    @cached_property
    def _kinds(self) -> tuple[Any, Any, Any, Any]:
        """Images of one label that the same tasks beat are alike: return the label, what beats (or hides), how many.

        `(U,) columns, (U, K) beaten, (U, K) hidden, (U,) counts`, sorted by column.
        """
        inside = self.labels >= 0
        known = np.ones((len(self.labels), len(self.names)), np.bool_) if self.known is None else self.known
        inside[inside] = known[inside, self.owner[self.labels[inside]]]
        labels, logits, known = self.labels[inside], self.logits[inside], known[inside]
        own = np.take_along_axis(logits, labels[:, None], 1)
        # As argmax has it: of equal columns the first.
        above = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))  # (V, C)
        starts = np.searchsorted(self.owner, np.arange(len(self.names)))
        beaten = np.logical_or.reduceat(above, starts, axis=1) & known if len(labels) else known
        order = np.argsort(labels, kind="stable")
        counts = np.ones(len(labels), np.int64)
        if len(self.names) <= 64 and len(labels):
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

    def best(self, size: int, most: int = 20_000, among: Sequence[int] | None = None) -> tuple[list[int], float, bool]:
        """Return the most accurate subset of `size` tasks, its accuracy, and whether all of them were looked at.

        Where there are more than `most`, tasks are left out one after another, each time the one whose going helps
        most. The tasks are `among` these (indices, default: all).
        """
        left, value = list(range(len(self.names)) if among is None else among), float("nan")
        if comb(len(left), size) <= most:
            return *self._highest(self._masks(list(combinations(left, size)))), True
        while len(left) > size:
            left, value = self._highest(self._masks([[i for i in left if i != gone] for gone in left]))
        return left, value, False

    def _highest(self, masks: Bools) -> tuple[list[int], float]:
        values, _ = self.accuracies(masks)
        place = int(np.where(np.isnan(values), -1.0, values).argmax())
        return np.flatnonzero(masks[place]).tolist(), float(values[place])

    def _masks(self, chosen: Sequence[Sequence[int]]) -> Bools:  # (S, K)
        masks = np.zeros((len(chosen), len(self.names)), np.bool_)
        np.put_along_axis(masks, np.array(chosen, dtype=np.int64), True, axis=1)
        return masks


@dataclass(frozen=True)
class Choice:
    """A chosen subset: indices of tasks, its accuracy, and whether every subset of that size was looked at."""

    tasks: tuple[int, ...]
    accuracy: float
    all: bool


def choose_subset(
    subsets: Subsets, *, size: int | None = None, within: int | None = None, min_accuracy: float | None = None
) -> Choice:
    """Return the most accurate subset of `size` tasks, or the largest of at most `within` that is accurate enough.

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
        # A single class is right always, and tells nothing.
        among = [i for i in range(count) if k > 1 or min_accuracy is None or (subsets.owner == i).sum() > 1]
        if not among:
            break
        tasks, accuracy, whole = subsets.best(k, among=among)
        found = Choice(tuple(tasks), accuracy, whole)
        if np.isnan(accuracy):
            continue
        if min_accuracy is None or accuracy >= min_accuracy:
            return found
        if nearest is None or accuracy > nearest.accuracy:
            nearest = found
    if nearest is not None:
        names = ", ".join(subsets.names[i] for i in nearest.tasks)
        raise TaskError(
            f"no subset reaches {100 * (min_accuracy or 0):g} %; the nearest is {names} with "
            f"{100 * nearest.accuracy:.2f} %",
            hint=f"--min-accuracy {int(nearest.accuracy * 10_000) / 10_000:g}",
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


def _columns(tasks: Sequence[TaskSpec], labels: Sequence[str]) -> tuple[Any, Any]:
    """Return the task of each column (C,), and the column of each label (V,), -1 where it is of no task."""
    owner = np.repeat(np.arange(len(tasks)), [len(task.classes) for task in tasks])
    return owner, label_columns(labels, class_names(tasks))


@dataclass(frozen=True)
class Design:
    """One way to have some tasks on a device."""

    name: str
    ms: float | None  # single-stream milliseconds that are expected; None: not measured
    accuracy: float  # a share, exactly, of the validation images of these tasks

    def __str__(self) -> str:
        cost = "not measured" if self.ms is None else f"about {self.ms:.3f} ms"
        return f"{self.name}, {cost}, {100 * self.accuracy:.2f} %"


def choose_design(
    designs: Sequence[Design], *, budget_ms: float | None = None, min_accuracy: float | None = None
) -> Design:
    """Return the fastest design that reaches `min_accuracy`, or the most accurate within `budget_ms`.

    Raises:
        TaskError: none meets what is asked; it names the nearest.
        UnsupportedError: a budget was given, and no design's cost is known.
    """
    timed = [design for design in designs if design.ms is not None]
    if budget_ms is not None and not timed:
        raise UnsupportedError("no design's cost is known", hint="kfdeploy benchmark --profile costs.json")
    able = timed if budget_ms is not None else list(designs)

    def misses(design: Design) -> float:
        """By how much it misses what is asked, as a share; 0 where it meets it."""
        late = 0.0 if budget_ms is None else ((design.ms or 0.0) - budget_ms) / max(budget_ms, 1e-9)
        wrong = 0.0 if min_accuracy is None else (min_accuracy - design.accuracy) / max(min_accuracy, 1e-9)
        return max(0.0, late, wrong)

    fit = [design for design in able if misses(design) == 0]
    if not fit:
        limits = [f"{budget_ms:g} ms"] if budget_ms is not None else []
        limits += [f"{100 * min_accuracy:g} %"] if min_accuracy is not None else []
        raise TaskError(
            f"no design meets {' and '.join(limits)} for these tasks; the nearest is {min(able, key=misses)}",
            hint="ask for less, or for fewer tasks",
        )
    if min_accuracy is not None and any(design.ms is not None for design in fit):
        return min((design for design in fit if design.ms is not None), key=lambda design: design.ms or 0.0)
    return max(fit, key=lambda design: design.accuracy)


@dataclass(frozen=True)
class Candidate:
    """What may go onto a device for some tasks: its accuracy on their validation images, and what an image costs."""

    name: str
    accuracy: float  # a share
    multiplications: int


def plain_words(assembly: Candidate, students: Sequence[Candidate]) -> str:
    """Say whether a plain student is the better choice for just these tasks, or by how much the assembly is cheaper.

    The cheapest student that is no less accurate is what the assembly is held against.
    """
    if not students:
        return ""
    able = [student for student in students if student.accuracy >= assembly.accuracy]
    rival = min(able or students, key=lambda s: s.multiplications if able else -s.accuracy)
    ratio = assembly.multiplications / rival.multiplications
    own, other = (each.multiplications / 1e6 for each in (assembly, rival))
    fewer = f"{max(ratio, 1 / ratio):.2f}× fewer multiplications"
    if able and ratio >= 1:
        return (
            f"{rival.name} is no less accurate here, with {fewer} ({other:.1f} against {own:.1f} million an image): "
            "for these tasks alone a plain student is the better choice"
        )
    counts = f"{own:.1f} against {other:.1f} million an image"
    if able:
        return f"the assembly needs {fewer} than {rival.name}, which is no less accurate ({counts})"
    if ratio < 1:
        return f"no student is as accurate, and the assembly needs {fewer} than the nearest, {rival.name} ({counts})"
    return (
        f"no student is as accurate; the nearest, {rival.name}, needs {fewer} ({other:.1f} against {own:.1f} million)"
    )
