"""Which of a teacher's columns is which class, of which field."""

import pytest

from kfdeploy.errors import TeacherError
from kfdeploy.training.nets.answers import answers, outputs_for, teacher_columns

COLUMNS = ("shape: square", "shape: heart", "hue: red", "hue: blue", "cat", "dog")
FIELDS = ("shape", "shape", "hue", "hue", "class", "class")
OF = dict(zip(COLUMNS, FIELDS, strict=True))


def test_by_default_a_teacher_answers_all_that_the_data_know():
    known = answers([], COLUMNS, FIELDS)
    assert list(known) == ["shape", "hue", "class"]
    assert teacher_columns(known, ("dog", "hue: red", "shape: heart"), OF) == [5, 2, 1]
    assert answers([], ("cat", "dog")) == {"class": [("cat",), ("dog",)]}


def test_a_table_says_in_which_order_and_what_is_lacking():
    known = answers({"hue": ["blue", "green", "red"], "class": []}, COLUMNS, FIELDS)
    assert teacher_columns(known, COLUMNS, OF) == [-1, -1, 2, 0, 3, 4]


def test_a_list_is_of_the_class_or_of_the_only_field():
    assert list(answers(["dog", "cat"], COLUMNS, FIELDS)) == ["class"]
    known = answers(["blue", "red"], COLUMNS[2:4], FIELDS[2:4])
    assert teacher_columns(known, COLUMNS[2:4], OF) == [1, 0]
    with pytest.raises(TeacherError, match="teacher.classes is a list, and of these images several things") as caught:
        answers(["red"], COLUMNS[:4], FIELDS[:4])
    assert "teacher.classes = { field" in caught.value.hint


def test_what_a_teacher_does_not_know():
    with pytest.raises(TeacherError, match="the teacher does not know the class 'blue'"):
        teacher_columns(answers({"hue": ["red"]}, COLUMNS, FIELDS), COLUMNS, OF)
    with pytest.raises(TeacherError, match="the teacher answers none of the fields that the tasks are of"):
        teacher_columns(answers({"size": ["big", "small"]}, COLUMNS, FIELDS), COLUMNS, OF)
    with pytest.raises(TeacherError, match="teacher.classes has no class of 'hew', which the data do not") as caught:
        answers({"hew": []}, COLUMNS, FIELDS)
    assert caught.value.hint == "did you mean 'hue'?"
    with pytest.raises(TeacherError, match="a table of fields, and of these images the class alone is known"):
        answers({"hue": ["red"]}, ("cat", "dog"))


def test_outputs_are_called_as_their_fields():
    known = answers([], COLUMNS, FIELDS)
    assert outputs_for("", known) == ["shape", "hue", "logits"]
    assert outputs_for({"hue": "colour"}, known) == ["shape", "colour", "logits"]
    assert outputs_for("all", known) == "all"
    assert outputs_for("", answers([], ("cat", "dog"))) == ""
    with pytest.raises(
        TeacherError, match="teacher.output names an output of 'hew', which the teacher does not"
    ) as caught:
        outputs_for({"hew": "colour"}, known)
    assert caught.value.hint == "did you mean 'hue'?"
