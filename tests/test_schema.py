"""Checks of what manifests and arrays must be."""

import numpy as np
import pytest

from kfdeploy.errors import PoolError
from kfdeploy.schema import (
    among,
    either,
    files,
    flag,
    hold,
    hold_indices,
    listing,
    mapping,
    maybe,
    number,
    record,
    require,
    table,
    text,
    whole,
)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (number(0, 1), (0, 0.5, 1), (-1, 2, True, None, "1", float("nan"), float("inf"))),
        (whole(1, 3), (1, 3), (0, 4, 1.0, True, "1")),
        (text(3, 1), ("a", "abc"), ("", "abcd", 1, None)),
        (among("a", "b"), ("a",), ("c", 1, [])),
        (flag, (True, False), (0, 1, None)),
        (table, ({},), ([], None)),
        (maybe(flag), (None, True), (1,)),
        (either(flag, text()), (True, "x"), (1,)),
        (listing(flag, 1, 2), ([True], [True, False]), ([], [True] * 3, [1], "x", (True,))),
        (mapping(flag), ({}, {"a": True}), ({"a": 1}, [])),
        (record({"a": flag}, {"b": flag}), ({"a": True}, {"a": True, "b": False, "c": 1}), ({}, {"a": 1}, {"a": True, "b": 1}, [])),
        (record({"a": flag}, only=True), ({"a": True},), ({"a": True, "c": 1},)),
        (files, ({}, {"x": {"bytes": 1, "sha256": "ab" * 32}}), ([], {"x": {}}, {"x": {"bytes": -1, "sha256": "ab" * 32}},
                                                                {"x": {"bytes": 1, "sha256": "../" * 21 + "x"}})),
    ],
)  # fmt: skip
def test_a_check_says_nothing_of_what_is_right(check, good, bad):
    assert not any(map(check, good))
    assert all(map(check, bad))


def test_what_is_wrong_is_told_with_its_place():
    check = record({"tasks": listing(record({"name": text()})), "by": mapping(whole())})
    for value, said in (
        ({"tasks": [{"name": "a"}, {}], "by": {}}, r"'here' is incomplete: 'name' is missing \(in 'tasks\[1\]'\)"),
        ({"tasks": []}, "'here' is incomplete: 'by' is missing$"),
        ({"tasks": [{"name": 1}], "by": {}}, r"'here' is wrong: 'tasks\[0\].name' is 1, and not a text"),
        ({"tasks": [], "by": {"a b\nc": 0.5}}, "'here' is wrong: 'by.a b c' is 0.5, and not a whole number"),
        ([], r"'here' is \[\], and not a table"),
    ):
        with pytest.raises(PoolError, match=said):
            require(value, check, "here", "")


def test_arrays_are_held_to_kinds_and_shapes():
    arrays = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((3,), np.int64)}
    assert hold(arrays, {"a": ("float16 float32", ("N", "C")), "b": ("int64", ("C",))}, "here") == {"N": 2, "C": 3}
    for wanted, said in (
        ({"c": ("int64", ())}, "has no 'c'"),
        ({"a": ("int64", (2, 3))}, r"is of float32 \(allowed: int64\)"),
        ({"a": ("float32", (2, 4))}, r"has the shape \(2, 3\), and not 2 × 4"),
        ({"a": ("float32", ("N", None)), "b": ("int64", ("N",))}, r"has the shape \(3,\), and not 2"),
        ({"a": ("float32", (None,))}, "and not any"),
    ):
        with pytest.raises(PoolError, match=said):
            hold(arrays, wanted, "here")
    hold_indices(np.array([0, 2]), 3, "b", "here")
    hold_indices(np.array([], int), 0, "b", "here")
    with pytest.raises(PoolError, match="goes from -1 to 2, and there are 3"):
        hold_indices(np.array([-1, 2]), 3, "b", "here")
