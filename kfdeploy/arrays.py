"""Names for the arrays that travel between the rooms."""

from collections.abc import Sequence
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]  # by name
Images = np.ndarray[Any, np.dtype[np.uint8]]  # (N, H, W, C)
Content = np.ndarray[Any, np.dtype[np.uint8]]  # (N, 8) a hash of each image's content
Labels = np.ndarray[Any, np.dtype[np.int64]]  # (N,)
Floats = np.ndarray[Any, np.dtype[np.float64]]
_BATCH_BYTES = 8 << 20  # of a batch as float32: 512 images of 32×32, 42 of 128×128, 13 of 224×224


def at_once(shape: Sequence[int], most: int) -> int:
    """Return how many images of a shape (H, W, C) are run at once, `most` or fewer where they are large.

    What a network makes of a batch is many times its input.
    """
    return max(1, min(most, _BATCH_BYTES // (4 * int(np.prod(shape)))))
