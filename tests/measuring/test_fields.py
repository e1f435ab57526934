"""Measuring models of several fields: each scored by itself, on the images that have a label in it."""

import csv
import json
import sys

import numpy as np
import pytest
from fields import TASKS, field_pool, pictures
from PIL import Image
from results import comparison, row

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.errors import DataError, PoolError, TaskError
from kfdeploy.graph.reference import run_joined
from kfdeploy.measuring.accuracy import columns_of, correct, shares
from kfdeploy.measuring.answer import answer, as_accurate
from kfdeploy.measuring.benchmark import benchmark
from kfdeploy.measuring.fastest import _judge
from kfdeploy.measuring.gates import changes, check, parse
from kfdeploy.measuring.intervals import difference_interval, mean_difference_interval
from kfdeploy.measuring.machines import import_result
from kfdeploy.measuring.remote import benchmark_on
from kfdeploy.measuring.result import each_of, fault, scores
from kfdeploy.report.sentences import sentences
from kfdeploy.targets.device.clock import Round
from kfdeploy.tasks.spec import class_names, fields_of, outputs_of

LIT, COUNT = "lit, at dusk/é", 40


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A pool, two assemblies on it as artifacts, and a described folder of test images with gaps in it."""
    root = tmp_path_factory.mktemp("world")
    pool = field_pool(root / "pool", calibrated=False)
    images, random = pictures(pool.image.shape, COUNT, 5), np.random.default_rng(3)
    for split in ("train", "test"):
        (root / "data" / split / "images").mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(root / "data" / split / "images" / f"{i:03}.png")
        labels = {
            field: [name for task in TASKS if task.field == field for name in task.classes]
            for field in fields_of(TASKS)
        }
        with (root / "data" / split / "attributes.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["file", *labels])
            for i in range(COUNT):
                known = [random.choice([*names, ""]) for names in labels.values()]
                # Every class once at least, in both splits.
                writer.writerow(
                    [f"{i:03}.png", *(n[i] if i < len(n) else k for n, k in zip(labels.values(), known, strict=True))]
                )
    models = [
        assemble(pool, ["edged", "lit", "pets", "sea horse"], root / "several"),
        assemble(pool, ["lit", "edged"], root / "two"),
        assemble(pool, ["pets", "sea horse"], root / "one"),
    ]
    return root, [export(model, "onnx", out=root / "artifacts") for model in models], images


@pytest.fixture
def quick(monkeypatch):
    module = sys.modules["kfdeploy.measuring.benchmark"]
    times = iter(np.linspace(1, 2, 1000))
    made = lambda job, protocol: Round([float(next(times))] * 40, 1.0, 1.0, 1.0, stable=True)  # noqa: E731
    monkeypatch.setattr(module, "measure_afresh", made)


def test_each_field_is_scored_on_the_images_that_have_a_label_in_it(world, quick):
    root, made, images = world
    found = benchmark([artifact.path for artifact in made], quick=True, scenarios=["single-stream"], data=root / "data")
    assert fault(found) == ""
    json.dumps(found, allow_nan=False)
    rows = {each["name"]: each for each in found["rows"]}
    with (root / "data" / "test" / "attributes.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    tasks = made[0].tasks
    from kfdeploy.deploy.model import Model

    logits, columns = run_joined(Model.open(root / "several").load(), images, outputs_of(tasks)), class_names(tasks)
    for about in rows["several"]["fields"]:
        which = fields_of(tasks)[about["field"]]
        own = [columns[i].removeprefix(f"{about['field']}: ") for i in which]
        labels = [each[about["field"]] for each in table]
        known = np.array([label in own for label in labels])
        right = np.array(own)[logits[:, which].argmax(1)] == np.array(labels)
        assert about["images"] == known.sum()
        assert about["accuracy"] == pytest.approx(right[known].mean())
    assert rows["several"]["accuracy"] == pytest.approx(np.mean([f["accuracy"] for f in rows["several"]["fields"]]))
    assert rows["several"]["images"] <= COUNT
    assert "fields" not in rows["one"]
    assert set(scores(rows["several"])) == {
        ("edged", "lit", "pets", "sea horse"),
        ("lit", "edged"),
        ("pets", "sea horse"),
    }
    # On the same images and columns another assembly of the same pool has the same numbers.
    same = scores(rows["several"])["pets", "sea horse"]
    assert (same["accuracy"], same["images"]) == (rows["one"]["accuracy"], rows["one"]["images"])
    assert any("(shape " in each["sentence"] or ", shape " in each["sentence"] for each in found["answers"])


def test_marks_are_counted_field_by_field(world):
    root, made, _ = world
    from kfdeploy.data.splits import test_images as images_of

    data = images_of(made[1].data, made[1].image, made[1].classes, root / "data")
    found = correct(made[1], data, columns_of(made[1].tasks), 1)
    assert list(found) == [LIT, "shape"]
    assert {len(each) for each in found.values()} == {len(data)}
    assert np.isnan(found["shape"]).any()
    assert set(shares(found)) == set(found)
    with pytest.raises(DataError, match=r"no test image has a label in 'shape' among shape: square"):
        blind = data.labels.copy()
        blind[:, data.field_names.index("shape")] = -1
        from dataclasses import replace

        correct(made[1], replace(data, labels=blind), columns_of(made[1].tasks), 1)


def test_a_device_measures_the_field_of_folders_alone(world, tmp_path):
    _, made, _ = world
    with pytest.raises(
        DataError, match=r"accuracy is measured on folders of classes, and these models' fields are: lit,"
    ):
        benchmark_on("ssh://nowhere", [made[1]], data=tmp_path)


def test_models_without_a_class_in_common_are_not_compared():
    module = sys.modules["kfdeploy.measuring.benchmark"]

    class Other:
        def __init__(self, tasks):
            self.tasks, self.kind, self.classes = tasks, "student", class_names(tasks)

    shape, lit = (tuple(task for task in TASKS if task.field == field) for field in ("shape", LIT))
    assert module._subjects([Other(shape + lit), Other(shape)]) == {class_names(shape): columns_of(shape)}
    with pytest.raises(TaskError, match="fewer than two classes in common"):
        module._subjects([Other(shape), Other(lit)])


def test_the_interval_of_the_mean_is_over_whole_images():
    random = np.random.default_rng(0)
    a, b = (random.integers(0, 2, (2, 500)).astype(np.float64) for _ in range(2))
    gone = random.random((2, 500)) < 0.3
    a[gone], b[gone] = np.nan, np.nan
    middle, (low, high) = mean_difference_interval(a, b)
    assert low < middle < high
    assert middle == pytest.approx(np.mean([np.nanmean(a[i] - b[i]) for i in range(2)]))
    # One field that every image has: the same interval, but for the draw.
    whole = random.integers(0, 2, (2, 2000)).astype(np.float64)
    one, (left, right) = difference_interval(whole[0], whole[1])
    other, (start, end) = mean_difference_interval([whole[0]], [whole[1]])
    assert one == pytest.approx(other)
    assert (left, right) == (pytest.approx(start, abs=2e-3), pytest.approx(end, abs=2e-3))
    # By hand: fields that go together vary as one does; those that go against each other not at all.
    against = mean_difference_interval([whole[0], whole[1]], [whole[1], whole[0]])
    assert against == (0.0, (0.0, 0.0))


def answer_row(kind, name, p50, accuracy):
    return row(kind, name, p50=p50, accuracies=[{"tasks": ["cat", "dog"], "accuracy": accuracy, "images": 9}])


def pair(a, b, low, high, points):
    entry = comparison(b, low, high, b_kind="student", tasks=["cat", "dog"])
    return entry | {"a": a, "accuracy_interval": [points, points]}


def form_row(precision, ratio, interval, drop):
    return {"precision": precision, "p50_ms": ratio, "p50_ratio": ratio, "interval": interval, "drop": drop}


def fields(**values):
    return [{"field": name, "accuracy": value, "images": 100_000} for name, value in values.items()]


def with_fields(entry, **values):
    entry["accuracies"][0] |= {"accuracy": sum(values.values()) / len(values), "fields": fields(**values)}
    return entry | {"fields": fields(**values), "accuracy": entry["accuracies"][0]["accuracy"]}


def differing(entry, **lows):
    each = [{"field": f, "accuracy_difference": v + 0.01, "accuracy_interval": [v, v + 0.02]} for f, v in lows.items()]
    return entry | {"fields": each, "accuracy_difference": 0.0}


def test_the_decision_asks_every_field():
    rows = [
        with_fields(answer_row("assembly", "x", 1.0, 0), shape=0.95, lit=0.75),
        with_fields(answer_row("student", "s", 2.0, 0), shape=0.84, lit=0.84),
    ]

    def asked(comparisons=(), **limits):
        return answer({"rows": rows, "comparisons": list(comparisons)}, **limits)["answers"][0]

    found = asked(min_accuracy=0.8)
    assert found["winner"]["name"] == "s"
    assert "at least 80 % accuracy in every field" in found["sentence"]
    assert "84.00 % (shape 84.00, lit 84.00)" in found["sentence"]
    assert asked(min_accuracy=0.7)["winner"]["name"] == "x"
    # The mean of x is better, and in `lit` s is far better: neither is as accurate as the other in every field.
    assert asked(max_ms=9)["winner"]["name"] == "x"
    whole = differing(pair("x", "s", 0.4, 0.6, 0.0), shape=-0.002, lit=0.0)
    assert as_accurate(whole)
    assert "faster than, and as accurate in every field as, s" in asked([whole])["sentence"]
    bad = differing(pair("x", "s", 0.4, 0.6, 0.05), shape=0.1, lit=-0.01)
    assert not as_accurate(bad)
    assert "as accurate" not in asked([bad])["sentence"].replace("both as fast and as accurate", "")


def test_gates_hold_every_field():
    own = with_fields(answer_row("assembly", "x", 1.0, 0), shape=0.95, lit=0.75) | {"images": 10}
    result = {"rows": [own], "comparisons": [differing(pair("x", "s", 0.4, 0.6, 0.0), shape=-0.06, lit=0.0)]}
    assert check(result, parse(["accuracy < 0.7", "accuracy_drop > 0.06"])) == []
    (said,) = check(result, parse(["accuracy < 0.8"]))
    assert "accuracy in lit is 0.75, and accuracy < 0.8 fails" in said
    (said,) = check(result, parse(["accuracy_drop > 0.04"]))
    assert "x against s" in said
    assert "accuracy_drop in shape is 0.05" in said


def test_the_fastest_form_loses_little_in_every_field():
    rows = [form_row("fp32", 1.0, [1.0, 1.0], 0.0), form_row("int8", 0.5, [0.4, 0.6], 0.02)]
    rows[1]["fields"] = [{"field": "shape", "drop": -0.05}, {"field": "lit", "drop": 0.02}]
    assert _judge(rows, 0.01) == "fp32"
    assert rows[1]["why"] == "loses 2.00 points in lit, and 1.00 are allowed"


def whole_result(world, quick):
    root, made, _ = world
    return benchmark([made[0].path], quick=True, scenarios=["single-stream"], data=root / "data")


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (7, "'fields' that is 7, and not a list"),
        ([{"field": "shape", "accuracy": 0.5, "images": 1}], "a list of 1, and not a list of 2"),
        ([{"field": "shape"}] * 2, "'fields' that is missing"),
        ([{"field": "shape", "accuracy": 7, "images": 1}] * 2, "'fields' that is 7, and not a number from 0 to 1"),
    ],
)
def test_fields_in_a_result_are_held_to_what_they_must_be(world, quick, odd, said):
    found = whole_result(world, quick)
    for at in (found["rows"][0], found["rows"][0]["accuracies"][0]):
        before = at["fields"]
        at["fields"] = odd
        assert said in fault(found)
        with pytest.raises(PoolError, match="is no benchmark"):
            import_result(None, found)
        at["fields"] = before
    assert fault(found) == ""
    found["comparisons"] = [{"a": "x", "b": "y", "target": "", "precision": "", "threads": 1, "scenario": "", "p50_ratio": 1.0,
                             "interval": [1, 1], "accuracy_difference": 0.0, "accuracy_interval": [0, 0], "fields": odd}]  # fmt: skip
    assert "comparison 1 has 'fields' that" in fault(found)


def test_what_changed_since_a_baseline_is_told_by_field(world, quick):
    new, old = whole_result(world, quick), whole_result(world, quick)
    old["rows"][0]["fields"][0]["accuracy"] += 0.25
    assert each_of(new["rows"][0], "accuracy").keys() == {LIT, "shape", "class"}
    said = "\n".join(changes(new, old))
    assert "-25.00 points of accuracy in shape on" in said
    assert sentences(new)[-1].startswith("This was a quick look")
