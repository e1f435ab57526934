"""What is exported at opset 18 is said at opset 17, with the same names and numbers, or stays as it is."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kfdeploy.graph.portable import lower

X = np.random.default_rng(0).normal(size=(2, 4, 6, 6)).astype(np.float32)


def graph(*nodes, opset=18, **arrays):
    """A graph x → y."""
    made = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model if nodes[0].domain else onnx.shape_inference.infer_shapes(model)


def node(op, *inputs, **attributes):
    return helper.make_node(op, list(inputs), ["y"], **attributes)


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": X})[0]


SAID = {
    "mean": ([node("ReduceMean", "x", "a", keepdims=1)], {"a": [2, 3]}, ["GlobalAveragePool"]),
    "mean from behind": ([node("ReduceMean", "x", "a")], {"a": [-1, -2]}, ["GlobalAveragePool"]),
    "flat mean": ([node("ReduceMean", "x", "a", keepdims=0)], {"a": [2, 3]}, ["GlobalAveragePool", "Flatten"]),
    "mean of channels": ([node("ReduceMean", "x", "a", keepdims=1)], {"a": [1]}, ["ReduceMean"]),
    "mean of all": ([node("ReduceMean", "x", keepdims=0)], {}, ["ReduceMean"]),
    "largest": ([node("ReduceMax", "x", "a", keepdims=0)], {"a": [1, 3]}, ["ReduceMax"]),
    "sum": ([node("ReduceSum", "x", "a", keepdims=0)], {"a": [1]}, ["ReduceSum"]),
    "pad": ([node("Pad", "x", "p")], {"p": [0, 0, 1, 1, 0, 0, 1, 1]}, ["Pad"]),
    "enlarge": (
        [node("Resize", "x", "", "s", mode="linear", antialias=0, keep_aspect_ratio_policy="stretch")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
        ["Resize"],
    ),
    "equal pieces": ([helper.make_node("Split", ["x"], ["z", "y"], axis=-3, num_outputs=2)], {}, ["Split"]),
    "pieces of sizes": ([helper.make_node("Split", ["x", "s"], ["z", "y"], axis=1)], {"s": [1, 3]}, ["Split"]),
    "mish": ([node("Mish", "x")], {}, ["Softplus", "Tanh", "Mul"]),
}


@pytest.mark.parametrize("name", SAID)
def test_it_is_said_at_opset_17(name):
    nodes, arrays, operators = SAID[name]
    model = graph(*nodes, **arrays)
    before = run(model)
    lower(model)
    assert model.opset_import[0].version == 17
    assert [node.op_type for node in model.graph.node] == operators
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_allclose(run(model), before, atol=1e-6)
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    again = model.SerializeToString()
    lower(model)
    assert model.SerializeToString() == again


KEPT = {
    "axes that are computed": [helper.make_node("Identity", ["a"], ["b"]), node("ReduceMax", "x", "b")],
    "no axes, no reduction": [node("ReduceMax", "x", noop_with_empty_axes=1)],
    "padding of some axes": [node("Pad", "x", "p", "", "c")],
    "unequal pieces": [helper.make_node("Split", ["x"], ["y", "z", "v"], axis=1, num_outputs=3)],
    "pieces of a side that is not known": [helper.make_node("Split", ["x"], ["y", "z"], axis=0, num_outputs=2)],
    "antialias": [node("Resize", "x", "", "s", mode="linear", antialias=1)],
    "groups": [node("GroupNormalization", "x", "g", "g", num_groups=2)],
    "another domain": [helper.make_node("Odd", ["x"], ["y"], domain="odd")],
}


@pytest.mark.parametrize("name", KEPT)
def test_what_needs_opset_18_stays_as_it_is(name):
    arrays = {"a": [1], "p": [1, 1, 1, 1], "c": [2, 3], "s": np.array([1, 1, 0.5, 0.5], np.float32)}
    model = graph(*KEPT[name], **arrays, g=np.ones(2, np.float32))
    before = model.SerializeToString()
    lower(model)
    assert model.SerializeToString() == before


def test_other_opsets_stay_as_they_are():
    for opset in (13, 17, 20):
        model = graph(node("Relu", "x"), opset=opset)
        lower(model)
        assert model.opset_import[0].version == opset
