"""What is known of a model without running it: golden samples and validation logits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kfdeploy.tasks.spec import columns

Images = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Seen:
    """Which images evidence is of: their classes, where they lay, and what tells that they are the same ones."""

    labels: tuple[str, ...]  # (V,) class names
    rows: np.ndarray[Any, np.dtype[np.int64]]  # (V,) positions in the train split
    content: Images | None  # (V, 8) a hash of each; None in what 0.1.0 wrote, which knew images by position
    golden: tuple[Any, Images] | None = None  # which of them are the golden samples, and those (G, H, W, C)

    @classmethod
    def of(cls, arrays: Mapping[str, Any], names: Sequence[str]) -> "Seen":
        """Return it from a file's arrays, whose labels index `names`."""
        labels = tuple(names[i] for i in arrays["validation.labels"])
        golden = None
        if "golden.images" in arrays:
            golden = golden_samples(arrays["validation.labels"], len(arrays["golden.images"])), arrays["golden.images"]
        return cls(labels, arrays["validation.rows"], arrays.get("validation.content"), golden)

    def take(self, indices: Any) -> "Seen":
        """Return just the images at `indices`."""
        labels = tuple(self.labels[i] for i in indices)
        return Seen(labels, self.rows[indices], None if self.content is None else self.content[indices])


def golden_samples(labels: Any, count: int = 16) -> Any:
    """Return the indices of the golden samples: images spread over the classes. `labels` are (N,)."""
    order = np.argsort(labels, kind="stable")
    return np.sort(order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(np.int64)])


@dataclass(frozen=True)
class Evidence:
    """Golden samples and validation logits: what is known of a model without running it.

    Columns of logits are classes, of the tasks asked for, one task after another. V is 0 where there are no validation
    logits: in an assembly's parts, which hold what a device needs.
    """

    images: Images  # (G, H, W, C)
    golden: np.ndarray[Any, np.dtype[np.float32]]  # (G, C) the torch model's logits
    labels: tuple[str, ...]  # (V,) class names
    rows: np.ndarray[Any, np.dtype[np.int64]]  # (V,) positions in the train split they are of
    logits: np.ndarray[Any, np.dtype[np.float32]]  # (V, C)
    content: Images | None = None  # (V, 8) what they contain, by a hash, where it is on record


@dataclass(frozen=True)
class Block:
    """Validation images that came together: those the pool was made with (None), or those of a task that was added."""

    task: str | None
    seen: Seen
    logits: tuple[np.ndarray[Any, np.dtype[np.float32]] | None, ...]  # of each task asked for (V, c), None: not known


def masked(evidence: Evidence, known: Sequence[str], wanted: Sequence[str]) -> Evidence:
    """Return a model's evidence with the columns of `wanted` alone, in that order: the model masked to them.

    Raises:
        TaskError: it does not know one of them.
    """
    chosen = columns(known, wanted)
    return replace(evidence, golden=evidence.golden[:, chosen], logits=evidence.logits[:, chosen])
