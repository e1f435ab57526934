import numpy as np
import pytest

from kfdeploy.deploy.artifact import Artifact
from kfdeploy.pool.pool import Pool
from kfdeploy.targets.base import Setup
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.tasks.worth import calibration_error, confusions, subset_accuracy


def test_accuracy_counts_the_images_of_the_subset_alone():
    logits = np.array([[2, 1], [0, 1], [5, 0], [3, 4]], dtype=np.float32)
    evidence = Evidence(np.zeros((0, 1, 1, 1), np.uint8), np.zeros((0, 2), np.float32), {"class": ("a", "b", "other", "a")},
                        np.arange(4), logits)  # fmt: skip
    found = subset_accuracy(evidence, [TaskSpec("t", ("a", "b"))])
    assert (found.value, found.images) == (pytest.approx(2 / 3), 3)
    assert np.isnan(subset_accuracy(evidence, [TaskSpec("t", ("x", "y"))]).value)


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
    planned = subset_accuracy(pool.evidence(tasks), tasks)
    assert planned.value == pytest.approx(float(ran))
    assert planned.images == len(validation)


AB = TaskSpec("t", ("a", "b"))


def evidence_of(logits, labels):
    empty = np.zeros((0, logits.shape[1]), np.float32)
    return Evidence(np.zeros((0, 1, 1, 1), np.uint8), empty, {"class": tuple(labels)}, np.arange(len(labels)), logits)


def test_calibration_error_is_confidence_minus_accuracy_where_all_lie_in_one_bin():
    logits = np.log(np.array([[0.8, 0.2]] * 10, dtype=np.float32))
    found = evidence_of(logits, ["a"] * 5 + ["b"] * 5)
    assert calibration_error(found, [AB]) == pytest.approx(0.3)
    assert calibration_error(evidence_of(logits, ["a"] * 8 + ["b"] * 2), [AB]) == pytest.approx(0.0, abs=1e-6)


def test_any_subset_is_arithmetic_and_equals_the_graph_that_is_run(toy, tmp_path):
    import itertools

    from runtimes import session

    from kfdeploy.data.splits import validation_set
    from kfdeploy.deploy.assemble import assemble
    from kfdeploy.pool.plan import Subsets

    pool = Pool.open(toy.pool)
    subsets = Subsets.of(pool.evidence(), pool.tasks)
    whole = validation_set(pool.data, pool.seen(), pool.image)
    for k in (1, 2, 3, 4):
        for chosen in itertools.combinations(range(4), k):
            model = assemble(pool, [subsets.names[i] for i in chosen], tmp_path / "".join(map(str, chosen)))
            data = whole.only(model.classes)
            logits = session(model.graph, 1).run(None, {"image": data.load()})[0]
            right = float((logits.argmax(1) == data.labels).mean())
            assert subsets.accuracy(chosen) == pytest.approx(right)
            table = confusions(pool.evidence(model.tasks), model.tasks)["class"]
            assert table.trace() / table.sum() == pytest.approx(right)
