import numpy as np
import pytest

from kfdeploy.artifact import Artifact
from kfdeploy.plan import subset_accuracy
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
