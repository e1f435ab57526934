"""What is put on record of a trained network: its golden samples, and its logits of every validation image."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kfdeploy.arrays import Labels
from kfdeploy.data.imageset import ImageSet
from kfdeploy.tasks.evidence import golden_samples, labels_key
from kfdeploy.tasks.kinds.classes import label_columns


@torch.no_grad()
def recorded(validation: ImageSet, logits: Callable[[Tensor], Tensor]) -> dict[str, np.ndarray[Any, Any]]:
    """Return golden images and logits, validation logits, labels (indices of a field's own columns),
    rows and content.

    `logits` maps uint8 (N, H, W, C) on the CPU to (N, C).
    """
    values = torch.cat([logits(torch.from_numpy(images)) for images in validation.batches()]).float().numpy()
    labels = [_local(validation, field) for field in validation.field_names]
    golden = golden_samples(labels[0] if len(labels) == 1 else np.zeros(len(validation)))
    return {
        "golden.images": validation.load(golden),
        "golden.logits": values[golden],
        **{labels_key(field): each for field, each in zip(validation.field_names, labels, strict=True)},
        "validation.rows": validation.rows,
        "validation.logits": values,
        "validation.content": validation.contents(),
    }


def _local(data: ImageSet, field: str) -> Labels:
    """Return a field's labels (N,) among its own columns."""
    own = [name for i, name in enumerate(data.classes) if data.field_of(i) == field]
    return label_columns(data.texts_of(field), own)
