import re
from pathlib import Path

import pytest

from kfdeploy.errors import RecipeError
from kfdeploy.training.recipe.recipe import (
    apply_settings,
    changed_keys,
    find_recipe,
    load_recipe,
    parse_recipe,
    shipped,
)

CLASSES = ("cat", "dog", "bird")


def digits(**changes):
    fields = load_recipe("digits").model_dump()
    return parse_recipe(apply_settings(fields, [f"{key}={value}" for key, value in changes.items()]), "test")


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_recipe_is_whole_and_says_what_it_is(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.students
    header = [line for line in shipped()[name].read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = "\n".join(header)
    assert f"kfdeploy factorize {name}" in text
    assert "hardware" in text
    assert "minutes" in text
    assert "expected" in text


def test_an_unknown_key_is_refused_and_the_nearest_suggested(tmp_path):
    text = find_recipe("digits").read_text(encoding="utf-8").replace("[train]\nepochs", "[train]\nepoch = 3\nepochs")
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"unknown key 'train.epoch' \(allowed: epochs, batch") as caught:
        load_recipe(tmp_path / "r.toml")
    assert caught.value.hint == "did you mean 'epochs'?"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epochs=five", "has train.epochs = 'five'"),
        ("train.epochs=0", "has train.epochs = 0"),
        ("train.lr=true", "has train.lr = True"),
        ("epochs=5", "unknown key 'epochs'"),
        ("ckn.depth=9", r"ckn: depth must be 6n\+2"),
        ("ckn.blocks=[1, 2, 3]", "ckn: blocks 1-2-3 make a depth of 14, and depth is 8"),
        ("ckn.blocks=[1, 1, 1, 1, 1]", r"ckn\.blocks"),
        ("ckn.blocks=[-1, 1, 2]", r"ckn\.blocks\.0"),
        ("ckn.width=7", "option A shortcuts need an even width"),
        ("ckn.family=resnett", "ckn: there is no net family 'resnett'"),
        ("tsn.net.strides=[1, 1]", "tsn.net: strides must have 1 values"),
        ("tsn.tap=layer2", "has tsn.tap = 'layer2'"),
        ("tsn.net.chanels=[3]", "unknown key 'tsn.net.chanels' .*channels, strides"),
        ("tsn.net={family='timm',model='resnet18'}", "a TSN must be a net that can be banked"),
        ("tsn.net={family='cifar_resnet',depth=8}", "a TSN cannot use option A"),
        ("tsn.net.channels=[12]", "the channels of a TSN must be multiples of 8"),
        ("image.mean=[0.1, 0.2]", "image: mean and std must have 1 values"),
        ("image.std=[0.0]", "must be positive"),
        ("teacher.source=magic", "source must be 'train', 'file:<path>'"),
        ("teacher.source=file:x.pt", None),
        ("teacher.mean=[0.1, 0.2]", r"teacher\.mean must have 1 values"),
        ("teacher.std=[0.0]", r"teacher\.std must be positive"),
        ("objective={variant='reference',infomax='infonce'}", "infomax has no meaning with variant = 'reference'"),
        ("data.fields.seg.kind=segmentation", r"data\.fields\.seg: maps of labels are not there yet, and kind is 'segm"),
        ("data.fields.seg.kind=boxes", r"data\.fields\.seg: there is no kind 'boxes' \(allowed: classes\)"),
        ("data.fields.lit.clases=['a']", r"unknown key 'data\.fields\.lit\.clases' \(allowed: kind, classes, coupling\)"),
        ("data.fields.lit.classes=['a', 'a']", "classes has 'a' twice"),
        ("data.fields.lit.coupling=loose", r"has data\.fields\.lit\.coupling = 'loose'"),
        ("data={source='digits',ignore=['lit'],fields={lit={}}}", "'lit' is in data.fields and in data.ignore"),
        ("data.images=200", "images is how many of dsprites are taken, and source is 'digits'"),
        ("data={source='dsprites',images=99}", r"has data\.images = 99"),
        ("data={source='arrays',partial=true}", "partial is for folders and webdataset, and source is 'arrays'"),
        ("students.0.nme=x", r"unknown key 'students\.0\.nme'"),
        ("tasks={a=1}", "where a list of classes is meant"),
        ("tasks={a=['x'],b={field='f',clases=['x']}}",
         r"unknown key 'tasks\.b\.clases' \(allowed: field, classes, weight\)"),
        ("tasks={a={classes=['x']}}", r"lacks 'tasks\.a\.field'"),
        ("tasks={a={field='f',weight=0}}", r"has tasks\.a\.weight = 0: input should be greater than 0"),
        ("teacher.classes={lit=['a']}", "teacher: a teacher from 'train' answers every field of the tasks"),
        ("tasks=clases", "where a list of classes is meant"),
        ("students=[{name='a', net={family='convnet',channels=[4],strides=[1]}},"
         "{name='a', net={family='convnet',channels=[4],strides=[1]}}]", "two students have one name"),
    ],
)  # fmt: skip
def test_settings_are_typed(setting, message):
    if message is None:
        assert load_recipe("digits", [setting]).teacher.source == "file:x.pt"
        return
    with pytest.raises(RecipeError, match=message):
        load_recipe("digits", [setting])


