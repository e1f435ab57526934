import json

import numpy as np
import pytest

from kfdeploy.errors import DataError
from kfdeploy.measuring.factors.cka import cka_matrix, linear_cka
from kfdeploy.measuring.factors.features import COMMON, features
from kfdeploy.measuring.factors.inspect import inspect
from kfdeploy.measuring.factors.probes import probe_matrix
from kfdeploy.pool.pool import Pool
from kfdeploy.report.factors import plot, sentences


def test_cka_sees_neither_rotations_nor_scales_and_tells_noise_apart():
    random = np.random.default_rng(0)
    a = random.normal(size=(500, 8))
    rotation = np.linalg.qr(random.normal(size=(8, 8)))[0]
    assert linear_cka(a, 3 * a @ rotation + 5) == pytest.approx(1)
    assert linear_cka(a, random.normal(size=(500, 8))) < 0.05
    assert linear_cka(a, np.ones((500, 3))) == 0
    b = random.normal(size=(500, 5))
    centred = [x - x.mean(0) for x in (a, b)]
    grams = [x @ x.T for x in centred]  # the definition, by kernels
    exact = (grams[0] * grams[1]).sum() / np.sqrt((grams[0] ** 2).sum() * (grams[1] ** 2).sum())
    assert linear_cka(a, b) == pytest.approx(exact)
    assert np.allclose(cka_matrix([a, b]), [[1, exact], [exact, 1]])


def test_probes_read_what_features_hold_and_nothing_else():
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 1000)
    owner = np.array([0, 0, 1, 2])
    sets = {"knows": np.eye(4)[labels] + 0.1 * random.normal(size=(1000, 4)), "noise": random.normal(size=(1000, 4))}
    found = probe_matrix(sets, labels, sets, labels, owner)
    assert found.shape == (2, 3)
    assert found[0].min() > 0.95
    assert found[1] == pytest.approx([1 / 3, 1 / 2, 1 / 2], abs=0.08)


def test_features_are_those_of_the_network(toy):
    """The pooled features, through the folded heads, are the pool's own logits."""
    from kfdeploy.training.experiment import Experiment

    pool = Pool.open(toy.pool)
    validation = Experiment(toy.recipe).validation
    found = features(pool, validation, batch=7)
    assert list(found) == [COMMON, *toy.tasks]
    logits = [
        found[COMMON] @ part.head_z.T + found[part.name] @ part.head_u.T + part.head_bias
        for part in map(pool.part, pool.tasks)
    ]
    assert np.allclose(np.concatenate(logits, 1), pool.evidence().logits, atol=1e-3)


def test_a_pool_is_inspected_whole(toy, tmp_path):
    found = inspect(toy.pool)
    json.dumps(found)
    assert np.array(found["cka"]).shape == (5, 5)
    assert np.array(found["probe"]).shape == (5, 4)
    assert found["images"] == {"validation": 20, "test": 30}
    assert found["calibration"]["subsets"] == 26  # every subset of five classes that has two or more
    text = "\n".join(sentences(found))
    for word in ("alike:", "knows:", "calibration:", "information:", "nats"):
        assert word in text
    plot(found, tmp_path / "heat.png")
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")


def test_other_images_can_be_given_and_missing_ones_are_named(toy, tmp_path):
    assert inspect(toy.pool, data=toy.data, subsets=3)["calibration"]["subsets"] == 3
    with pytest.raises(DataError, match="there is no folder"):
        inspect(toy.pool, data=tmp_path)
