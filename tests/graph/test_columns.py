"""Columns that nobody asked for leave the last layer, and the numbers of the others stay what they are."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from kfdeploy.graph.columns import cut_columns

RANDOM = np.random.default_rng(0)


def graph(kind, columns, *, twice=False):
    W, b = RANDOM.normal(size=(6, 4)).astype(np.float32), RANDOM.normal(size=6).astype(np.float32)
    arrays = {"W": W if kind == "Gemm" else W.T, "b": b, "columns": np.array(columns)}
    if kind == "Gemm":
        nodes = [helper.make_node("Gemm", ["x", "W", "b"], ["all"], transB=1)]
    else:
        nodes = [helper.make_node("MatMul", ["x", "W"], ["m"]), helper.make_node("Add", ["m", "b"], ["all"])]
    nodes.append(helper.make_node("Gather", ["all", "columns"], ["logits"], axis=1))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(columns)])]
    if twice:
        outputs.append(helper.make_tensor_value_info("all", TensorProto.FLOAT, ["N", 6]))
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])], outputs,
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model):
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"x": x})[0]


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
@pytest.mark.parametrize("columns", [[4, 1], [0, 1, 2, 3, 4, 5], [5]])
def test_the_last_layer_has_the_chosen_rows_alone(kind, columns):
    model = graph(kind, columns)
    before = run(model)
    assert cut_columns(model)
    assert [node.op_type for node in model.graph.node][-1] != "Gather"
    largest = max(np.prod(t.dims) for t in model.graph.initializer)
    assert largest == 4 * len(columns)
    np.testing.assert_allclose(run(model), before, atol=1e-6)
    onnx.checker.check_model(model, full_check=True)
    assert not cut_columns(model)  # nothing is left to cut


def test_what_is_read_twice_or_made_otherwise_stays():
    model = graph("Gemm", [4, 1], twice=True)
    before = model.SerializeToString()
    assert not cut_columns(model)
    assert model.SerializeToString() == before
    other = graph("MatMul", [4, 1])
    other.graph.node[1].op_type = "Mul"
    assert not cut_columns(other)