def test_independent_tasks_of_a_field_have_no_label_smoothing_either():
    with pytest.raises(RecipeError, match=r"train\.label_smoothing spreads a label over the classes of all tasks"):
        load_recipe("digits", ["data.fields.lit.coupling=independent", "train.label_smoothing=0.1"])


def test_settings_change_any_key():
    recipe = load_recipe("digits", ["train.epochs=5", "tasks={odd=['one'], even=['two']}", "run.device=cpu"])
    assert recipe.train.epochs == 5
    assert recipe.tasks == {"odd": ["one"], "even": ["two"]}
    assert load_recipe("digits", ["students.0.name=x"]).students[0].name == "x"
    with pytest.raises(RecipeError, match="takes key=value, not 'epochs'"):
        load_recipe("digits", ["epochs"])
    with pytest.raises(RecipeError, match="--set name.x: 'name' is not a section"):
        load_recipe("digits", ["name.x=1"])
    with pytest.raises(RecipeError, match=r"--set tasks\.group: 'tasks' is not a section") as caught:
        load_recipe("digits", ["tasks.group=3"])
    assert caught.value.hint == "--set 'tasks={group=3}'"


def test_a_recipe_that_is_not_there_or_not_toml(tmp_path):
    with pytest.raises(RecipeError, match="there is no recipe 'digit'") as caught:
        load_recipe("digit")
    assert caught.value.hint == "did you mean 'digits'?"
    (tmp_path / "r.toml").write_text("a = = 1")
    with pytest.raises(RecipeError, match="is not TOML"):
        load_recipe(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_text("name = 'x'")
    with pytest.raises(RecipeError, match="lacks 'tasks'"):
        load_recipe(tmp_path / "r.toml")


def test_tasks_have_each_class_once():
    assert [t.name for t in digits().task_specs(CLASSES)] == list(CLASSES)
    two = digits(tasks="{pets=['dog', 'cat'], wild=['bird']}")
    assert [t.classes for t in two.task_specs(CLASSES)] == [("dog", "cat"), ("bird",)]
    for tasks, message in (
        ("{a=['cat', 'dog'], b=['dog', 'bird']}", "class 'dog' is in two tasks, 'a' and 'b'"),
        ("{a=['cat', 'cat'], b=['dog', 'bird']}", "class 'cat' is in two tasks, 'a' and 'a'"),
        ("{a=['cat'], b=['dog']}", "no task has class 'bird'"),
        ("{a=['cat', 'dog', 'bird'], b=['brid']}", "task 'b' names class 'brid'"),
        ("{a=['cat', 'dog', 'bird'], b=[]}", "task 'b' has no classes"),
        ("{''=['cat', 'dog', 'bird']}", "a task has no name"),
    ):
        with pytest.raises(RecipeError, match=message):
            digits(tasks=tasks).task_specs(CLASSES)


def test_classes_can_be_left_out():
    recipe = digits(**{"data.ignore": "['bird']"})
    assert [t.name for t in recipe.task_specs(CLASSES)] == ["cat", "dog"]
    with pytest.raises(RecipeError, match="data.ignore names 'brid'") as caught:
        digits(**{"data.ignore": "['brid']"}).task_specs(CLASSES)
    assert caught.value.hint == "did you mean 'bird'?"
    both = digits(**{"data.ignore": "['bird']", "tasks": "{a=['cat', 'bird'], b=['dog']}"})
    with pytest.raises(RecipeError, match=r"class 'bird' is in task 'a' and in data\.ignore"):
        both.task_specs(CLASSES)


def test_what_is_asked_of_fields():
    fields = "{source='folder', ignore=['id'], partial=true, fields={lit={classes=['yes', 'no']}, shape={}}}"
    recipe = load_recipe("digits", [f"data={fields}", "data.fields.shape.coupling=independent"])
    asked = recipe.data.asked(["lit"])
    assert asked.orders == {"lit": ("yes", "no"), "shape": ()}
    assert (asked.only, asked.ignore, asked.partial, asked.again) == (["lit"], ("id",), True, False)
    assert recipe.data.fields["shape"].coupling == "independent"
    assert parse_recipe(recipe.model_dump(), "again") == recipe
    assert [task.name for task in recipe.task_specs(("a", "b"), ignored=("id",))] == ["a", "b"]
    assert recipe.fields_named() is None
    named = digits(tasks="{a={field='lit'}, b={field='shape', classes=['x']}, c={field='shape', classes=['y']}}")
    assert named.fields_named() == ("lit", "shape")
    assert digits(tasks="{a={field='lit'}, b=['x']}").fields_named() is None


def test_keys_that_came_later_are_written_where_they_say_something():
    late = {"fields", "partial", "images"}
    assert not late & load_recipe("digits").model_dump()["data"].keys()
    sprites = load_recipe("digits", ["data={source='dsprites'}"]).model_dump()["data"]
    assert late & sprites.keys() == {"images"}
    assert sprites["images"] == 100_000


def test_relative_paths_are_meant_from_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    text = (
        find_recipe("digits")
        .read_text(encoding="utf-8")
        .replace('source = "digits"', 'source = "folder"\nroot = "images"')
    )
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    assert Path(load_recipe(tmp_path / "r.toml").data.root) == tmp_path / "images"
    assert load_recipe(tmp_path / "r.toml", ["data.root=elsewhere"]).data.root == "elsewhere"


def test_changed_keys_are_dotted():
    a, b = digits().model_dump(), digits(**{"train.epochs": 7, "seed": 3}).model_dump()
    assert changed_keys(a, b) == ["seed", "train.epochs"]
    assert changed_keys(a, a) == []


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("tasks={group=1}", "has tasks.group = 1, where the number of tasks is meant, 2 or more", "stands alone"),
        ("tasks={group='ten'}", "has tasks.group = 'ten', where the number of tasks is meant", "stands alone"),
        ("tasks={group=3, pets=['cat']}", "has tasks.group = 3, and other tasks beside it", "stands alone"),
        ("ckn.blocks=[0,0,1]", "only the first stage may have no block", ""),
        ("objective.lambda_sup=-1", "has objective.lambda_sup = -1", ""),
    ],
)
def test_what_a_study_may_set_wrongly_is_told(setting, message, hint):
    begun = ["ckn.depth=4"] if "blocks" in setting else []
    with pytest.raises(RecipeError, match=re.escape(message)) as caught:
        load_recipe("digits", [*begun, setting])
    assert hint in (caught.value.hint or "")


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(RecipeError, match="lambda_sup and lambda_kt are both 0"):
        load_recipe("digits", ["objective.lambda_sup=0", "objective.lambda_kt=0"])


def test_a_teacher_groups_classes_into_tasks_of_even_sizes():
    recipe = load_recipe("digits", ["tasks={group=3}"])
    assert [len(task.classes) for task in recipe.task_specs(list("0123456789"))] == [3, 3, 4]
    with pytest.raises(RecipeError, match="tasks.group is 3, and there are 2 classes"):
        recipe.task_specs(["0", "1"])
    assert load_recipe("digits", ["tasks={group=['0','1']}"]).tasks == {"group": ["0", "1"]}  # a task of that name
