"""95 % intervals: of a ratio of latencies, of a difference of accuracies, and of a share."""

from collections.abc import Sequence

import numpy as np

from kfdeploy.arrays import Floats


def ratio_interval(a: Sequence[Floats], b: Sequence[Floats], seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return the ratio of medians a/b and its bootstrapped 95 % interval, from samples in paired rounds.

    Rounds are drawn again as pairs (they shared the machine's state), and samples within each round.
    """
    random = np.random.default_rng(seed)
    draws = 400
    medians = np.empty((2, len(a), draws))  # the median of each round, drawn again
    for side, rounds in enumerate((a, b)):
        for r, samples in enumerate(rounds):
            picks = random.integers(len(samples), size=(draws, len(samples)))
            medians[side, r] = np.median(samples[picks], axis=1)
    rounds_drawn = random.integers(len(a), size=(4000, len(a)))
    which = random.integers(draws, size=(2, 4000, len(a)))
    drawn = np.median(medians[0, rounds_drawn, which[0]] / medians[1, rounds_drawn, which[1]], axis=1)
    centre = float(np.median([np.median(x) / np.median(y) for x, y in zip(a, b, strict=True)]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return centre, (float(low), float(high))


def difference_interval(a: Floats, b: Floats, seed: int = 0) -> tuple[float, tuple[float, float]]:
    """Return the difference of means a − b and its paired-bootstrapped 95 % interval, over the same images."""
    paired = a - b
    counts = np.unique(paired, return_counts=True)
    # A mean over images drawn with replacement is a multinomial draw over the few values that occur.
    drawn = np.random.default_rng(seed).multinomial(len(paired), counts[1] / len(paired), size=10_000) @ counts[0]
    low, high = np.percentile(drawn / len(paired), [2.5, 97.5])
    return float(paired.mean()), (float(low), float(high))


def mean_difference_interval(
    a: Sequence[Floats], b: Sequence[Floats], seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Return the difference of mean shares a − b and its paired-bootstrapped 95 % interval, over the same images.

    Each of `a` and `b` has the marks (N,) of a field, nan where an image does not count in it; a share is the mean of
    the fields'. Images are drawn whole: what they have in one field and in another goes together.
    """
    paired = np.stack([one - other for one, other in zip(a, b, strict=True)], axis=1)  # (N, F)
    kinds, counts = np.unique(paired, axis=0, return_counts=True, equal_nan=True)
    there = ~np.isnan(kinds)
    drawn = np.random.default_rng(seed).multinomial(len(paired), counts / len(paired), size=10_000)
    known = np.maximum(drawn @ there, 1)  # (draws, F) a draw without a field's images has no difference there
    low, high = np.percentile((drawn @ np.where(there, kinds, 0.0) / known).mean(1), [2.5, 97.5])
    return float(np.mean([np.nanmean(each) for each in paired.T])), (float(low), float(high))


def wilson(share: float, images: float | None) -> tuple[float, float]:
    """Return the 95 % interval of a share that was counted over some images (Wilson 1927); without them the share."""
    if not images:
        return share, share
    z = 1.96**2 / images
    middle, half = share + z / 2, (max(share * (1 - share), 0) * z + z * z / 4) ** 0.5
    return (middle - half) / (1 + z), (middle + half) / (1 + z)
