"""From a library's teacher, and from every family of nets, to an int8 artifact: tiny images, untrained weights."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.errors import DataError, RecipeError
from kfdeploy.training.distill import distill
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.factorize import factorize
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

    class Heard(Progress):
        def __init__(self):
            self.notes = []

        def note(self, text):
            self.notes.append(text)

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
