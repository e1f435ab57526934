import re

import numpy as np
import pytest

from kfdeploy.errors import DataError, UnsupportedError
from kfdeploy.measuring.factors.codes import (
    CODES,
    MOST,
    Sample,
    check_codes,
    code_sets,
    disentanglement_rows,
    first_components,
)

FACTORS = np.array([(a, b) for a in range(2) for b in range(3)] * 40)


@pytest.fixture
def features():
    """A network a factor, which spreads it over three features; the common one knows both."""
    random = np.random.default_rng(0)

    def spread(values):
        return 5 + 100 * values[:, None] * [[1.0, 2.0, -1.0]] + 0.01 * random.normal(size=(len(values), 3))

    return {
        "all": FACTORS + 0.1 * random.normal(size=FACTORS.shape),
        "a": spread(FACTORS[:, 0]),
        "b": spread(FACTORS[:, 1]),
    }


def test_a_sample_is_shuffled_and_two_thirds_are_fitted_on():
    sample = Sample.of(240)
    assert sorted(sample.rows) == list(range(240))
    assert list(sample.rows) != list(range(240))
    assert sample.fitted == 160
    assert (Sample.of(240).rows == sample.rows).all()
    assert len(Sample.of(3 * MOST).rows) == MOST == 15_000
    (codes, values), (others, wanted) = sample.pairs(np.arange(240.0)[:, None], FACTORS)
    assert (len(codes), len(others)) == (160, 80)
    assert (values == FACTORS[codes[:, 0].astype(int)]).all()
    assert (wanted == FACTORS[others[:, 0].astype(int)]).all()


def test_codes_are_all_features_one_component_each_or_the_common_ones(features):
    sample = Sample.of(240)
    sets = code_sets(features, "all", ["a", "b"], CODES, sample)
    assert {name: codes.shape[1] for name, codes in sets.items()} == {"tasks": 6, "each": 2, "common": 2}
    assert (sets["tasks"] == np.concatenate([features["a"], features["b"]], 1)).all()
    for column, values in zip(sets["each"].T, FACTORS.T, strict=True):
        assert np.corrcoef(column, values)[0, 1] > 0.999  # the sign is that of the largest weight
    part = features["a"][sample.rows[:160]]
    direction = np.linalg.svd(part - part.mean(0))[2][0]
    assert np.abs(first_components([features["a"]], sample)[:, 0]) == pytest.approx(
        np.abs((features["a"] - part.mean(0)) @ direction)
    )
    assert list(code_sets(features, "all", ["a", "b"], ["common", "common"], sample)) == ["common"]
    assert first_components([features["a"][:, :1]], sample).shape == (240, 1)


def test_rows_say_how_large_codes_are_and_what_was_found(features):
    sample = Sample.of(240)
    sets = code_sets(features, "all", ["a", "b"], CODES, sample)
    rows = {row["codes"]: row for row in disentanglement_rows(sets, FACTORS, ["shape", "scale"], sample)}
    assert list(rows) == list(CODES)
    assert {key: rows["each"][key] for key in ("D", "N", "trees", "factors")} == {
        "D": 2, "N": 240, "trees": "forest", "factors": ["shape", "scale"]}  # fmt: skip
    assert rows["each"]["mig"] > 0.9 > 0.1 > rows["tasks"]["mig"]  # what is in three codes has no gap
    assert min(rows["each"][key] for key in ("informativeness", "factor_vae")) > 0.9
    assert rows["each"]["completeness"] > 0.5 > rows["tasks"]["completeness"]


def test_the_scale_of_codes_does_not_matter_and_dead_ones_do_not_disturb(features):
    sample, codes = Sample.of(240), features["all"]
    dead = np.concatenate([codes, np.full((240, 1), 0.1)], 1)
    rows = disentanglement_rows({"one": codes, "other": 1e-3 * codes + 7, "dead": dead}, FACTORS, ["a", "b"], sample)
    for key in ("mig", "sap", "informativeness", "factor_vae"):
        assert rows[0][key] == pytest.approx(rows[1][key], abs=2e-4), key
        assert rows[0][key] == pytest.approx(rows[2][key], abs=0.06), key


def test_boosting_says_its_minutes_before_it_begins(features, monkeypatch):
    said = []
    sample = Sample.of(240)

    def stop(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("kfdeploy.measuring.factors.disentanglement.dci", stop)
    with pytest.raises(KeyboardInterrupt):
        disentanglement_rows({"common": features["all"]}, FACTORS, ["a", "b"], sample, trees="gbt", note=said.append)
    assert len(said) == 1
    assert re.fullmatch(r"gradient boosting takes about \d+\.\d minutes on this machine \(common \d+\.\d\)", said[0])


def test_what_cannot_be_told_is_refused_before_anything_is_computed(features):
    with pytest.raises(DataError, match="the factor 'scale' has one value"):
        disentanglement_rows({"common": features["all"]}, FACTORS * [1, 0], ["shape", "scale"], Sample.of(240))
    with pytest.raises(UnsupportedError, match=r"there are no codes 'task' \(allowed: tasks, each, common\)") as told:
        check_codes(["each", "task"])
    assert told.value.hint == "did you mean 'tasks'?"
