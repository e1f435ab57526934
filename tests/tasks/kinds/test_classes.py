import numpy as np
import pytest

from kfdeploy.deploy.artifact import Artifact
from kfdeploy.pool.pool import Pool
from kfdeploy.targets.base import Setup
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.kinds.classes import shares
from kfdeploy.tasks.spec import class_names
from kfdeploy.tasks.worth import calibration_error, subset_accuracy
from kfdeploy.training.writing.temperatures import fit_temperatures


def test_accuracy_counts_the_images_of_the_subset_alone():
    logits = np.array([[2, 1], [0, 1], [5, 0], [3, 4]], dtype=np.float32)
    evidence = Evidence(np.zeros((0, 1, 1, 1), np.uint8), np.zeros((0, 2), np.float32), ("a", "b", "other", "a"),
                        np.arange(4), logits)  # fmt: skip
    found = subset_accuracy(evidence, ("a", "b"))
    assert (found.value, found.images) == (pytest.approx(2 / 3), 3)
    assert np.isnan(subset_accuracy(evidence, ("x", "y")).value)


def test_it_is_the_accuracy_of_the_graph(toy, assembly, artifacts):
    """What is known from stored logits is what running the exported model on those images finds."""
    from kfdeploy.training.experiment import Experiment

    validation = Experiment(toy.recipe).validation.only(assembly.classes)
    artifact: Artifact = artifacts[0]
    with artifact.session(Setup()) as session:
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
    found = [fit_temperatures(odds[own[task]] * 3, labels[own[task]], owner)[task] for task in (0, 1)]
    assert found == pytest.approx([3, 3], rel=0.1)


def test_any_subset_is_arithmetic_and_equals_the_graph_that_is_run(toy, tmp_path):
    import itertools

    from runtimes import session

    from kfdeploy.data.splits import validation_set
    from kfdeploy.deploy.assemble import assemble
    from kfdeploy.pool.plan import Subsets
    from kfdeploy.tasks.worth import confusion

    pool = Pool.open(toy.pool)
    subsets = Subsets.of(pool.evidence(), pool.tasks)
    rows = pool.evidence().rows
    whole = validation_set(pool.manifest["recipe"]["data"], rows, pool.image)
    for k in (1, 2, 3, 4):
        for chosen in itertools.combinations(range(4), k):
            model = assemble(pool, [subsets.names[i] for i in chosen], tmp_path / "".join(map(str, chosen)))
            data = whole.only(model.classes)
            logits = session(model.graph, 1).run(None, {"image": data.load()})[0]
            right = float((logits.argmax(1) == data.labels).mean())
            assert subsets.accuracy(chosen) == pytest.approx(right)
            table = confusion(pool.evidence(model.tasks), model.classes)
            assert table.trace() / table.sum() == pytest.approx(right)


def test_the_best_subset_is_looked_for_in_all_or_one_by_one():
    from kfdeploy.pool.plan import Subsets, choose_subset

    labels = np.arange(6).repeat(10)
    logits = np.eye(6, dtype=np.float32)[labels]
    logits[labels == 1] = np.eye(6)[0]  # one is always taken for nought
    subsets = Subsets(tuple("abcdef"), np.arange(6), labels, logits)
    tasks, accuracy, whole = subsets.best(5)
    assert (tasks, accuracy, whole) == ([0, 2, 3, 4, 5], 1.0, True) or tasks == [1, 2, 3, 4, 5]
    assert subsets.best(5, most=1)[1:] == (1.0, False)
    assert choose_subset(subsets, min_accuracy=0.99).accuracy == 1.0
    assert len(choose_subset(subsets, min_accuracy=0.99).tasks) == 5
    assert len(choose_subset(subsets, min_accuracy=0.8).tasks) == 6
    assert len(choose_subset(subsets, within=3).tasks) == 3
    assert len(choose_subset(subsets, size=2, within=3).tasks) == 2


def test_what_nothing_meets_names_the_nearest():
    from kfdeploy.errors import TaskError
    from kfdeploy.pool.plan import Subsets, choose_subset

    random = np.random.default_rng(0)
    subsets = Subsets(("a", "b", "c"), np.arange(3), np.arange(3).repeat(50), random.normal(size=(150, 3)).astype("f4"))
    with pytest.raises(TaskError, match=r"no subset reaches 99 %; the nearest is \w, \w with \d\d\.\d\d %"):
        choose_subset(subsets, min_accuracy=0.99)
    with pytest.raises(TaskError, match="4 tasks were asked for, and there are 3"):
        choose_subset(subsets, size=4)
    with pytest.raises(TaskError, match="not one task fits into the budget"):
        choose_subset(subsets, within=0)
    with pytest.raises(TaskError, match="3 tasks do not fit into the budget; the nearest is 2"):
        choose_subset(subsets, size=3, within=2)
