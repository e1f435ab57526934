import itertools

import numpy as np
import pytest
from pools import grown_apart

from kfdeploy.errors import PoolError, TaskError, UnsupportedError
from kfdeploy.pool.plan import Candidate, Subsets, choose_subset, plain_words
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.tasks.worth import known_accuracy, subset_accuracy


def made_up(tasks, images, seed=0):
    random = np.random.default_rng(seed)
    specs = [TaskSpec(f"t{i}", tuple(f"t{i}c{j}" for j in range(1 + i % 3))) for i in range(tasks)]
    classes = [name for task in specs for name in task.classes]
    labels = [*classes, *(random.choice([*classes, "none of them"]) for _ in range(images))]
    logits = random.integers(0, 4, (len(labels), len(classes))).astype(np.float32)  # many are equal
    empty = np.zeros((0, len(classes)), np.float32)
    return specs, Evidence(
        np.zeros((0, 1, 1, 1), np.uint8), empty, {"class": tuple(labels)}, np.arange(len(labels)), logits
    )


def test_every_subset_at_once_is_each_by_itself():
    specs, evidence = made_up(6, 300)
    masks, values, images = Subsets.of(evidence, specs).every()
    assert len({tuple(mask) for mask in masks.tolist()}) == 63
    assert masks.sum(1).tolist() == sorted(masks.sum(1).tolist())
    owner = np.repeat(np.arange(6), [len(task.classes) for task in specs])
    for mask, value, count in zip(masks, values, images, strict=True):
        part = Evidence(
            evidence.images, evidence.golden, evidence.labels, evidence.rows, evidence.logits[:, mask[owner]]
        )
        alone = subset_accuracy(part, [task for task, there in zip(specs, mask, strict=True) if there])
        assert (value, count) == (pytest.approx(alone.value, abs=1e-12), alone.images)


def test_many_tasks_are_not_told_one_by_one():
    specs, evidence = made_up(17, 10)
    with pytest.raises(
        UnsupportedError, match=r"17 tasks have too many subsets to tell each: at most 16 tasks \(65,535"
    ) as caught:
        Subsets.of(evidence, specs).every()
    assert "--tasks" in caught.value.hint
    specs, evidence = made_up(16, 500)
    _, values, _ = Subsets.of(evidence, specs).every()
    assert len(values) == 2**16 - 1
    assert not np.isnan(values).any()
    # Beyond 64 tasks images are not grouped by what beats them: the numbers are the same.
    specs, evidence = made_up(70, 400)
    subsets = Subsets.of(evidence, specs)
    wanted = [0, 5, 33, 69]
    classes = [name for i in wanted for name in specs[i].classes]
    columns = [i for i, name in enumerate(n for task in specs for n in task.classes) if name in classes]
    part = Evidence(evidence.images, evidence.golden, evidence.labels, evidence.rows, evidence.logits[:, columns])
    assert subsets.accuracy(wanted) == pytest.approx(subset_accuracy(part, [specs[i] for i in wanted]).value)


def test_what_is_known_of_a_pool_that_grew_by_merging(pool, tmp_path):
    merged = grown_apart(pool, tmp_path)
    masks, values, images = Subsets.of_pool(merged).every()
    for mask, value, count in zip(masks, values, images, strict=True):
        chosen = [task for task, there in zip(merged.tasks, mask, strict=True) if there]
        known = known_accuracy(merged.evidence(chosen), chosen)
        names = {task.name for task in chosen}
        assert (known is None) == ("eel" in names and len(names) > 1), names
        assert np.isnan(value) if known is None else (value, count) == (pytest.approx(known.value), known.images)
    found = choose_subset(Subsets.of_pool(merged), size=5)
    assert 5 not in found.tasks
    with pytest.raises(PoolError, match="what subsets are worth cannot be known"):
        choose_subset(Subsets.of_pool(merged), size=6)
    assert len(choose_subset(Subsets.of_pool(merged)).tasks) == 5


def test_an_assembly_s_parts_say_that_they_know_nothing(assembly):
    parts = Pool.open(assembly.path / "parts")
    for act in (lambda s: s.every(), lambda s: choose_subset(s, size=2), lambda s: choose_subset(s, min_accuracy=0.5)):
        with pytest.raises(PoolError, match="what subsets are worth cannot be known") as caught:
            act(Subsets.of_pool(parts))
        assert "an assembly's parts have no validation logits" in caught.value.hint


def test_the_best_is_the_best_of_all_whichever_way_it_is_found():
    specs, evidence = made_up(8, 400, seed=3)
    subsets = Subsets.of(evidence, specs)
    for size in (1, 2, 5, 8):
        each = {c: subsets.accuracy(c) for c in itertools.combinations(range(8), size)}
        tasks, value, whole = subsets.best(size)
        assert whole
        assert value == max(each.values()) == each[tuple(tasks)]
    with pytest.raises(TaskError, match="no subset reaches 99 %; the nearest is") as caught:
        choose_subset(subsets, min_accuracy=0.99)
    reach = float(caught.value.hint.removeprefix("--min-accuracy "))
    assert choose_subset(subsets, min_accuracy=reach).accuracy >= reach
    one = Subsets.of(*reversed(made_up(1, 5)))
    with pytest.raises(TaskError, match="a single class is right always"):
        choose_subset(one, min_accuracy=0.9)


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


@pytest.mark.parametrize(
    ("students", "told"),
    [
        ([], ""),
        (
            [("small", 0.9, 2), ("large", 0.95, 8)],
            "small is no less accurate here, with 2.00× fewer multiplications (2.0 against 4.0 million an image): for "
            "these tasks alone a plain student is the better choice",
        ),
        (
            [("small", 0.8, 2), ("large", 0.9, 8), ("larger", 0.95, 12)],
            "the assembly needs 2.00× fewer multiplications than large, which is no less accurate (4.0 against 8.0 "
            "million an image)",
        ),
        (
            [("small", 0.7, 2), ("large", 0.8, 8)],
            "no student is as accurate, and the assembly needs 2.00× fewer multiplications than the nearest, large (4.0 "
            "against 8.0 million an image)",
        ),
        (
            [("small", 0.8, 2)],
            "no student is as accurate; the nearest, small, needs 2.00× fewer multiplications (2.0 against 4.0 million)",
        ),
    ],
)
def test_a_plain_student_is_advised_where_it_is_the_better_choice(students, told):
    rivals = [Candidate(name, accuracy, count * 10**6) for name, accuracy, count in students]
    assert plain_words(Candidate("the assembly", 0.9, 4_000_000), rivals) == told
