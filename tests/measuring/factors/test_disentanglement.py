"""Constructed codes and values by hand, each measure against its own definition; what cannot be told is refused."""

import sys

import numpy as np
import pytest

from kfdeploy.errors import DataError, MissingDependencyError, UnsupportedError
from kfdeploy.measuring.factors.disentanglement import (
    boosting_seconds,
    check_factors,
    dci,
    factor_vae,
    from_importance,
    mig,
    sap,
)

NAN, NONE = float("nan"), -1


def entropy(share):
    """Return the entropy of a coin, in bits."""
    return -(share * np.log2(share) + (1 - share) * np.log2(1 - share))


def split(codes, factors):
    """Return the halves that are fitted on and scored on, in a random order."""
    order = np.random.default_rng(0).permutation(len(codes))
    first, last = np.split(order, 2)
    return (codes[first], factors[first]), (codes[last], factors[last])


@pytest.fixture(scope="module")
def factors():
    """Every pair of four and of three levels, 400 times."""
    return np.array([(a, b) for a in range(4) for b in range(3)] * 400)


@pytest.fixture(scope="module")
def cases(factors):
    random = np.random.default_rng(0)
    turned = (factors - factors.mean(0)) @ np.array([[1, 1], [-1, 1]]) / np.sqrt(2)
    return {
        "same": factors.astype(float),
        "twice": np.concatenate([factors, factors], 1).astype(float),
        "turned": turned + 1e-9 * random.normal(size=factors.shape),
        "noise": random.normal(size=factors.shape),
        "more": np.concatenate([factors, random.normal(size=(len(factors), 6))], 1),
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("same", (1.0, 0.591, 1.0, 1.0, 1.0, 1.0)),
        ("twice", (0.0, 0.0, 1.0, 0.514, 1.0, 1.0)),
        ("turned", (0.0, 0.006, 0.008, 0.015, 1.0, 0.51)),
        ("noise", (0.0, 0.012, 0.005, 0.005, 0.295, 0.50)),
        ("more", (0.995, 0.572, 1.0, 1.0, 1.0, 1.0)),
    ],
)
def test_constructed_codes_score_what_they_must(cases, factors, name, expected):
    codes = cases[name]
    pairs = split(codes, factors)
    trained = dci(*pairs, "gbt", trees=20)
    found = (mig(codes, factors), sap(*pairs), trained.disentanglement, trained.completeness, trained.informativeness,
             factor_vae(codes, factors, votes=800, evaluate=400))  # fmt: skip
    assert found[:5] == pytest.approx(expected[:5], abs=0.02)
    assert found[5] == pytest.approx(expected[5], abs=0.06)  # of 400 draws
    assert trained.importance.shape == (codes.shape[1], 2)


def test_a_forest_tells_whole_codes_from_turned_ones(cases, factors):
    whole, turned = (dci(*split(cases[name], factors), trees=10) for name in ("same", "turned"))
    assert min(whole.disentanglement, whole.completeness) > 0.9 > 0.1 > max(turned.disentanglement, turned.completeness)
    again = dci(*split(cases["same"], factors), trees=10)
    assert again.completeness == whole.completeness  # seeded


def test_the_gap_of_a_code_that_is_right_in_three_of_four_is_known_by_hand():
    bit = np.repeat([0, 1], 4)[:, None]
    right, nothing = [0, 0, 0, 1, 0, 1, 1, 1.0], [0, 1, 0, 1, 0, 1, 0, 1.0]
    found = mig(np.stack([right, nothing], 1), np.concatenate([bit, bit], 1))
    assert found == pytest.approx(1 - entropy(1 / 4), abs=1e-14)
    assert found == pytest.approx(0.188722, abs=1e-6)


def test_two_balanced_bits_are_half_predictable_by_the_other_code():
    bits = np.array([(a, b) for a in range(2) for b in range(2)] * 100)
    assert sap((bits + 0.0, bits), (bits + 0.0, bits)) == 0.5


@pytest.mark.parametrize(
    ("importance", "disentangled", "complete"),
    [
        (np.eye(2), 1, 1),
        (np.ones((2, 2)), 0, 0),
        (np.zeros((2, 2)), 0, 0),
        ([[0.9, 0.1], [0.1, 0.9]], 1 - entropy(0.1), 1 - entropy(0.1)),
        ([[1, 0], [0, 1], [0, 0]], 1, 1),  # a dead third code counts for nothing
        ([[1, 0], [1, 0], [0, 2]], 1, 1 - np.log(2) / np.log(3) / 2),  # the first factor in two codes of three
    ],
)
def test_importance_by_hand(importance, disentangled, complete):
    assert from_importance(np.array(importance)) == pytest.approx((disentangled, complete), abs=1e-12)


@pytest.mark.parametrize("importance", [np.ones(3), np.ones((1, 2)), np.array([[1, -1], [1, 1]]), np.full((2, 2), NAN)])
def test_importance_that_is_none_is_refused(importance):
    with pytest.raises(DataError, match="no matrix of two codes and two factors or more, finite and from 0 on"):
        from_importance(importance)


