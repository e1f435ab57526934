"""Which codes of a pool disentanglement is measured on, and the rows that say what was found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kfdeploy.arrays import Floats, Labels
from kfdeploy.errors import UnsupportedError, nearest
from kfdeploy.measuring.factors import disentanglement as measure
from kfdeploy.measuring.factors.disentanglement import Pair, Trees

CODES = ("tasks", "each", "common")
MOST = 15_000  # images, as in the published comparisons: 10,000 that are fitted on, 5,000 that are scored on


@dataclass(frozen=True)
class Sample:
    """Images in a random order: `rows` of a set, of which the first `fitted` are fitted on and the others scored on."""

    rows: Labels
    fitted: int

    @classmethod
    def of(cls, count: int, seed: int = 0) -> "Sample":
        """Return a sample of `count` images: all of them, or `MOST`; two thirds are fitted on."""
        rows = np.random.default_rng(seed).permutation(count)[:MOST]
        return cls(rows, 2 * len(rows) // 3)

    def pairs(self, codes: Floats, factors: Labels) -> tuple[Pair, Pair]:
        """Return what is fitted on and what is scored on, of codes (N, D) and factors (N, F) of the whole set."""
        first, last = self.rows[: self.fitted], self.rows[self.fitted :]
        return (codes[first], factors[first]), (codes[last], factors[last])


def check_codes(names: Sequence[str]) -> None:
    """Refuse names of codes that are none.

    Raises:
        UnsupportedError: as above.
    """
    for name in names:
        if name not in CODES:
            raise UnsupportedError(f"there are no codes '{name}'", allowed=CODES, hint=nearest(name, CODES))


def code_sets(features: Mapping[str, Floats], common: str, tasks: Sequence[str], wanted: Sequence[str],
              sample: Sample) -> dict[str, Floats]:  # fmt: skip
    """Return the wanted codes (N, D), by name, of features by name.

    `tasks`: all tasks' features side by side; `each`: of each task the first principal component of its features;
    `common`: the common network's.
    """
    check_codes(wanted)
    makers: dict[str, Callable[[], Floats]] = {
        "tasks": lambda: np.concatenate([features[name] for name in tasks], axis=1),
        "each": lambda: first_components([features[name] for name in tasks], sample),
        "common": lambda: features[common],
    }
    return {name: makers[name]() for name in dict.fromkeys(wanted)}


def first_components(sets: Sequence[Floats], sample: Sample) -> Floats:  # (N, d) each → (N, K)
    """Return the first principal component of each set, fitted on the images that are fitted on."""
    found = []
    for features in sets:
        part = features[sample.rows[: sample.fitted]]
        direction = np.linalg.eigh(np.cov(part, rowvar=False, ddof=0).reshape(part.shape[1], -1))[1][:, -1]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])  # of two directions always the same
        found.append((features - part.mean(0)) @ direction)
    return np.stack(found, axis=1)


def disentanglement_rows(
    sets: Mapping[str, Floats], factors: Labels, names: Sequence[str], sample: Sample, *, trees: Trees = "forest",
    note: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a row for each set of codes (N, D): its size, and what each measure says of it and the factors (N, F).

    Codes are brought to one scale first, as the linear classifiers of SAP depend on it. `names` are the factors';
    `note` is told beforehand how long boosting takes.

    Raises:
        DataError: see `check_factors` and `check_codes` of `disentanglement`.
        MissingDependencyError: scikit-learn is not installed.
    """
    split = {}
    for name, codes in sets.items():
        train, test = sample.pairs(_one_scale(codes, sample), factors)
        measure.check_factors(train[1], names)
        measure.check_codes(*train)
        split[name] = train, test
    if trees == "gbt" and note is not None:
        seconds = [measure.boosting_seconds(train) for train, _ in split.values()]
        each = ", ".join(f"{name} {s / 60:.1f}" for name, s in zip(split, seconds, strict=True))
        note(f"gradient boosting takes about {sum(seconds) / 60:.1f} minutes on this machine ({each})")
    rows = []
    for name, (train, test) in split.items():
        codes, values = (np.concatenate([a, b]) for a, b in zip(train, test, strict=True))
        trained = measure.dci(train, test, trees)
        numbers = {
            "mig": measure.mig(codes, values),
            "sap": measure.sap(train, test),
            "disentanglement": trained.disentanglement,
            "completeness": trained.completeness,
            "informativeness": trained.informativeness,
            "factor_vae": measure.factor_vae(codes, values),
        }
        about = {"codes": name, "D": codes.shape[1], "N": len(codes), "trees": trees, "factors": list(names)}
        rows.append(about | {key: round(value, 4) for key, value in numbers.items()})
    return rows


def _one_scale(codes: Floats, sample: Sample) -> Floats:
    """Return codes of mean 0 and deviation 1 on the images that are fitted on; those that do not vary are 0."""
    part = codes[sample.rows[: sample.fitted]]
    varies = np.ptp(part, axis=0) > 0
    return np.where(varies, codes - part.mean(0), 0.0) / np.where(varies, part.std(0), 1.0)
