"""Columns become classes: their order, their names, and which ones nothing can be learned of."""

import numpy as np
import pytest

from kfdeploy.data.fields import Asked, Column, Table, classes_of, labelled, name_fault, natural, require_maps_unasked
from kfdeploy.errors import DataError
from kfdeploy.tasks.spec import field_fault


def table(**columns):
    found = {}
    for name, texts in columns.items():
        found[name] = Column()
        for row, text in enumerate(texts):
            if text:
                found[name].put(row, text, row + 2)
    return Table("t.csv", lambda line: f"'t.csv', line {line}", found, max(map(len, columns.values())))


@pytest.mark.parametrize(
    ("texts", "order"),
    [
        (["10", "9", "-1", "0.5"], ["-1", "0.5", "9", "10"]),
        (["b10", "b9", "a"], ["a", "b9", "b10"]),
        (["1", "01", "1.0"], ["01", "1", "1.0"]),
        (["9", "10", "nan"], ["9", "10", "nan"]),
        (["9" * 5000, "8"], ["8", "9" * 5000]),
    ],
)
def test_values_stand_in_the_order_in_which_people_read_them(texts, order):
    assert natural(texts) == tuple(order)


def test_labels_are_columns_of_all_fields_and_unknown_ones_are_not_guessed():
    known = table(shape=["star", "", "disc"], lit=["yes", "no", ""])
    classes = classes_of(known, Asked(orders={"lit": ("yes", "no")}))
    columns, fields, labels = labelled(known, classes, Asked(), own=True)
    assert columns == ("shape: disc", "shape: star", "lit: yes", "lit: no")
    assert fields == ("shape", "shape", "lit", "lit")
    assert labels.tolist() == [[1, 2], [-1, 3], [0, -1]]


def test_a_value_that_is_none_of_the_classes_is_named_with_its_line():
    known = table(shape=["star", "", "disk"])
    with pytest.raises(DataError, match="'t.csv', line 4: 'shape' is 'disk', and data.fields.shape.classes") as caught:
        labelled(known, {"shape": ("disc", "star")}, Asked(), own=True)
    assert (caught.value.allowed, caught.value.hint) == (("disc", "star"), "did you mean 'disc'?")
    with pytest.raises(DataError, match="line 4: 'shape' is 'disk', and no image of the train split is that"):
        labelled(known, {"shape": ("disc", "star")}, Asked(), own=False)
    with pytest.raises(DataError, match="'t.csv' has no field 'lit', and the train split has"):
        labelled(known, {"lit": ("no", "yes")}, Asked(), own=False)
    many = table(shape=list(map(str, range(5000))))
    with pytest.raises(DataError, match="'shape' has more than 4,096 values, and train 2"):
        labelled(many, {"shape": ("1", "2")}, Asked(), own=False)
    with pytest.raises(DataError, match="no image has 'cube' as its 'shape', which data.fields.shape.classes names"):
        classes_of(known, Asked(orders={"shape": ("star", "disk", "cube")}))
    again = classes_of(known, Asked(orders={"shape": ("star", "cube")}, again=True))
    assert again == {"shape": ("star", "cube", "disk")}


def test_two_columns_of_one_name_are_refused():
    known = table(**{"class": ["lit: yes", "cat"], "lit": ["yes", "no"]})
    with pytest.raises(DataError, match="the fields 'class' and 'lit' both make a column 'lit: yes'"):
        labelled(known, classes_of(known, Asked()), Asked(), own=True)


def test_fields_that_nothing_can_be_learned_of_are_refused_where_they_are_asked_for():
    ids = list(map(str, range(5000)))
    for name, texts, message in (
        ("id", ids, "'t.csv': the field 'id' has more than 4,096 values: it looks like an identifier"),
        ("lit", ["yes", "yes", ""], "the field 'lit' has one value, 'yes': there is nothing to tell apart"),
        ("lit", ["", ""], "the field 'lit' has no value"),
        ("known", ["a", "b"], "the field 'known' has a name that is taken inside a graph"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            table(**{name: texts}).checked(Asked())
        assert caught.value.hint == f"leave it out: data.ignore = ['{name}']"
    kept = table(id=ids, known=["a", "b"], lit=["yes", "yes"]).checked(Asked(again=True))
    assert list(kept.columns) == ["lit"]
    for asked in (Asked(only=("lot",)), Asked(orders={"lot": ()})):
        with pytest.raises(DataError, match="'t.csv' has no field 'lot'") as caught:
            table(lit=["yes", "no"]).checked(asked)
        assert caught.value.hint == "did you mean 'lit'?"


@pytest.mark.parametrize(
    "name", ["image", "logits", "known", "a.known", "common/x", "head/", "bank/a", "task/a", "task17/a", "", " ", "a\nb", "a\u200b", " a",
             "x" * 201]
)  # fmt: skip
def test_names_that_are_none_of_a_field(name):
    why = name_fault(name)
    assert any(word in why for word in ("is taken inside a graph", "does not print", "201 letters"))
    assert len(name) > 200 or why == field_fault(name)  # the rule that pools and models are held to


@pytest.mark.parametrize("name", ["class", "images", "task", "task1", "bank", "a/b", "Größe", "x: y"])
def test_other_names_are(name):
    assert not name_fault(name)


def test_maps_are_refused_where_they_are_asked_for():
    require_maps_unasked("seg", Asked(), "train/seg")
    require_maps_unasked("seg", Asked(orders={"seg": ()}, again=True), "train/seg")
    for asked in (Asked(orders={"seg": ()}), Asked(only=("seg",))):
        with pytest.raises(DataError, match="'train/seg' is no list of classes, and maps of labels are not there yet"):
            require_maps_unasked("seg", asked, "train/seg")


def test_rows_may_be_left_out():
    column = Column()
    column.put(2, "a", "here")
    assert column.codes(4).tolist() == [-1, -1, 0, -1]
    assert Column().codes(2).tolist() == [-1, -1]
    assert column.codes(4).dtype == np.int64
