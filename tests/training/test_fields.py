"""Several labels an image, from a folder with attributes.csv to pools, students and graphs: the whole line in small."""

import csv
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from PIL import Image
from runtimes import session

from kfdeploy.data.splits import validation_set
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.errors import DataError, RecipeError, TaskError, TeacherError
from kfdeploy.measuring.factors.inspect import Disentangled, inspect
from kfdeploy.pool.plan import Subsets
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.spec import joined
from kfdeploy.tasks.worth import accuracies
from kfdeploy.training.distill import distill
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.factorize import factorize
from kfdeploy.training.grow.add_task import add_task
from kfdeploy.training.loop.progress import Progress
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.nets.teacher import Teacher
from kfdeploy.training.recipe.recipe import load_recipe

RECIPE = """
name = "attributes"
tasks = { hue = { field = "hue" }, square = { field = "shape", classes = ["square"] }, \
round = { field = "shape", classes = ["disc", "ring"] }, lit = { field = "lit" } }
data = { source = "folder", root = "ROOT", validation = 0.2 }
image = { size = [16, 16], channels = 3, mean = [0.5, 0.5, 0.5], std = [0.3, 0.3, 0.3] }
objective = { temperature = 4.0 }
tsn = { tap = "stage1", net = { family = "convnet", channels = [8, 8], strides = [2, 2] } }
train = { epochs = 6, batch = 32, optimizer = "adamw", lr = 5e-3 }
run = { precision = "fp32" }

[teacher]
source = "train"
net = { family = "convnet", channels = [16, 16], strides = [2, 2] }
train = { epochs = 6, batch = 32, optimizer = "adamw", lr = 5e-3 }

[ckn]
family = "convnet"
channels = [16, 16]
strides = [2, 2]

[[students]]
name = "small"
net = { family = "convnet", channels = [8, 16], strides = [2, 2] }
"""
HUES = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def draw(hue, shape, lit, random):
    y, x = np.mgrid[:16, :16] - 7.5
    away = np.hypot(x, y)
    inside = {"square": (abs(x) < 5) & (abs(y) < 5), "disc": away < 6, "ring": (away < 7) & (away > 4)}[shape]
    image = np.where(inside[..., None], HUES[hue], 90 if lit == "yes" else 10)
    return np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8)


