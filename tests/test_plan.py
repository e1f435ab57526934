import numpy as np
import pytest

from kfdeploy.artifact import Artifact
from kfdeploy.plan import calibrate, calibration_error, shares, subset_accuracy
from kfdeploy.pool import Evidence, Pool
from kfdeploy.spec import class_names
from kfdeploy.targets.base import Device


def test_accuracy_counts_the_images_of_the_subset_alone():
    logits = np.array([[2, 1], [0, 1], [5, 0], [3, 4]], dtype=np.float32)
    evidence = Evidence(np.zeros((0, 1, 1, 1), np.uint8), np.zeros((0, 2), np.float32), ("a", "b", "other", "a"),
                        np.arange(4), logits)  # fmt: skip
    found = subset_accuracy(evidence, ("a", "b"))
    assert (found.value, found.images) == (pytest.approx(2 / 3), 3)
    assert np.isnan(subset_accuracy(evidence, ("x", "y")).value)


def test_it_is_the_accuracy_of_the_graph(toy, assembly, artifacts):
    """What is known from stored logits is what running the exported model on those images finds."""
    from kfdeploy.experiment import Experiment

    validation = Experiment(toy.recipe).validation.only(assembly.classes)
    artifact: Artifact = artifacts[0]
    with artifact.session(Device()) as session:
        logits = session.run({"image": validation.load()})["logits"]
    ran = (logits.argmax(1) == validation.labels).mean()
    pool = Pool.open(toy.pool)
    tasks = pool.choose(["sea horse", "pets"])
    planned = subset_accuracy(pool.evidence(tasks), class_names(tasks))
    assert planned.value == pytest.approx(float(ran))
    assert planned.images == len(validation)


def evidence_of(logits, labels):
    empty = np.zeros((0, logits.shape[1]), np.float32)
    return Evidence(np.zeros((0, 1, 1, 1), np.uint8), empty, tuple(labels), np.arange(len(labels)), logits)


def test_calibration_error_is_confidence_minus_accuracy_where_all_lie_in_one_bin():
    logits = np.log(np.array([[0.8, 0.2]] * 10, dtype=np.float32))
    found = evidence_of(logits, ["a"] * 5 + ["b"] * 5)
    assert calibration_error(found, ("a", "b")) == pytest.approx(0.3)
    assert calibration_error(evidence_of(logits, ["a"] * 8 + ["b"] * 2), ("a", "b")) == pytest.approx(0.0, abs=1e-6)
    assert shares(logits)[0] == pytest.approx([0.8, 0.2])


def test_calibrating_finds_the_temperature_that_was_put_in():
    random = np.random.default_rng(0)
    odds = random.normal(size=(20000, 3)) * 2  # tasks of one, and of two classes
    owner = np.array([0, 1, 1])
    labels = np.full(len(odds), -1)
    each = [np.concatenate([np.zeros((len(odds), 1)), odds[:, owner == task]], 1) for task in (0, 1)]
    for task, rows in enumerate(each):
        drawn = (shares(rows).cumsum(1) < random.random((len(odds), 1))).sum(1)
        half = np.arange(len(odds)) % 2 == task  # a label is one task's class, and "other" to the other task
        labels[half] = np.where(drawn[half] > 0, np.flatnonzero(owner == task)[np.maximum(drawn[half] - 1, 0)], 9)
    own = [np.arange(len(odds)) % 2 == task for task in (0, 1)]
    found = [calibrate(odds[own[task]] * 3, labels[own[task]], owner)[task] for task in (0, 1)]
    assert found == pytest.approx([3, 3], rel=0.1)
