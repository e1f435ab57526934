import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

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
