"""Names for the arrays that travel between the rooms."""

from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]  # by name
Images = np.ndarray[Any, np.dtype[np.uint8]]  # (N, H, W, C)
Content = np.ndarray[Any, np.dtype[np.uint8]]  # (N, 8) a hash of each image's content
Labels = np.ndarray[Any, np.dtype[np.int64]]  # (N,)
Floats = np.ndarray[Any, np.dtype[np.float64]]
