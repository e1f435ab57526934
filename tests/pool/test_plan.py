import itertools

import numpy as np
import pytest
from fields import TASKS, field_pool, seen_images
from pools import grown_apart

from kfdeploy.errors import PoolError, TaskError, UnsupportedError
from kfdeploy.graph.reference import run_joined
from kfdeploy.pool.designs import Candidate, plain_words
from kfdeploy.pool.plan import Subsets, choose_subset
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.spec import TaskSpec, class_names, fields_of, outputs_of
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


def test_of_several_fields_every_subset_is_what_its_graph_gives_on_the_same_images(tmp_path):
    """Five tasks over three fields: the composed graph is run, and its answers are counted field by field."""
    pool = field_pool(tmp_path / "pool", calibrated=False)
    assert (len(TASKS), len(fields_of(TASKS))) == (5, 3)
    images, seen = seen_images(pool), pool.seen()
    subsets = Subsets.of_pool(pool)
    masks, values, counts = subsets.every()
    least, each = subsets.least(masks), subsets.each(masks)[0]
    assert len(masks) == 31
    for i, mask in enumerate(masks):
        chosen = [task for task, there in zip(pool.tasks, mask, strict=True) if there]
        columns = class_names(chosen)
        logits = run_joined(pool.graph(chosen), images, outputs_of(chosen))
        own, some = {}, np.zeros(len(images), bool)
        for field, which in fields_of(chosen).items():
            names = [columns[c] for c in which]
            known = np.array([label in names for label in seen.labels[field]])
            answers = np.array(names)[logits[:, which].argmax(1)]
            own[field] = (answers == np.array(seen.labels[field]))[known].mean()
            some |= known
        assert values[i] == pytest.approx(np.mean(list(own.values())), abs=1e-12)
        assert least[i] == pytest.approx(min(own.values()), abs=1e-12)
        assert counts[i] == some.sum()
        told = {name: value for name, value in zip(subsets.parts, each[:, i], strict=True) if not np.isnan(value)}
        assert told == pytest.approx(own, abs=1e-12)
        found = subset_accuracy(pool.evidence(chosen), chosen)
        assert (values[i], counts[i]) == (pytest.approx(found.value, abs=1e-12), found.images)


def several(images, seed=0):
    """Six tasks over three fields, one of a single class, and evidence with labels missing here and there."""
    random = np.random.default_rng(seed)
    specs = [TaskSpec("a", ("a0", "a1")), TaskSpec("b", ("b0",)), TaskSpec("c", ("c0", "c1"), field="x"),
             TaskSpec("d", ("d0", "d1", "d2"), field="x"), TaskSpec("e", ("no", "yes"), field="y"),
             TaskSpec("f", ("f0",), field="x")]  # fmt: skip
    labels = {
        field: tuple(random.choice([*class_names(t for t in specs if t.field == field), ""], images))
        for field in ("class", "x", "y")
    }
    logits = random.integers(0, 5, (images, 11)).astype(np.float32)
    for name in labels:
        for i, label in enumerate(labels[name]):
            if label and random.random() < 0.8:
                logits[i, class_names(specs).index(label)] = 6
    empty = np.zeros((0, 11), np.float32)
    return specs, Evidence(np.zeros((0, 1, 1, 1), np.uint8), empty, labels, np.arange(images), logits)


