import numpy as np
import pytest

from kfdeploy.tasks.grouping import confusions, group_classes


def test_confusions_are_mean_answers_by_class():
    probabilities = np.array([[0.8, 0.2, 0], [0.6, 0.4, 0], [0, 0.5, 0.5]], np.float32)
    found = confusions(probabilities, np.array([0, 0, 1]))
    assert found == pytest.approx(np.array([[0.7, 0.3, 0], [0, 0.5, 0.5], [0, 0, 0]]), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_classes_that_are_confused_are_one_task(seed):
    random = np.random.default_rng(seed)
    truth = random.permutation(np.repeat(np.arange(4), 3))
    confused = 0.3 * (truth[:, None] == truth[None]) + random.uniform(0, 0.1, (12, 12))
    names = [f"class {i}" for i in range(12)]
    tasks = group_classes(confused, names, 4)
    assert sorted(tuple(sorted(truth[names.index(c)] for c in task.classes)) for task in tasks) == [
        (i, i, i) for i in range(4)
    ]
    assert [task.classes[0] for task in tasks] == sorted((t.classes[0] for t in tasks), key=names.index)
    assert all(task.name.removesuffix("+2") in task.classes for task in tasks)
    assert tasks == group_classes(confused, names, 4)


def test_sizes_are_as_even_as_can_be_and_every_class_has_one_place():
    confused = np.random.default_rng(0).uniform(size=(11, 11))
    names = [str(i) for i in range(11)]
    for count in (2, 3, 5, 11):
        tasks = group_classes(confused, names, count)
        sizes = [len(task.classes) for task in tasks]
        assert max(sizes) - min(sizes) <= 1
        assert sorted((c for task in tasks for c in task.classes), key=int) == names
        assert len({task.name for task in tasks}) == count
    assert [task.name for task in group_classes(confused, names, 11)] == names


def test_an_exchange_betters_what_greed_began():
    """The two closest pairs share a class: greed takes one pair whole, and the best division is another."""
    confused = np.zeros((4, 4))
    for a, b, value in ((0, 1, 1.0), (1, 2, 0.9), (0, 3, 0.9), (2, 3, 0.0)):
        confused[a, b] = value
    found = {frozenset(task.classes) for task in group_classes(confused, list("abcd"), 2)}
    assert found == {frozenset("ad"), frozenset("bc")}
