"""What is put on record of a trained network: its golden samples, and its logits of every validation image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kfdeploy.data.imageset import ImageSet
from kfdeploy.tasks.evidence import golden_samples


@torch.no_grad()
def recorded(validation: ImageSet, logits: Callable[[Tensor], Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Return golden images and logits, validation logits, labels (indices of the set's classes), rows
    and content.

    `logits` maps uint8 (N, H, W, C) on the CPU to (N, C).
    """
    values = torch.cat([logits(torch.from_numpy(images)) for images in validation.batches()]).float().numpy()
    golden = golden_samples(validation.labels)
    return {
        "golden.images": validation.load(golden),
        "golden.logits": values[golden],
        "validation.labels": validation.labels,
        "validation.rows": validation.rows,
        "validation.logits": values,
        "validation.content": validation.contents(),
    }
