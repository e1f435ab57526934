"""What graphs take to run, and those that are not run."""

import numpy as np
import pytest
from onnx import helper
from plain_graph import plain

from kfdeploy.errors import PoolError
from kfdeploy.graph import bounded
from kfdeploy.graph.bounded import check_cost
from kfdeploy.graph.reference import Runner


def test_what_a_graph_takes_is_told_from_its_shapes():
    weights = np.zeros((8, 3, 3, 3), np.float32)
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
             helper.make_node("Conv", ["t", "w"], ["c"], pads=[1] * 4), helper.make_node("Relu", ["c"], ["y"])]  # fmt: skip
    cost = check_cost(plain(nodes, {"w": weights}), "here")
    assert cost.products == 48 + 8 * 16 * 27 + 8 * 16
    assert cost.peak == 2 * 4 * 8 * 16
    assert cost.at_once() > 1000


@pytest.mark.parametrize(
    ("op", "arrays", "why"),
    [
        ("Tile", {"n": np.array([1, 1, 1, 2**28])}, "bytes an image"),
        ("Pad", {"n": np.array([0, 0, 0, 0, 0, 0, 0, 2**30])}, "bytes an image"),
        ("Resize", {"": None, "n": np.array([1, 1, 1, 1e7], np.float32)}, "bytes an image"),
        ("Add", {"n": np.zeros(7, np.float32)}, "shapes do not fit"),
    ],
)
def test_a_graph_that_grows_is_not_run(op, arrays, why):
    inputs = ["x", *arrays]
    model = plain([helper.make_node(op, inputs, ["y"])], {name: array for name, array in arrays.items() if name})
    with pytest.raises(PoolError, match=why):
        check_cost(model, "here")
    with pytest.raises(PoolError, match=why):
        Runner(model, ("y",))


def test_what_grows_by_what_is_seen_is_not_run():
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["s"], keepdims=0), helper.make_node("Cast", ["s"], ["i"], to=7),
             helper.make_node("ConstantOfShape", ["i"], ["y"])]  # fmt: skip
    with pytest.raises(PoolError, match="cannot be told before it runs"):
        check_cost(plain(nodes, {"axes": np.array([0, 1, 2])}), "here")


def test_a_graph_of_too_many_multiplications_is_not_run(monkeypatch):
    monkeypatch.setattr(bounded, "_LEAST_PRODUCTS", 10)
    monkeypatch.setattr(bounded, "_PRODUCTS", 0)
    with pytest.raises(PoolError, match="would take 48 multiplications an image, and at most 10"):
        check_cost(plain(), "here")


def test_a_run_that_fails_or_does_not_end_is_an_error_of_ours(monkeypatch):
    with pytest.raises(PoolError, match="cannot be run: .*Invalid rank"):
        Runner(plain(), ("y",))(np.zeros((2, 2), np.float32))
    with pytest.raises(PoolError, match="cannot be run"):
        Runner(plain(), ("other",))
    monkeypatch.setattr("kfdeploy.graph.reference.SECONDS", 0.02)
    nodes = [helper.make_node("MatMul", ["w" if not i else f"m{i - 1}", "w"], [f"m{i}"]) for i in range(12)]
    nodes.append(helper.make_node("Add", ["x", "m11"], ["y"]))
    slow = plain([helper.make_node("Add", ["w0", "x"], ["w"]), *nodes], {"w0": np.eye(700, dtype=np.float32)}, (1,), 2)
    with pytest.raises(PoolError, match="cannot be run: .*terminate"):
        Runner(slow, ("y",), threads=1)(np.zeros(1, np.float32))


def ranged(end):
    """Read the rows that a range up to `end`, told by the batch, names: torch's way to write a strided view."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
        helper.make_node("Squeeze", ["s"], ["n"]),
        helper.make_node("Mul", ["n", "end"], ["m"]),
        helper.make_node("Range", ["zero", "m", "one"], ["r"]),
        helper.make_node("Unsqueeze", ["r", "axes"], ["u"]),
        helper.make_node("Mul", ["r", "u"], ["plane"]),
        helper.make_node("Gather", ["x", "plane"], ["y"], axis=1),
    ]
    arrays = {"zero": np.int64(0), "one": np.int64(1), "end": np.int64(end), "axes": np.array([1])}
    return plain(nodes, {name: np.asarray(value) for name, value in arrays.items()}, rank=5)


def test_a_range_that_shapes_bound_is_computed():
    cost = check_cost(ranged(3), "here")
    assert cost.peak >= 3 * 3 * 4 * 3 * 4


@pytest.mark.parametrize("end", [100_000, 10**12, -5])
def test_a_range_that_is_long_is_refused(end):
    with pytest.raises(PoolError, match=r"how large 'r' \(Range\) is cannot be told"):
        check_cost(ranged(end), "here")


def test_long_ranges_that_span_a_plane_are_refused_unrun():
    with pytest.raises(PoolError, match="it would take .* bytes an image"):
        check_cost(ranged(60_000), "here")


def test_a_range_of_numbers_is_not_counted_out():
    """ONNX's inference would: this took for ever."""
    nodes = [helper.make_node("Range", ["a", "b", "c"], ["r"]), helper.make_node("Relu", ["x"], ["y"])]
    arrays = {"a": np.float32(0), "b": np.float32(1e12), "c": np.float32(1)}
    with pytest.raises(PoolError, match=r"how large 'r' \(Range\) is cannot be told"):
        check_cost(plain(nodes, {name: np.asarray(value) for name, value in arrays.items()}), "here")
