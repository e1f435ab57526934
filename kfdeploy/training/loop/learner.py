"""What a learner is to the training loop, what a teacher says of a batch, and what training did."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kfdeploy.data.imageset import ImageSet


class Term(NamedTuple):
    """One term of an objective: the loss is the sum of weight · value."""

    weight: float
    value: Tensor  # ()


class Taught(NamedTuple):
    """A teacher's answer to one batch."""

    logits: Tensor  # (N, C)
    pooled: tuple[Tensor, ...]  # (N, c_l) the stages' features, averaged over each map


class Learner(nn.Module):
    """A network with its objective. `forward` gives the terms of one step, `evaluate` the logits of images."""

    def forward(self, images: Tensor, labels: Tensor, taught: Taught | None, step: int) -> dict[str, Term]:
        """Return the terms, from uint8 (N, H, W, C), (N,) and what the teacher says of the images."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def evaluate(self, images: Tensor) -> Tensor:
        """Return logits (N, C), from uint8 (N, H, W, C)."""
        raise TypeError(f"{type(self).__name__} has no evaluate")

    def right(self, logits: np.ndarray[Any, Any], data: ImageSet) -> dict[str, tuple[int, int]]:
        """Return of each field how many images `evaluate` is right on, from its logits (N, C), and of how many."""
        return data.right(logits)


@dataclass
class Fitted:
    """What training did: one row an epoch, its seconds, and the epoch it went on from (0: from the start)."""

    log: list[dict[str, float]] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    resumed_at: int = 0

    @property
    def seconds(self) -> float:
        """Time in the loop, over all sittings."""
        return sum(self.epoch_seconds)


@torch.no_grad()
def outputs_of(learner: Learner, data: ImageSet, device: torch.device) -> np.ndarray[Any, Any]:
    """Return float32 logits (N, C) of a whole set, in `eval()`."""
    learner.eval()
    out = []
    for images in data.batches():
        out.append(learner.evaluate(torch.from_numpy(images).to(device)).float().cpu().numpy())
    return np.concatenate(out)
