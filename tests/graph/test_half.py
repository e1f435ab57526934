import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kfdeploy.deploy.export import export
from kfdeploy.errors import UnsupportedError
from kfdeploy.graph.half import to_float16
from kfdeploy.graph.reference import run


def test_everything_inside_is_float16_and_the_ends_are_what_they_were(assembly):
    before = onnx.load(assembly.graph)
    after = to_float16(before)
    onnx.checker.check_model(after, full_check=True)
    assert {t.data_type for t in after.graph.initializer} & {TensorProto.FLOAT} == set()
    assert after.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert after.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert {t.data_type for t in before.graph.initializer} & {TensorProto.FLOAT16} == set()  # a copy
    images = assembly.evidence().images
    one, other = run(before, images)["logits"], run(after, images)["logits"]
    assert 0 < np.abs(one - other).max() <= 1e-2 * max(1, np.abs(one).max())


def test_what_float16_cannot_hold_is_refused(assembly):
    model = onnx.load(assembly.graph)
    first = next(t for t in model.graph.initializer if t.name.endswith("weight"))
    first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) * 1e8, first.name))
    with pytest.raises(UnsupportedError, match="and float16 ends at 65504") as caught:
        to_float16(model)
    assert first.name in str(caught.value)
    made = helper.make_node("Constant", [], ["c"], name="c", value=numpy_helper.from_array(np.ones(1, np.float32)))
    model.graph.node.append(made)
    first.CopyFrom(numpy_helper.from_array(np.zeros((8, 3, 3, 3), np.float32), first.name))
    with pytest.raises(UnsupportedError, match=r"'c' \(Constant\) makes floats of its own"):
        to_float16(model)


def dense(*, bias=True, **attributes):
    """x → y by a Gemm alone."""
    turned = attributes.get("transB", 0)
    random = np.random.default_rng(0)
    W = random.normal(size=(3, 4) if turned else (4, 3)).astype(np.float32)
    arrays = {"W": W, "b": random.normal(size=3).astype(np.float32)}
    node = helper.make_node("Gemm", ["x", "W", "b"] if bias else ["x", "W"], ["y"], **attributes)
    made = helper.make_graph(
        [helper.make_node("Cast", ["image"], ["x"], to=TensorProto.FLOAT), node],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(arrays[name], name) for name in node.input if name in arrays],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("turned", [0, 1])
def test_a_gemm_becomes_a_product_and_a_sum(bias, turned):
    before = dense(bias=bias, transB=turned)
    after = to_float16(before)
    onnx.checker.check_model(after, full_check=True)
    assert [node.op_type for node in after.graph.node] == ["Cast", "MatMul", *(["Add"] if bias else []), "Cast"]
    x = np.random.default_rng(1).integers(0, 9, (5, 4), dtype=np.uint8)
    np.testing.assert_allclose(run(after, x, ["y"])["y"], run(before, x, ["y"])["y"], atol=0.05)
    used = {name for node in after.graph.node for name in node.input}
    assert {tensor.name for tensor in after.graph.initializer} <= used


def test_a_gemm_that_scales_stays():
    assert "Gemm" in [node.op_type for node in to_float16(dense(alpha=0.5)).graph.node]


def test_a_student_in_float16_has_no_gemm(toy, tmp_path):
    made = export(toy.students / "small", precision="fp16", out=tmp_path)
    assert "Gemm" not in [node.op_type for node in onnx.load(made.path / "model.onnx").graph.node]