def test_the_least_field_of_a_subset_is_asked_for_its_accuracy():
    specs, evidence = several(300)
    evidence.logits[:, 8:10] = 0  # `e` is right by chance alone
    subsets = Subsets.of(evidence, specs)
    masks, values, _ = subsets.every()
    least = subsets.least(masks)
    for floor in (0.6, 0.85):
        fit = (least >= floor) & ~subsets.lone(masks)
        found = choose_subset(subsets, min_accuracy=floor)
        assert len(found.tasks) == masks[fit].sum(1).max()
        assert found.least >= floor
        assert found.accuracy == values[fit & (masks.sum(1) == len(found.tasks))].max()
        assert 4 not in found.tasks
    assert choose_subset(subsets, size=6).accuracy > 0.6 > choose_subset(subsets, size=6).least
    with pytest.raises(
        TaskError, match=r"no subset reaches 60 % in each of its fields; the nearest is a, b, c, d, e, f"
    ):
        choose_subset(subsets, size=6, min_accuracy=0.6)
    # A class alone in its field is right always: it does not help a subset over the bar.
    assert subsets.lone(np.array([[0, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1], [1, 0, 1, 0, 1, 0]], bool)).tolist() == [
        True, True, False,
    ]  # fmt: skip


def test_a_class_alone_in_its_field_does_not_make_a_subset_the_best():
    specs, evidence = several(300)
    subsets = Subsets.of(evidence, specs)
    masks, values, _ = subsets.every()
    lone = subsets.lone(masks)
    for size in (1, 2, 3):
        own = masks.sum(1) == size
        found = choose_subset(subsets, size=size)
        assert found.accuracy == values[own & ~lone].max() < values[own & lone].max()
    singles = [TaskSpec(name, (name,), field=name) for name in "xyz"]
    images = 4
    labels = {task.field: task.columns * images for task in singles}
    logits = np.zeros((images, 3), np.float32)
    seen = Evidence(np.zeros((0, 1, 1, 1), np.uint8), logits[:0], labels, np.arange(images), logits)
    assert choose_subset(Subsets.of(seen, singles), size=2).accuracy == 1  # there is nothing better


def test_fields_beyond_64_tasks_and_one_by_one():
    random = np.random.default_rng(1)
    specs = [TaskSpec(f"t{i}", (f"t{i}c0", f"t{i}c1"), field=f"f{i % 2}") for i in range(140)]
    labels = {f"f{i}": tuple(random.permutation(np.resize(class_names(specs[i::2]), 400))) for i in range(2)}
    logits = random.integers(0, 30, (400, 280)).astype(np.float32)
    evidence = Evidence(np.zeros((0, 1, 1, 1), np.uint8), logits[:0], labels, np.arange(400), logits)
    subsets = Subsets.of(evidence, specs)
    wanted = [0, 1, 7, 33, 40]
    columns = [2 * i + j for i in wanted for j in range(2)]
    part = Evidence(evidence.images, logits[:0], labels, evidence.rows, logits[:, columns])
    assert subsets.accuracy(wanted) == pytest.approx(subset_accuracy(part, [specs[i] for i in wanted]).value)
    few = Subsets.of(*reversed(several(200)))
    whole, greedy = few.best(4), few.best(4, most=1)
    assert (whole.all, greedy.all) == (True, False)
    assert greedy.accuracy <= whole.accuracy


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
        found = subsets.best(size)
        assert found.all
        assert found.accuracy == found.least == max(each.values()) == each[found.tasks]
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
    found = subsets.best(5)
    assert (found.accuracy, found.all) == (1.0, True)
    assert found.tasks in ((0, 2, 3, 4, 5), (1, 2, 3, 4, 5))
    assert (subsets.best(5, most=1).accuracy, subsets.best(5, most=1).all) == (1.0, False)
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


def test_no_less_accurate_is_in_every_field():
    own = Candidate("the assembly", 0.8, 4_000_000, (0.9, 0.7))
    worse = Candidate("small", 0.85, 2_000_000, (0.99, 0.69))
    assert plain_words(own, [worse]).startswith("no student is as accurate in every field; the nearest, small, needs")
    equal = Candidate("small", 0.8, 2_000_000, (0.9, 0.7))
    assert plain_words(own, [equal]).startswith("small is no less accurate here in any field, with 2.00× fewer")
    dear = Candidate("large", 0.95, 8_000_000, (0.95, 0.95))
    assert "than large, which is no less accurate in any field" in plain_words(own, [dear])