def test_the_vote_is_each_group_s_least_varying_code():
    """Values that one image has are not drawn, nor do codes vote that never vary; all dead is 0."""
    factors = np.array([[0, 0], [0, 1], [1, 0], [1, 1]] * 5 + [[2, 0], [NONE, 1]])
    codes = np.concatenate([factors + 0.0, np.full((22, 1), 3.0)], 1)
    assert factor_vae(codes, factors, batch=8, votes=60, evaluate=30) == 1
    assert factor_vae(np.full((22, 2), 0.1), factors) == 0
    # By draws of one at a time, from the definition.
    random = np.random.default_rng(1)
    codes = factors @ [[1.0, 0.6], [0.2, 1.0]] + 0.3 * random.normal(size=(22, 2))
    scaled, right = codes / codes.std(0), []
    votes = {}
    for draw in range(600):
        f = random.integers(2)
        value = random.choice([v for v in (0, 1) if (factors[:, f] == v).sum() > 1])
        rows = random.choice(np.flatnonzero(factors[:, f] == value), 16)
        votes.setdefault(draw < 400, []).append((scaled[rows].var(0).argmin(), f))
    for code, f in votes[False]:
        of = [g for d, g in votes[True] if d == code]
        right.append(f == max(set(of), key=of.count))
    assert factor_vae(codes, factors, 16, 4000, 2000) == pytest.approx(np.mean(right), abs=0.1)


def test_what_is_not_known_of_a_factor_is_left_out_for_it_alone(cases, factors):
    gaps = factors.copy()
    gaps[::3, 0] = NONE
    codes = cases["more"][:, :4]
    assert mig(codes, gaps) != mig(codes, factors)
    assert mig(codes, gaps) == pytest.approx(mig(codes, factors), abs=0.03)
    pairs, whole = split(codes, gaps), split(codes, factors)
    assert sap(*pairs) == pytest.approx(sap(*whole), abs=0.05)
    assert dci(*pairs, trees=10).informativeness == pytest.approx(1, abs=0.01)
    assert factor_vae(codes, gaps, votes=400, evaluate=200) == 1


def test_boosting_is_timed_before_it_is_asked_for(cases, factors):
    seconds = boosting_seconds((cases["same"], factors), trees=20)
    assert 0 < seconds < 60
    assert boosting_seconds((cases["same"], factors), trees=20_000) > seconds


GOOD = np.array([(a, b) for a in range(2) for b in range(2)] * 4)


@pytest.mark.parametrize(
    ("codes", "factors", "said"),
    [
        (GOOD + 0.0, GOOD[:, :1], "there is 1 factor, and disentanglement is of two or more"),
        (GOOD + 0.0, GOOD + 0.0, r"factors are float64 of shape \(16, 2\), and not whole numbers"),
        (GOOD + 0.0, GOOD * [1, 0], "the factor number 1 has one value on all 16 images"),
        (GOOD + 0.0, GOOD * [1, 0] - [0, 1], "the factor number 1 has no value that is known on all 16 images"),
        (GOOD + 0.0, np.stack([GOOD[:, 0], np.arange(16)], 1), "known of 16 images and has 16 values.* at least 64"),
        (GOOD[:4] + 0.0, GOOD[:4], "known of 4 images and has 2 values: too few to tell, at least 8 are needed"),
        (GOOD[:, :1] + 0.0, GOOD, "there is 1 code"),
        (GOOD[:9] + 0.0, GOOD, r"codes have shape \(9, 2\), and the factors are of 16 images"),
        (GOOD + np.where(np.arange(16) == 3, NAN, 0)[:, None], GOOD, "image 3, code 0 is nan"),
        (np.where(GOOD, np.inf, 0), GOOD, "image 1, code 1 is inf"),
    ],
)
def test_what_tells_nothing_is_refused(codes, factors, said):
    for measure in (mig, factor_vae):
        with pytest.raises(DataError, match=said):
            measure(codes, factors)
    for measure in (sap, dci):
        with pytest.raises(DataError, match=said):
            measure((codes, factors), (codes, factors))
    with pytest.raises(DataError, match=said):
        boosting_seconds((codes, factors))


def test_refusals_name_factors_that_have_names():
    with pytest.raises(DataError, match="the factor 'scale' has one value"):
        check_factors(GOOD * [1, 0], ["shape", "scale"])


def test_what_is_fitted_on_and_what_is_scored_on_must_fit():
    pair = GOOD + 0.0, GOOD
    with pytest.raises(DataError, match="train has codes and factors of shapes"):
        sap(pair, (np.ones((16, 3)), GOOD))
    with pytest.raises(DataError, match="the factor number 1 is known of no image of test"):
        dci(pair, (GOOD + 0.0, GOOD * [1, 0] - [0, 1]))
    with pytest.raises(UnsupportedError, match=r"there are no trees 'oak' \(allowed: forest, gbt\)"):
        dci(pair, pair, "oak")


class Without:
    """An import path on which scikit-learn is not there."""

    def find_spec(self, name, path=None, target=None):
        if name == "sklearn":
            raise ModuleNotFoundError("No module named 'sklearn'", name=name)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Without(), *sys.meta_path])
    pair = GOOD + 0.0, GOOD
    for measure in (sap, dci):
        with pytest.raises(MissingDependencyError, match="disentanglement is measured with scikit-learn") as told:
            measure(pair, pair)
        assert told.value.hint == 'pip install "kfdeploy[train]"'
    assert mig(*pair) == factor_vae(*pair) == 1  # by numpy alone
