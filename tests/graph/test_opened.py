"""Graphs that somebody else may have written."""

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from kfdeploy.errors import PoolError
from kfdeploy.graph import opened
from kfdeploy.graph.opened import check_cost, read_onnx
from kfdeploy.graph.reference import Runner


def plain(nodes=None, arrays=None, shape=("N", 4, 4, 3), rank=4):
    nodes = nodes or [helper.make_node("Relu", ["x"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(array, name) for name, array in (arrays or {}).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def read(model, **more):
    return read_onnx(model.SerializeToString(), "here", **more)


def edited(change):
    model = plain([helper.make_node("Add", ["x", "w"], ["y"])], {"w": np.ones(3, np.float32)})
    change(model)
    return model


def external(model):
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


def loop(model):
    body = helper.make_graph([helper.make_node("Identity", ["a"], ["b"])], "body", [], [])
    model.graph.node.append(helper.make_node("Loop", ["", "", "x"], ["never"], body=body))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (external, "in another file"),
        (loop, "'body', a graph"),
        (lambda m: m.functions.add(), "it has functions"),
        (lambda m: m.graph.sparse_initializer.add(), "it has sparse weights"),
        (lambda m: m.opset_import.append(helper.make_opsetid("evil", 1)), "operators of 'evil'"),
        (lambda m: setattr(m.graph.node[0], "domain", "com.microsoft"), "an operator of 'com.microsoft'"),
        (lambda m: m.graph.ClearField("node"), "it has 0 nodes"),
        (lambda m: m.graph.node[0].ClearField("output"), "makes nothing"),
        (lambda m: m.graph.node[0].input.append("q"), "reads 'q', which nothing before it makes"),
        (lambda m: m.graph.node.add().CopyFrom(m.graph.node[0]), "two of its tensors are called 'y'"),
        (lambda m: m.graph.initializer[0].dims.append(2**40), r"has the shape \[3, 1099511627776\]"),
        (lambda m: setattr(m.graph.initializer[0], "raw_data", b"1"), "and 1 bytes or numbers"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 8), "of a type"),
        (lambda m: setattr(m.graph.output[0], "name", "z"), "nothing makes its output 'z'"),
        (lambda m: m.graph.input.add(name="second"), "2 inputs and 1 outputs"),
    ],
)
def test_more_than_plain_computation_is_refused(change, why):
    with pytest.raises(PoolError, match=f"^'here' is no graph that is read: .*{why}"):
        read(edited(change), inputs=1)


def test_what_is_no_onnx_is_refused():
    data = plain().SerializeToString()
    for damaged in (b"no graph", data[:-3], b"\xff" * 100, b""):
        with pytest.raises(PoolError, match="^'here' is no graph that is read"):
            read_onnx(damaged, "here")
    assert read(plain(), inputs=1, outputs=1).graph.node[0].op_type == "Relu"
    with pytest.raises(PoolError, match="and 1 outputs"):
        read(plain(), outputs=2)


def test_pieces_are_counted_before_they_are_parsed(monkeypatch):
    monkeypatch.setattr(opened, "_SMALL", 0)
    read(plain())
    monkeypatch.setattr(opened, "MOST_NODES", 100)
    many = ModelProto()
    for _ in range(200):
        many.graph.node.add()  # of two bytes each
    with pytest.raises(PoolError, match="more than 100 nodes"):
        read(many)
    for cut in (plain().SerializeToString()[:-3], b"\x3a\xff\xff\xff\xff\x0f", b"\x3b"):
        with pytest.raises(PoolError):
            read_onnx(cut, "here")


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
    monkeypatch.setattr(opened, "_LEAST_PRODUCTS", 10)
    monkeypatch.setattr(opened, "_PRODUCTS", 0)
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