def write_attributes(root, count=(240, 60), gaps=0.2):
    """Write a folder of images with attributes.csv, some labels missing."""
    random = np.random.default_rng(0)
    for split, images in zip(("train", "test"), count, strict=True):
        folder = root / split / "images"
        folder.mkdir(parents=True)
        rows = []
        for i in range(images):
            said = {
                "hue": list(HUES)[i % 3],
                "shape": ("square", "disc", "ring")[i // 3 % 3],
                "lit": ("no", "yes")[i % 2],
            }
            Image.fromarray(draw(*said.values(), random)).save(folder / f"{i:04}.png")
            known = {name: value if random.random() > gaps else "" for name, value in said.items()}
            rows.append({"file": f"{i:04}.png", **known})
        with (root / split / "attributes.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("fields")
    write_attributes(place / "data")
    (place / "recipe.toml").write_text(RECIPE.replace("ROOT", str(place / "data")))
    return place


@pytest.fixture(scope="module")
def pool(place):
    factorize(load_recipe(place / "recipe.toml"), place / "pool")
    return Pool.open(place / "pool")


def test_a_pool_of_fields_and_what_it_says(pool, place):
    assert pool.manifest["schema"] == 2
    assert [(task.name, task.field) for task in pool.tasks] == [
        ("hue", "hue"), ("square", "shape"), ("round", "shape"), ("lit", "lit"),
    ]  # fmt: skip
    each = accuracies(pool.evidence(), pool.tasks)
    assert list(each) == ["hue", "shape", "lit"]
    assert min(found.value for found in each.values()) > 0.6, each  # thrice as good as chance at least, in six epochs
    assert all(found.images < 48 for found in each.values())  # gaps are masked
    assert pool.teacher["accuracy"]["test"] > 0.7
    log = (place / "pool" / "train" / "log.csv").read_text().splitlines()[0]
    assert "validation,validation/hue,validation/shape,validation/lit" in log


def test_what_is_planned_is_what_the_graph_does(pool, tmp_path):
    whole = validation_set(pool.data, pool.seen(), pool.image)
    subsets = Subsets.of_pool(pool)
    for number, names in enumerate((["hue"], ["lit", "hue"], ["square", "round", "lit"], ["round", "hue", "square"])):
        model = assemble(pool, names, tmp_path / f"{number}")
        data = whole.only(model.classes)
        outputs = [output.name for output in onnx.load(model.graph).graph.output]
        found = dict(zip(outputs, session(model.graph, 1).run(outputs, {"image": data.load()}), strict=True))
        counts = data.right(joined(found, model.tasks))
        mean = float(np.mean([right / known for right, known in counts.values()]))
        assert subsets.accuracy([subsets.names.index(name) for name in names]) == pytest.approx(mean)
        assert model.accuracy["validation"] == pytest.approx(mean)


def test_students_of_fields_together_and_apart(place, pool):
    recipe = load_recipe(place / "recipe.toml")
    distill(recipe, pool=pool.where, out=place / "students")
    distill(recipe, pool=pool.where, out=place / "students", separate=True, tasks=["lit", "square", "round"])
    both = Model.open(place / "students" / "small")
    assert [output.name for output in both.load().graph.output] == ["hue", "shape", "lit"]
    apart = Model.open(place / "students" / "small-separate-lit-square-round")
    assert [output.name for output in apart.load().graph.output] == ["lit", "shape"]
    assert both.accuracy["validation"] > 0.5
    assert apart.accuracy["validation"] > 0.4
    made = export(apart, "onnx", precision="int8", out=place / "artifacts")
    assert made.manifest["verify"]["equal"] > 0.9
    found = inspect(pool, beside=[both.path, apart.path], disentanglement=Disentangled(("each",)))
    assert np.array(found["probe"]).shape == (7, 4)
    assert np.array(found["probe"])[0].min() > 0.6
    names = ["each", "student small", "student small-separate-lit-square-round"]
    assert [row["codes"] for row in found["disentanglement"]] == [*names, f"{names[-1]}, each"]
    assert [row["D"] for row in found["disentanglement"]] == [4, 16, 48, 3]
    assert all(row["informativeness"] > 0.5 and 0 <= row["mig"] <= 1 for row in found["disentanglement"])


def test_a_student_s_tasks_of_one_field_are_put_together_and_none_stands_alone(place, pool):
    recipe = load_recipe(place / "recipe.toml", ["train.epochs=1"])
    distill(recipe, pool=pool.where, out=place / "few", tasks=["square", "hue", "round"])
    found = Model.open(place / "few" / "small-square-round-hue")
    assert [task.name for task in found.tasks] == ["square", "round", "hue"]
    assert [output.name for output in found.load().graph.output] == ["shape", "hue"]
    with pytest.raises(
        RecipeError, match="the task 'square' is one class: .* alone among those of 'shape' has"
    ) as caught:
        distill(recipe, pool=pool.where, out=place / "none", tasks=["hue", "square"])
    assert caught.value.hint == "name more tasks of the field 'shape', or leave this one out"


def test_a_teacher_with_an_output_a_field_and_one_that_lacks_a_field(place, pool):
    teacher = place / "pool" / "train" / "teacher" / "model.onnx"
    known = "classes = { lit = [], shape = ['square', 'disc', 'ring'], hue = [] }, output = { hue = 'hue' }"
    changed = [f"teacher={{ source = 'onnx:{teacher}', {known} }}", "objective.alpha=0", "train.epochs=2"]
    factorize(load_recipe(place / "recipe.toml", changed), place / "again")
    again = Pool.open(place / "again")
    assert again.teacher["accuracy"]["test"] == pytest.approx(pool.teacher["accuracy"]["test"], abs=1e-3)
    lacking = [
        f"teacher={{ source = 'onnx:{teacher}', classes = {{ shape = ['square', 'disc', 'ring'], lit = [] }} }}",
        *changed[1:],
    ]
    apart = [*lacking, "data.fields.shape.coupling=independent"]
    factorize(load_recipe(place / "recipe.toml", apart), place / "lacking")
    made = Pool.open(place / "lacking")
    assert made.teacher["fields"] == ["shape", "lit"]
    assert (made.coupling, made.couplings) == ("joint", {"hue": "joint", "shape": "independent", "lit": "joint"})
    assert made.manifest["temperatures"].keys() == {"square", "round"}
    with pytest.raises(RecipeError, match="the teacher does not answer 'hue', and objective.lambda_sup is 0"):
        factorize(load_recipe(place / "recipe.toml", [*lacking, "objective.lambda_sup=0"]), place / "nothing")


def test_every_field_that_has_labels_is_asked_for_the_teacher_s_accuracy(place, tmp_path):
    recipe = load_recipe(place / "recipe.toml", ["teacher.min_accuracy=1.0", "teacher.train.epochs=1"])
    with pytest.raises(TeacherError, match=r"the teacher's accuracy in '(hue|shape|lit)' is 0\.") as caught:
        factorize(recipe, tmp_path / "pool")
    assert "and the recipe asks for at least 1.0000" in str(caught.value)
    experiment = Experiment(recipe, Progress())
    teacher = Teacher(Classifier(recipe.teacher.net, experiment.image, 8), range(8), (16, 16))
    bare = experiment.test.labels.copy()
    bare[:, 2] = -1
    found = experiment.accuracies(teacher, replace(experiment.test, labels=bare))
    assert list(found) == ["hue", "shape"]  # of the third nothing is known, which is not that all of it is wrong
    with pytest.raises(DataError, match="no image has a label in hue, shape, lit, to measure the teacher by"):
        experiment.accuracies(teacher, replace(experiment.test, labels=np.full_like(bare, -1)))


def write_ground(root, step=1):
    """Write a folder of which the ground alone is known, light or dark."""
    random = np.random.default_rng(5)
    for split, images in (("train", 120), ("test", 20)):
        folder = root / split / "images"
        folder.mkdir(parents=True)
        lines = ["file,ground"]
        for i in range(images):
            lit = ("no", "yes")[i % 2]
            pixels = draw(list(HUES)[i % 3], "disc", lit, random)[::step, ::step]
            Image.fromarray(pixels).save(folder / f"{i}.png")
            lines.append(f"{i}.png,{'light' if lit == 'yes' else 'dark'}")
        (root / split / "attributes.csv").write_text("\n".join(lines) + "\n")
    return root


def test_a_field_is_added_to_a_pool_of_fields(place, pool):
    data = write_ground(place / "ground")
    add_task(pool.where, "ground", data=data, out=place / "grown")
    grown = Pool.open(place / "grown")
    assert (grown.tasks[-1].field, grown.tasks[-1].classes) == ("ground", ("dark", "light"))
    assert all(grown.files[name] == about for name, about in pool.files.items() if name in grown.files)
    assert accuracies(grown.evidence(grown.choose(["ground"])), grown.choose(["ground"]))["ground"].value > 0.7
    model = assemble(grown, ["hue", "ground"], place / "grown-assembly")
    assert [output.name for output in onnx.load(model.graph).graph.output] == ["hue", "ground"]
    made = export(model, "onnx", precision="int8", out=place / "artifacts")
    assert made.manifest["verify"]["equal"] > 0.8
    with pytest.raises(TaskError, match="the field 'ground' is in pool '.*', beside others, and classes are not added"):
        add_task(grown, "more", data=data, field="ground", out=place / "more")
    with pytest.raises(TaskError, match="the data have no field 'grnd'") as caught:
        add_task(pool.where, "x", data=data, field="grnd", out=place / "more")
    assert "did you mean 'ground'" in caught.value.hint


def test_a_field_is_added_to_a_pool_of_classes_which_becomes_one_of_schema_2(toy, tmp_path):
    data = write_ground(tmp_path / "ground", step=2)
    add_task(toy.pool, "light", field="ground", data=data, out=tmp_path / "grown")
    before, grown = Pool.open(toy.pool), Pool.open(tmp_path / "grown")
    assert (before.manifest["schema"], grown.manifest["schema"]) == (1, 2)
    assert all(grown.files[name] == about for name, about in before.files.items() if name in grown.files)
    model = assemble(grown, ["pets", "light"], tmp_path / "assembly")
    assert [output.name for output in onnx.load(model.graph).graph.output] == ["logits", "ground"]
    pets, as_before = (assemble(which, ["pets"], tmp_path / name) for which, name in ((grown, "pets"), (before, "old")))
    assert pets.manifest["schema"] == 1
    # A device that reads schema 1 alone keeps taking what is made of the classes.
    parts, known = (json.loads((model.path / "parts" / "pool.json").read_text()) for model in (pets, as_before))
    assert parts.pop("added")[0]["task"] == "light"
    assert parts == known
    with pytest.raises(TaskError, match="the data have no field 'ground': the class alone is known of their images"):
        add_task(toy.pool, "light", field="ground", data=toy.data, out=tmp_path / "more")


def test_a_teacher_has_to_be_accurate_in_every_field(place):
    """The mean of three fields would pass."""
    with pytest.raises(TeacherError, match="the teacher's accuracy in 'shape' is 0.") as caught:
        factorize(
            load_recipe(place / "recipe.toml", ["teacher.min_accuracy=0.6", "teacher.train.epochs=1"]), place / "poor"
        )
    assert "lower teacher.min_accuracy" in caught.value.hint


def test_no_smoothing_where_a_field_is_coupled_with_none(place):
    for changed in (["objective.coupling=independent"], ["data.fields.shape.coupling=independent"]):
        with pytest.raises(RecipeError, match="label_smoothing spreads a label over the classes of all tasks"):
            load_recipe(place / "recipe.toml", [*changed, "train.label_smoothing=0.1"])
