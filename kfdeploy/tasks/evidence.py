"""What is known of a model without running it: golden samples and validation logits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kfdeploy.tasks.spec import columns


@dataclass(frozen=True)
class Evidence:
    """Golden samples and validation logits: what is known of a model without running it.

    Columns of logits are classes, of the tasks asked for, one task after another. V is 0 where there are no validation
    logits: in an assembly's parts, which hold what a device needs.
    """

    images: np.ndarray[Any, np.dtype[np.uint8]]  # (G, H, W, C)
    golden: np.ndarray[Any, np.dtype[np.float32]]  # (G, C) the torch model's logits
    labels: tuple[str, ...]  # (V,) class names
    rows: np.ndarray[Any, np.dtype[np.int64]]  # (V,) positions in the train split they are of
    logits: np.ndarray[Any, np.dtype[np.float32]]  # (V, C)


@dataclass(frozen=True)
class Block:
    """Validation images that came together: those the pool was made with (None), or those of a task that was added."""

    task: str | None
    labels: tuple[str, ...]  # (V,) class names
    rows: np.ndarray[Any, np.dtype[np.int64]]  # (V,)
    logits: tuple[np.ndarray[Any, np.dtype[np.float32]] | None, ...]  # of each task asked for (V, c), None: not known


def masked(evidence: Evidence, known: Sequence[str], wanted: Sequence[str]) -> Evidence:
    """Return a model's evidence with the columns of `wanted` alone, in that order: the model masked to them.

    Raises:
        TaskError: it does not know one of them.
    """
    chosen = columns(known, wanted)
    return replace(evidence, golden=evidence.golden[:, chosen], logits=evidence.logits[:, chosen])
