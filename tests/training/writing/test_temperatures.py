import numpy as np
import pytest

from kfdeploy.tasks.kinds.classes import shares
from kfdeploy.training.writing.temperatures import fit_temperatures


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
    found = [fit_temperatures(odds[own[task]] * 3, labels[own[task]], owner)[task] for task in (0, 1)]
    assert found == pytest.approx([3, 3], rel=0.1)
