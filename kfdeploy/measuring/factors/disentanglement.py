"""Is each factor in a code of its own? Four published measures of codes (N, D) and factors (N, F), as plain arrays.

Codes are real numbers; factors are whole numbers that name values, -1 where an image's is not known. Such images are
left out for that factor alone. `train` and `test` are pairs (codes, factors).
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, get_args

import numpy as np

from kfdeploy.arrays import Floats, Labels
from kfdeploy.errors import DataError, UnsupportedError, unloaded

Trees = Literal["forest", "gbt"]
Pair = tuple[Floats, Labels]  # (N, D), (N, F)
ROWS_A_VALUE = 4  # images that a factor must have for each of its values, on average
_VOTE_BYTES = 32 << 20  # of the codes that are drawn at once


@dataclass(frozen=True)
class Dci:
    """Disentanglement, completeness, informativeness, and the importance (D, F) that the former two are of."""

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Floats


def mig(codes: Floats, factors: Labels, bins: int = 20) -> float:
    """Return the mutual information gap (Chen et al. 2018, Eq. 6).

    Of each factor: how much more the best code knows of it than the second, as a share of the factor's entropy; the
    mean over factors. Codes are counted in `bins` of equal width.

    Raises:
        DataError: see `check_factors` and `check_codes`.
    """
    check_factors(factors)
    check_codes(codes, factors)
    binned = np.stack([np.digitize(code, np.histogram(code, bins)[1][1:-1]) for code in codes.T], axis=1)
    gaps = []
    for factor in factors.T:
        known = factor >= 0
        value = np.unique(factor[known], return_inverse=True)[1]
        told = np.sort([_mutual(code[known], value) for code in binned.T])
        gaps.append((told[-1] - told[-2]) / _mutual(value, value))
    return float(np.mean(gaps))


def _mutual(a: Labels, b: Labels) -> float:
    """Return the mutual information of two columns of whole numbers from 0 on (N,), in nats, by their counts."""
    shape = int(a.max()) + 1, int(b.max()) + 1
    joint = np.bincount(a * shape[1] + b, minlength=shape[0] * shape[1]).reshape(shape) / len(a)
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def sap(train: Pair, test: Pair, C: float = 0.01) -> float:
    """Return the separated attribute predictability (Kumar et al. 2018, section 3).

    Of each factor: how much more often a linear classifier on the best code alone is right than on the second best,
    fitted on `train` with balanced classes and scored on `test`; the mean over factors.

    Raises:
        DataError: see `check_factors` and `check_codes`.
        MissingDependencyError: scikit-learn is not installed.
    """
    _check_pairs(train, test)
    with _sklearn():
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import LinearSVC
    gaps = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a code that says nothing of a factor never settles
        for (codes, values), (others, wanted) in _by_factor(train, test):
            right = [
                np.mean(LinearSVC(C=C, class_weight="balanced", random_state=0).fit(a, values).predict(b) == wanted)
                for a, b in zip(codes.T[:, :, None], others.T[:, :, None], strict=True)
            ]
            first, second = np.sort(right)[::-1][:2]
            gaps.append(first - second)
    return float(np.mean(gaps))


def dci(train: Pair, test: Pair, by: Trees = "forest", *, trees: int = 100) -> Dci:
    """Return disentanglement, completeness and informativeness (Eastwood & Williams 2018, section 2).

    `by` says what tells of each code how important it is for each factor: a random forest, or gradient boosting as
    the published comparisons have it, which takes a hundred times as long. Informativeness is the mean over factors
    of how often it is right on `test`.

    Raises:
        DataError: see `check_factors` and `check_codes`.
        UnsupportedError: `by` is neither.
        MissingDependencyError: scikit-learn is not installed.
    """
    _check_pairs(train, test)
    importance = np.zeros((train[0].shape[1], train[1].shape[1]))
    right = []
    for f, ((codes, values), (others, wanted)) in enumerate(_by_factor(train, test)):
        fitted = _trees(by, trees).fit(codes, values)
        importance[:, f] = np.abs(fitted.feature_importances_)  # of boosting some are -1e-17
        right.append(np.mean(fitted.predict(others) == wanted))
    disentangled, complete = from_importance(importance)
    return Dci(disentangled, complete, float(np.mean(right)), importance)


def boosting_seconds(train: Pair, trees: int = 100) -> float:
    """Return about how long `dci(train, …, by="gbt")` takes here: a few rounds for one factor are timed.

    Raises:
        DataError: see `check_factors` and `check_codes`.
        MissingDependencyError: scikit-learn is not installed.
    """
    check_factors(train[1])
    check_codes(*train)
    # A round has a tree for each value of a factor; for two values it has one.
    each = [count if count > 2 else 1 for count in (len(np.unique(f[f >= 0])) for f in train[1].T)]
    least = int(np.argmin(each))
    (codes, values), _ = next(_by_factor((train[0], train[1][:, [least]]), (train[0], train[1][:, [least]])))
    taken = []
    for rounds in (1, 2, 6):  # the first warms up, and the others' difference leaves out what a fit begins with
        start = perf_counter()
        _trees("gbt", rounds).fit(codes, values)
        taken.append(perf_counter() - start)
    return max(taken[2] - taken[1], 1e-6) / 4 * trees * sum(each) / each[least]


def from_importance(importance: Floats) -> tuple[float, float]:
    """Return disentanglement and completeness of an importance (D, F), none of it negative.

    Disentanglement is 1 where each code matters for one factor alone, completeness where each factor is in one code
    alone; both are 0 where everything matters alike, or nothing at all. Codes and factors weigh as much as they matter.

    Raises:
        DataError: it is no such matrix.
    """
    R = np.asarray(importance, np.float64)
    if R.ndim != 2 or min(R.shape) < 2 or not np.isfinite(R).all() or R.min() < 0:
        raise DataError(
            f"importance of shape {R.shape} is no matrix of two codes and two factors or more, finite and from 0 on"
        )
    total = R.sum()
    if total == 0:
        return 0.0, 0.0

    def one_sided(rows: Floats) -> float:
        kept = rows[rows.sum(1) > 0]
        shares = kept / kept.sum(1, keepdims=True)
        entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(1) / np.log(rows.shape[1])
        return float((kept.sum(1) / total * (1 - entropy)).sum())

    return one_sided(R), one_sided(R.T)


def factor_vae(
    codes: Floats, factors: Labels, batch: int = 64, votes: int = 10000, evaluate: int = 5000, seed: int = 0
) -> float:
    """Return the FactorVAE score (Kim & Mnih 2018, section 3).

    Images are drawn that share the value of one factor, and the code that varies least among them, for how much it
    varies in all, votes for that factor. The score is how often the majority of `votes` is right about `evaluate` more.
    Codes that never vary have no vote; values that only one image has are not drawn.

    Raises:
        DataError: see `check_factors` and `check_codes`.
    """
    check_factors(factors)
    check_codes(codes, factors)
    live = codes[:, np.ptp(codes, axis=0) > 0]
    if not live.shape[1]:
        return 0.0
    live = (live - live.mean(0)) / live.std(0)
    groups = _groups(factors)
    random = np.random.default_rng(seed)
    taught, asked = (_votes(live, groups, batch, count, random) for count in (votes, evaluate))
    return float(asked[np.arange(live.shape[1]), taught.argmax(1)].sum() / evaluate)


def _groups(factors: Labels) -> list[list[Labels]]:
    """Return of each factor the rows of each value that two images or more have."""
    found = []
    for factor in factors.T:
        order = np.argsort(factor, kind="stable")
        starts = np.flatnonzero(np.diff(factor[order], prepend=factor[order[0]] - 1))
        found.append([rows for rows in np.split(order, starts[1:]) if factor[rows[0]] >= 0 and len(rows) > 1])
    return found


def _votes(codes: Floats, groups: Sequence[Sequence[Labels]], batch: int, count: int, random: Any) -> Labels:
    """Return how many of `count` draws each code (D, a row) has voted for of each factor (F, a column)."""
    rows = np.concatenate([each for some in groups for each in some])  # of one group after another
    sizes = np.array([len(each) for some in groups for each in some])
    starts = np.cumsum(sizes) - sizes
    numbers = np.array([len(some) for some in groups])
    firsts = np.cumsum(numbers) - numbers
    D, F = codes.shape[1], len(groups)
    found = np.zeros((D, F), np.int64)
    most = max(1, _VOTE_BYTES // (8 * batch * D))
    for start in range(0, count, most):
        n = min(most, count - start)
        factor = random.integers(F, size=n)
        group = firsts[factor] + (random.random(n) * numbers[factor]).astype(np.int64)
        inside = (random.random((n, batch)) * sizes[group][:, None]).astype(np.int64)
        drawn = codes[rows[starts[group][:, None] + inside]]  # (n, batch, D)
        np.add.at(found, (drawn.var(1).argmin(1), factor), 1)
    return found


def check_trees(by: str) -> None:
    """Refuse trees that are not there.

    Raises:
        UnsupportedError: as above.
    """
    if by not in get_args(Trees):
        raise UnsupportedError(f"there are no trees '{by}'", allowed=get_args(Trees), hint="--trees forest")


def check_factors(factors: Labels, names: Sequence[str] = ()) -> None:
    """Refuse factors (N, F) of which nothing can be said; `names` are what they are called.

    Raises:
        DataError: they are fewer than two, or not whole numbers; one is the same on all images, or there are fewer
            than `ROWS_A_VALUE` images for each of its values.
    """
    factors = np.asarray(factors)
    if factors.ndim != 2 or not np.issubdtype(factors.dtype, np.integer):
        raise DataError(f"factors are {factors.dtype} of shape {factors.shape}, and not whole numbers (N, F)")
    if factors.shape[1] < 2:
        raise DataError(f"there is {factors.shape[1]} factor, and disentanglement is of two or more")
    for f, factor in enumerate(factors.T):
        name = f"'{names[f]}'" if names else f"number {f}"
        known = factor[factor >= 0]
        values = len(np.unique(known))
        if values < 2:
            said = "one value" if values else "no value that is known"
            raise DataError(f"the factor {name} has {said} on all {len(factor)} images, and nothing varies with it")
        if len(known) < ROWS_A_VALUE * values:
            raise DataError(
                f"the factor {name} is known of {len(known)} images and has {values} values: too few to tell, at least "
                f"{ROWS_A_VALUE * values} are needed"
            )


def check_codes(codes: Floats, factors: Labels) -> None:
    """Refuse codes (N, D) that are none of these factors'.

    Raises:
        DataError: they are fewer than two, are of other images, or have a value that is not finite.
    """
    if np.ndim(codes) != 2 or len(codes) != len(factors):
        raise DataError(f"codes have shape {np.shape(codes)}, and the factors are of {len(factors)} images")
    if codes.shape[1] < 2:
        raise DataError(f"there is {codes.shape[1]} code, and a factor stands apart in one of two or more")
    if not np.isfinite(codes).all():
        where = np.argwhere(~np.isfinite(codes))[0]
        raise DataError(f"codes are not finite: image {where[0]}, code {where[1]} is {codes[tuple(where)]}")


def _check_pairs(train: Pair, test: Pair) -> None:
    check_factors(train[1])
    for pair in (train, test):
        check_codes(*pair)
    if train[0].shape[1] != test[0].shape[1] or train[1].shape[1] != test[1].shape[1]:
        raise DataError(
            f"train has codes and factors of shapes {train[0].shape} and {train[1].shape}, test has {test[0].shape} "
            f"and {test[1].shape}"
        )
    if lost := np.flatnonzero((test[1] < 0).all(0)).tolist():
        raise DataError(f"the factor number {lost[0]} is known of no image of test, and nothing can be scored")


def _by_factor(train: Pair, test: Pair) -> Iterator[tuple[Pair, Pair]]:
    """Give of each factor the codes and values (N,) of the images of which it is known."""
    for f in range(train[1].shape[1]):
        kept = [pair[1][:, f] >= 0 for pair in (train, test)]
        (a, b), (c, d) = ((x[k], y[k, f]) for (x, y), k in zip((train, test), kept, strict=True))
        yield (a, b), (c, d)


def _trees(by: str, trees: int) -> Any:
    """Return an unfitted classifier of trees that tells how important each of its inputs is."""
    check_trees(by)
    with _sklearn():
        from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
    if by == "gbt":
        return GradientBoostingClassifier(n_estimators=trees, random_state=0)
    return RandomForestClassifier(trees, random_state=0, n_jobs=-1)


@contextmanager
def _sklearn() -> Iterator[None]:
    """Say what to install where an import in here fails."""
    try:
        yield
    except ImportError as error:
        absent = "disentanglement is measured with scikit-learn, which is not installed"
        raise unloaded(error, "sklearn", absent, 'pip install "kfdeploy[train]"') from None
