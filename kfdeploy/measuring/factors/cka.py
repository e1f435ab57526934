"""How alike two sets of features are: linear centred kernel alignment."""

import itertools
from collections.abc import Sequence

import numpy as np

from kfdeploy.arrays import Floats


def linear_cka(a: Floats, b: Floats) -> float:  # (N, p), (N, q)
    """Return linear centred kernel alignment, exactly, over all rows at once (Kornblith et al. 2019, Eq. 3).

    ‖BᵀA‖² / (‖AᵀA‖ ‖BᵀB‖) of the centred columns: 1 for features that differ by a rotation and a scale, 0 where one
    set does not vary.
    """
    a, b = a - a.mean(0), b - b.mean(0)
    across = float(np.linalg.norm(b.T @ a) ** 2)
    within = float(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    return across / within if within > 0 else 0.0


def cka_matrix(sets: Sequence[Floats]) -> Floats:
    """Return the linear CKA of every pair, (F, F)."""
    out = np.eye(len(sets))
    for i, j in itertools.combinations(range(len(sets)), 2):
        out[i, j] = out[j, i] = linear_cka(sets[i], sets[j])
    return out
