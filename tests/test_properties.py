"""What holds for every subset of a pool's tasks in every order: examples are drawn by hypothesis, the same each time."""

import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pools import grow, images_of, logits_of, rows_of
from runtimes import session

from kfdeploy.deploy.assemble import assemble
from kfdeploy.pool.plan import Subsets
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.spec import class_names
from kfdeploy.tasks.worth import subset_accuracy

TASKS = ("pets", "sea horse", "élan", "ünï/c", "fish", "eel")
SUBSETS = st.lists(st.sampled_from(TASKS), min_size=1, max_size=len(TASKS), unique=True)
drawn = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def world(toy, tmp_path_factory):
    """A pool of the toy's tasks and two that were added, its validation images, and each task's logits alone."""
    root = tmp_path_factory.mktemp("properties")
    shutil.copytree(toy.pool, root / "pool")
    junk = rows_of(Pool.open(root / "pool"), "junk")
    grow(root / "pool", "fish", junk[:6])
    grow(root / "pool", "eel", junk[6:], seed=2)
    pool = Pool.open(root / "pool")
    evidence = pool.evidence()
    images = images_of(pool, evidence.rows)
    alone = {name: logits_of(pool, [name], images)[0] for name in TASKS}
    return root, pool, evidence, images, alone


@drawn
@given(names=SUBSETS, form=st.sampled_from(["bank", "branches"]))
def test_a_task_s_logits_never_change(world, names, form):
    root, pool, _, images, alone = world
    model = assemble(pool, names, root / "assembly", fuse=form, force=True)
    logits = session(model.graph, 1).run(None, {"image": images})[0]
    expected = np.concatenate([alone[name] for name in names], axis=1)
    assert (np.abs(logits - expected) <= 1e-5 * np.maximum(1, np.abs(expected))).all()


@drawn
@given(names=SUBSETS)
def test_a_planned_accuracy_is_that_of_the_graph_that_is_run(world, names):
    root, pool, whole, images, _ = world
    chosen = pool.choose(names)
    classes = class_names(chosen)
    planned = subset_accuracy(pool.evidence(chosen), chosen)
    at_once = Subsets.of_pool(pool).accuracy([TASKS.index(name) for name in names])
    model = assemble(pool, names, root / "assembly", force=True)
    logits = session(model.graph, 1).run(None, {"image": images})[0]
    inside = [i for i, label in enumerate(whole.labels["class"]) if label in classes]
    labels = [classes.index(whole.labels["class"][i]) for i in inside]
    ran = float((logits[inside].argmax(1) == labels).mean())
    assert planned.images == len(inside)
    assert planned.value == pytest.approx(ran, abs=1e-12)
    assert at_once == pytest.approx(ran, abs=1e-12)
    assert model.manifest["accuracy"] == {"validation": planned.value, "images": len(inside)}
