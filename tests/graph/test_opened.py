"""Graphs that somebody else may have written."""

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from plain_graph import plain

from kfdeploy.errors import PoolError
from kfdeploy.graph import opened
from kfdeploy.graph.opened import read_onnx


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
