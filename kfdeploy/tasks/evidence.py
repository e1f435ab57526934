"""What is known of a model without running it: golden samples and validation logits."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kfdeploy.tasks.spec import CLASS, TaskSpec, columns

Images = np.ndarray[Any, np.dtype[np.uint8]]


# Of each field the images' columns (V,), by name; "" where an image has none that is known.
Names = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Seen:
    """Which images evidence is of: their classes, where they lay, and what tells that they are the same ones."""

    labels: Names
    rows: np.ndarray[Any, np.dtype[np.int64]]  # (V,) positions in the train split
    content: Images | None  # (V, 8) a hash of each; None in what 0.1.0 wrote, which knew images by position
    golden: tuple[Any, Images] | None = None  # which of them are the golden samples, and those (G, H, W, C)

    @classmethod
    def of(cls, arrays: Mapping[str, Any], fields: Mapping[str, Sequence[str]]) -> "Seen":
        """Return it from a file's arrays, whose labels of each field index the columns that `fields` names.

        A field that the file has no labels of came later: of none of these images they are known.
        """
        none = np.full(len(arrays["validation.rows"]), -1)
        labels = {
            field: tuple(names[i] if i >= 0 else "" for i in arrays.get(labels_key(field), none))
            for field, names in fields.items()
        }
        golden = None
        if "golden.images" in arrays:
            count = len(arrays["golden.images"])
            # As they were chosen: a field that came later has no labels here, and counts for nothing.
            there = [arrays[key] for key in map(labels_key, fields) if key in arrays]
            spread = there[0] if len(there) == 1 else none
            golden = golden_samples(spread, count), arrays["golden.images"]
        return cls(labels, arrays["validation.rows"], arrays.get("validation.content"), golden)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: Any) -> "Seen":
        """Return just the images at `indices`."""
        labels = {field: tuple(names[i] for i in indices) for field, names in self.labels.items()}
        return Seen(labels, self.rows[indices], None if self.content is None else self.content[indices])

    @property
    def texts(self) -> tuple[str, ...]:
        """What each image is said to be, in one text; whatever the order of the fields."""
        return tuple(map("; ".join, zip(*(self.labels[field] for field in sorted(self.labels)), strict=True)))


def labels_key(field: str) -> str:
    """Return the name of the array of a field's labels in a file of evidence."""
    return "validation.labels" if field == CLASS else f"validation.labels/{field}"


def golden_samples(labels: Any, count: int = 16) -> Any:
    """Return the indices of the golden samples: images spread over the classes. `labels` are (N,), or all the same."""
    order = np.argsort(labels, kind="stable")
    return np.sort(order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(np.int64)])


@dataclass(frozen=True)
class Evidence:
    """Golden samples and validation logits: what is known of a model without running it.

    Columns of logits are those of the tasks asked for, one task after another (`class_names`). V is 0 where there are
    no validation logits: in an assembly's parts, which hold what a device needs.
    """

    images: Images  # (G, H, W, C)
    golden: np.ndarray[Any, np.dtype[np.float32]]  # (G, C) the torch model's logits
    labels: Names
    rows: np.ndarray[Any, np.dtype[np.int64]]  # (V,) positions in the train split they are of
    logits: np.ndarray[Any, np.dtype[np.float32]]  # (V, C)
    content: Images | None = None  # (V, 8) what they contain, by a hash, where it is on record


@dataclass(frozen=True)
class Block:
    """Validation images that came together: those the pool was made with (None), or those of a task that was added."""

    task: str | None
    seen: Seen
    logits: tuple[np.ndarray[Any, np.dtype[np.float32]] | None, ...]  # of each task asked for (V, c), None: not known

    def blind(self, tasks: Sequence[TaskSpec]) -> set[str]:
        """Return the fields that a task is of whose logits are not known; `tasks` are those asked for."""
        return {task.field for task, known in zip(tasks, self.logits, strict=True) if known is None}

    def columns(self, tasks: Sequence[TaskSpec]) -> np.ndarray[Any, np.dtype[np.float32]]:  # → (V, C)
        """Return the logits side by side, 0 where they are not known; `tasks` are those asked for."""
        shapes = [(len(self.seen), len(task.classes)) for task in tasks]
        each = zip(self.logits, shapes, strict=True)
        return np.concatenate([np.zeros(s, np.float32) if known is None else known for known, s in each], axis=1)


def gathered(
    blocks: Iterable[Block], tasks: Sequence[TaskSpec], fields: Sequence[str]
) -> tuple[Names, np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the labels, rows and logits of blocks of images, which tell of `tasks`; see `Evidence`.

    Where a task's logits are not known, the labels of its field are not told: the images do not count for it. Images
    that count for none of the tasks' fields are left out.
    """
    labels: dict[str, tuple[str, ...]] = dict.fromkeys(fields, ())
    rows = [np.empty(0, np.int64)]
    logits = [np.empty((0, sum(len(task.classes) for task in tasks)), np.float32)]
    for block in blocks:
        blind = block.blind(tasks)
        if blind == {task.field for task in tasks}:
            continue
        none = ("",) * len(block.seen)
        for field in labels:
            labels[field] += none if field in blind else block.seen.labels.get(field, none)
        rows.append(block.seen.rows)
        logits.append(block.columns(tasks))
    return labels, np.concatenate(rows), np.concatenate(logits)


def masked(evidence: Evidence, known: Sequence[str], wanted: Sequence[str]) -> Evidence:
    """Return a model's evidence with the columns of `wanted` alone, in that order: the model masked to them.

    Raises:
        TaskError: it does not know one of them.
    """
    chosen = columns(known, wanted)
    return replace(evidence, golden=evidence.golden[:, chosen], logits=evidence.logits[:, chosen])
