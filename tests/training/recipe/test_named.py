"""Which tasks a recipe names over several fields, and what is refused."""

import pytest

from kfdeploy.errors import RecipeError
from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.training.recipe.named import tasks_of
from kfdeploy.training.recipe.sections import Groups, Task

COLUMNS = ("shape: square", "shape: heart", "hue: red", "hue: blue", "hue: green", "cat", "dog")
FIELDS = ("shape", "shape", "hue", "hue", "hue", "class", "class")


def found(named, ignore=(), columns=COLUMNS, fields=FIELDS):
    return tasks_of(named, ignore, columns, fields)


def test_a_task_a_field():
    assert found("fields") == (
        TaskSpec("shape", ("square", "heart"), field="shape"),
        TaskSpec("hue", ("red", "blue", "green"), field="hue"),
        TaskSpec("class", ("cat", "dog")),
    )
    assert [task.name for task in found("fields", ["hue"])] == ["shape", "class"]
    assert found("fields", ["hue: red", "dog"])[1:] == (
        TaskSpec("hue", ("blue", "green"), field="hue"), TaskSpec("class", ("cat",)),
    )  # fmt: skip


def test_parts_of_fields_stand_together_and_a_field_that_no_task_names_is_left_out():
    named = {
        "warm": Task(field="hue", classes=["red"]),
        "pets": ["cat", "dog"],
        "cold": Task(field="hue", classes=["blue", "green"]),
    }
    assert found(named) == (
        TaskSpec("warm", ("red",), field="hue"),
        TaskSpec("cold", ("blue", "green"), field="hue"),
        TaskSpec("pets", ("cat", "dog")),
    )


def test_a_list_is_of_the_only_field_there_is():
    only = tasks_of({"a": ["red"], "b": ["blue"]}, (), ("hue: red", "hue: blue"), ("hue", "hue"))
    assert only == (TaskSpec("a", ("red",), field="hue"), TaskSpec("b", ("blue",), field="hue"))
    assert tasks_of({"all": Task(field="class")}, ["dog"], ("cat", "dog")) == (TaskSpec("all", ("cat",)),)


@pytest.mark.parametrize(
    ("named", "ignore", "what", "hint"),
    [
        ({"a": Task(field="hew")}, (), "task 'a' is of the field 'hew', which the data do not have", "hue"),
        ({"a": Task(field="hue", classes=["red"])}, (), r"no task has class 'blue' \(nor green\)", "data.ignore"),
        ({"a": Task(field="hue", classes=["rde"])}, (), "task 'a' names class 'rde', which the data do not have", "red"),
        (
            {"a": Task(field="hue"), "b": Task(field="hue", classes=["red"])}, (),
            "class 'red' is in two tasks, 'a' and 'b'", "belongs to one task",
        ),
        (
            {"a": Task(field="hue", classes=["red"]), "b": Task(field="hue", classes=["blue", "green"], weight=2)}, (),
            "the tasks of the field 'hue' have the weights 1 and 2", "all the same",
        ),
        ("classes", (), "are for images of which the class alone is known", "tasks = 'fields'"),
        (Groups(group=2), (), "are for images of which the class alone is known", "tasks = 'fields'"),
        ("fields", ["hew"], "data.ignore names 'hew', which the data do not have", ""),
        ({" ": Task(field="hue")}, (), "a task has no name", "name it"),
        ({"a": []}, (), "task 'a' has no classes", ""),
        ({}, (), r"\[tasks\] names no task", "pets = "),
        ("fields", ["shape: square", "shape: heart"], "data.ignore leaves out every class of the field 'shape'",
         "data.ignore = ['shape']"),
    ],
)  # fmt: skip
def test_what_does_not_fit(named, ignore, what, hint):
    with pytest.raises(RecipeError, match=what) as caught:
        found(named, ignore)
    assert hint in caught.value.hint


def test_a_class_that_is_left_out_of_one_field_may_be_another_s():
    columns, fields = ("cat", "dog", "toy: cat", "toy: ball"), ("class", "class", "toy", "toy")
    named = {"toy": Task(field="toy", classes=["cat", "ball"])}
    assert found(named, ["cat"], columns, fields) == (TaskSpec("toy", ("cat", "ball"), field="toy"),)
    with pytest.raises(RecipeError, match=r"class 'cat' is in task 'toy' and in data\.ignore"):
        found(named, ["toy: cat"], columns, fields)


def test_a_list_among_fields_without_a_class_does_not_say_of_which():
    with pytest.raises(RecipeError, match="task 'a' is a list of classes, which does not say of which field"):
        tasks_of({"a": ["red"]}, (), COLUMNS[:5], FIELDS[:5])


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ("fields", "tasks = 'fields' makes a task of each thing that is known of an image, and here that is its class"),
        ({"a": Task(field="hue")}, "task 'a' is of the field 'hue', and of these images the class alone is known"),
        ({"a": []}, "task 'a' has no classes"),
        ({}, r"\[tasks\] names no task"),
        (
            {"a": ["cat"], "b": Task(field="class", classes=["dog"], weight=2)},
            "the tasks of the field 'class' have the weights 1 and 2",
        ),
    ],
)
def test_fields_where_there_are_none(named, what):
    with pytest.raises(RecipeError, match=what):
        tasks_of(named, (), ("cat", "dog"))
