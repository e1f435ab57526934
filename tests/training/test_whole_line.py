"""From a library's teacher, and from every family of nets, to an int8 artifact: tiny images, untrained weights."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.calibrate import calibrate
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.errors import DataError, RecipeError, TeacherError
from kfdeploy.pool.pool import Pool
from kfdeploy.training.distill import distill
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.factorize import factorize
from kfdeploy.training.grow.add_task import add_task
from kfdeploy.training.loop.progress import Progress
from kfdeploy.training.recipe.recipe import apply_settings, parse_recipe

SHORT = ("train.epochs=1", "teacher.train.epochs=1")


def changed(toy, *settings):
    return parse_recipe(apply_settings(toy.recipe.model_dump(), [*SHORT, *settings]), "toy")


def run(recipe, tmp_path):
    pool = tmp_path / "pool"
    factorize(recipe, pool)
    model = assemble(pool, ["pets", "élan"], tmp_path / "assembly")
    made = export(model, precision="int8", out=tmp_path)
    assert any("int8" in kind for kind in made.executed["convolutions"])
    return pool


@pytest.mark.parametrize("source", ["torchvision:mobilenet_v3_small", "timm:mobilenetv3_small_050"])
def test_a_librarys_teacher_becomes_an_int8_artifact(source, toy, tmp_path):
    torch.manual_seed(0)
    kind, _, name = source.partition(":")
    library = pytest.importorskip(kind)
    classes = len(Experiment(toy.recipe).data_classes)
    model = (
        library.models.get_model(name, weights=None, num_classes=classes)
        if kind == "torchvision"
        else library.create_model(name, num_classes=classes)
    )
    save_file(model.state_dict(), tmp_path / "t.safetensors")
    own = (
        f"teacher.source={source}",
        f"teacher.weights={tmp_path / 't.safetensors'}",
        "image.size=[64, 64]",
        "image.resize=64",
    )
    fields = toy.recipe.model_dump()
    fields["teacher"] |= {"net": None, "train": None}
    recipe = parse_recipe(apply_settings(fields, ["train.epochs=1", *own]), "toy")
    pool = run(recipe, tmp_path)
    made = export(pool / "train" / "teacher", precision="int8", out=tmp_path)
    assert made.executed["convolutions"]


FAMILIES = [
    '{family="convnet", channels=[8, 8], strides=[2, 2]}',
    '{family="resnet", depth=18, width=8, stem="cifar"}',
    '{family="wide_resnet", depth=10, width=1}',
    '{family="mobilenetv2", width=0.25, stem="cifar"}',
    '{family="timm", model="convnext_atto"}',
]


@pytest.mark.parametrize("net", FAMILIES)
def test_every_family_of_nets_becomes_an_int8_artifact(net, toy, tmp_path):
    if "timm" in net:
        pytest.importorskip("timm")
    size = ("image.size=[32, 32]", "image.resize=32") if "timm" in net else ()
    tap = "tsn.tap=stage1"
    run(changed(toy, f"ckn={net}", tap, *size), tmp_path)


def test_what_cannot_work_is_said_before_anything_is_trained(toy, tmp_path):
    pytest.importorskip("timm")
    for settings, message in (
        (['ckn={family="timm", model="mobilenetv3_smal_050"}'], "timm has no model 'mobilenetv3_smal_050'"),
        (
            ['ckn={family="timm", model="vit_tiny_patch16_224"}', "image.size=[64, 64]", "image.resize=64"],
            "does not take images of 64×64",
        ),
    ):
        with pytest.raises(RecipeError, match=message):
            factorize(changed(toy, *settings), tmp_path / "pool")
        assert not list(tmp_path.iterdir())
    fields = toy.recipe.model_dump()
    fields["students"][0]["net"] = {"family": "timm", "model": "vit_tiny_patch16_224", "pretrained": False}
    with pytest.raises(RecipeError, match="student 'small', vit_tiny_patch16_224, does not take images of 8×8"):
        distill(parse_recipe(fields, "toy"), out=tmp_path / "students")
    with pytest.raises(RecipeError, match="seed"):
        changed(toy, "seed=1700000000000000000")


def test_a_test_split_that_lacks_something_is_missed_at_once(toy, tmp_path):
    shutil.copytree(toy.data, tmp_path / "data")
    recipe = changed(toy, f"data.root={tmp_path / 'data'}")
    shutil.rmtree(tmp_path / "data" / "test" / "cat")
    with pytest.raises(DataError, match="the test split of '.*' has no class 'cat'"):
        Experiment(recipe)
    shutil.rmtree(tmp_path / "data" / "test")
    with pytest.raises(DataError, match="there is no folder") as caught:
        Experiment(recipe)
    assert "a share of the train images" in caught.value.hint


def test_a_teachers_columns_in_the_order_of_letters_are_recognised(toy, tmp_path):
    from kfdeploy.training.nets.teacher import Teacher

    heard = Heard()
    for split in ("train", "test"):
        for label in range(12):
            shutil.copytree(toy.data / split / "cat", tmp_path / "data" / split / str(label))
    fields = toy.recipe.model_dump()
    fields["tasks"] = "classes"
    fields["data"] |= {"root": str(tmp_path / "data"), "ignore": []}
    fields["teacher"] |= {"source": "file:x.pt", "train": None}
    experiment = Experiment(parse_recipe(fields, "toy"), heard)
    names = list(experiment.data_classes)
    assert names[:4] == ["0", "1", "2", "3"]
    letters = sorted(names)
    truth = iter([])

    class Knows(torch.nn.Module):  # column i is the i-th class by letters, as torchvision's ImageFolder sorts them
        def forward(self, image):
            here = next(truth)
            return torch.nn.functional.one_hot(torch.tensor([letters.index(names[i]) for i in here]), 12).float(), ()

    def answers():
        labels = experiment.validation.labels
        while True:
            yield labels

    truth = answers()
    teacher = experiment._as_trained(Teacher(Knows(), range(12), ()))
    assert experiment.accuracy(teacher, experiment.validation) == 1.0
    assert "in the order of letters" in heard.notes[-1]
    assert np.array_equal(teacher.columns, [letters.index(name) for name in names])


def test_an_onnx_file_is_a_teacher_of_logits_alone(toy, tmp_path):
    from kfdeploy.training.nets.classifier import Classifier
    from kfdeploy.training.writing.classifier import _Logits

    recipe = toy.recipe
    names = list(Experiment(recipe).data_classes)
    net = _Logits(Classifier(recipe.teacher.net, recipe.image.spec(), len(names))).eval()
    torch.onnx.export(
        net, (torch.zeros(2, 8, 8, 3, dtype=torch.uint8),), tmp_path / "t.onnx", input_names=["image"],
        output_names=["logits"], dynamo=True, verbose=False, dynamic_shapes=({0: torch.export.Dim("N")},),
    )  # fmt: skip
    fields = recipe.model_dump()
    fields["teacher"] |= {"source": f"onnx:{tmp_path / 't.onnx'}", "net": None, "train": None}
    fields["train"]["epochs"] = 1
    with pytest.raises(RecipeError, match="needs the teacher's features") as caught:
        factorize(parse_recipe(fields, "toy"), tmp_path / "pool")
    assert caught.value.hint == "--set objective.alpha=0 leaves it out"
    fields["objective"]["alpha"] = 0.0
    heard = Heard()
    factorize(parse_recipe(fields, "toy"), tmp_path / "pool", report=heard)
    assert any("the teacher is left out of benchmarks" in note for note in heard.notes)
    pool = Pool.open(tmp_path / "pool")
    assert pool.teacher["source"] == "onnx"
    assert len(pool.teacher["sha256"]) == 64
    fields["teacher"]["classes"] = [*names, "one more"]
    with pytest.raises(TeacherError, match=rf"has {len(names)} classes, the recipe's has {len(names) + 1}"):
        Experiment(parse_recipe(fields, "toy")).check_teacher()


def test_a_thousand_classes_are_cut_to_those_that_the_folders_have(toy, tmp_path):
    timm = pytest.importorskip("timm")
    ids = ["n02123045", "n02099601", "n01440764"]
    for split in ("train", "test"):
        for name, folder in zip(ids, ("cat", "dog", "junk"), strict=True):
            shutil.copytree(toy.data / split / folder, tmp_path / "data" / split / name)
    torch.manual_seed(0)
    small = "test_efficientnet"  # timm's own for tests: a few layers, and a thousand classes
    save_file(timm.create_model(small).state_dict(), tmp_path / "t.safetensors")
    fields = toy.recipe.model_dump()
    fields["tasks"] = "classes"
    fields["data"] |= {"root": str(tmp_path / "data"), "ignore": [], "names": "imagenet"}
    fields["image"] |= {"size": [32, 32], "resize": 32}
    fields["teacher"] |= {
        "source": f"timm:{small}", "weights": str(tmp_path / "t.safetensors"), "classes": "imagenet", "net": None,
        "train": None,
    }  # fmt: skip
    fields["train"]["epochs"] = 1
    factorize(parse_recipe(fields, "toy"), tmp_path / "pool")
    pool = Pool.open(tmp_path / "pool")
    assert [task.name for task in pool.tasks] == ["tench", "golden retriever", "tabby"]
    teacher = Model.open(tmp_path / "pool" / "train" / "teacher")
    assert teacher.classes == ("tench", "golden retriever", "tabby")
    graph = onnx.load(teacher.graph)
    assert not any(1000 in tensor.dims for tensor in graph.graph.initializer)
    assert calibrate(tmp_path / "pool") > 0  # the images are found again under their readable names
    for split in ("train", "test"):
        shutil.copytree(toy.data / split / "élan", tmp_path / "data" / split / "n02085620")
    add_task(tmp_path / "pool", "small dog", data=tmp_path / "data", settings=["train.epochs=1"])
    grown = Pool.open(tmp_path / "pool")
    assert grown.tasks[-1].classes == ("Chihuahua",)
    assert grown.added[0]["teacher"]  # it knows the new class too, and was asked


def test_a_share_of_train_is_the_test_split_where_there_is_none(toy, tmp_path):
    shutil.copytree(toy.data, tmp_path / "data")
    recipe = changed(toy, f"data.root={tmp_path / 'data'}", "data.test=0.25")
    with pytest.raises(DataError, match="has a test split of its own"):
        Experiment(recipe)
    shutil.rmtree(tmp_path / "data" / "test")
    first = Experiment(recipe)
    apart = {each.tobytes() for each in first.test.contents()}
    assert {first.test.classes[label] for label in first.test.labels} == set(first.classes)
    assert not apart & {each.tobytes() for part in (first.train, first.validation) for each in part.contents()}
    picture = sorted((tmp_path / "data" / "train" / "cat").iterdir())[0]
    for i in range(4):
        Image.new("RGB", (8, 8), (i, 9, 9)).save(picture.with_name(f"0-{i}.png"))
    again = Experiment(recipe)
    assert apart <= {each.tobytes() for each in again.test.contents()}  # nothing that was there has moved
    assert not apart & {each.tobytes() for each in again.train.contents()}


class Heard(Progress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)
