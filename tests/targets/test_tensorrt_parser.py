"""Which graphs TensorRT reads."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from kfdeploy.errors import UnsupportedError
from kfdeploy.targets import tensorrt
from kfdeploy.targets.tensorrt_parser import OPERATORS, supported


def graph(nodes, constants=None, inputs=(("image", T.UINT8),), outputs=(("logits", T.FLOAT),), opset=18):
    """Return a graph of 4-dimensional inputs and outputs; a node is (operator, inputs, outputs, attributes)."""
    made = []
    for operator, ins, outs, *attributes in nodes:
        given = attributes[0] if attributes else {}
        made.append(helper.make_node(operator, ins, outs, name=f"the_{operator}", **given))
    values = [
        [helper.make_tensor_value_info(n, kind, ["N", *[None] * 3]) for n, kind in group] for group in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(made, "g", *values, tensors), opset_imports=opsets, ir_version=10)


START = ("Cast", ["image"], ["x"], {"to": T.FLOAT})
QUANTISED = {"s": np.float32(0.1), "zero": np.int8(0)}
PAIR = [("QuantizeLinear", ["x", "s", "zero"], ["q"]), ("DequantizeLinear", ["q", "s", "zero"], ["y"])]
END = ("Relu", ["y"], ["logits"])


def test_every_operator_that_our_graphs_have_is_in_the_table():
    ours = "Add AveragePool Cast Clip Concat Conv Div Flatten Gather Gemm GlobalAveragePool MatMul MaxPool Mul Pad"
    more = "ReduceMean Relu Reshape Sigmoid Slice Softmax Split Sub Transpose"
    assert {*ours.split(), *more.split()} <= set(OPERATORS)


def test_an_assembly_is_read_in_every_precision(assembly):
    model = onnx.load(assembly.graph)
    supported(model)
    halves = {t.name for t in model.graph.initializer if t.data_type == T.FLOAT}
    for tensor in model.graph.initializer:
        if tensor.name in halves:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for node in model.graph.node:
        if node.op_type == "Cast":
            node.attribute[0].i = T.FLOAT16
    (logits,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["half" if name == logits.name else name for name in node.output]
    model.graph.node.append(helper.make_node("Cast", ["half"], [logits.name], to=T.FLOAT))
    supported(model)
    supported(graph([START, *PAIR, END], QUANTISED))


def test_uint8_may_enter_and_leave():
    supported(
        graph(
            [START, ("Relu", ["x"], ["y"]), ("Cast", ["y"], ["logits"], {"to": T.UINT8})], outputs=[("logits", T.UINT8)]
        )
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            graph([("Relu", ["image"], ["logits"])], inputs=[("image", T.DOUBLE)], outputs=[("logits", T.DOUBLE)]),
            r"Relu 'the_Relu' has double on TensorRT \(allowed: float, float16, bfloat16, int32, int64\)",
        ),
        (
            graph([START, ("Cast", ["x"], ["d"], {"to": T.DOUBLE}), ("Cast", ["d"], ["y"], {"to": T.FLOAT}), END]),
            "Cast 'the_Cast' has double on TensorRT",
        ),
        (
            graph([("Transpose", ["image"], ["t"]), ("Cast", ["t"], ["logits"], {"to": T.FLOAT})]),
            "Transpose 'the_Transpose' has uint8, which TensorRT knows only as the network's input or output, next to a Cast",
        ),
        (
            graph([START, ("Cast", ["x"], ["b"], {"to": T.UINT8}), ("Cast", ["b"], ["y"], {"to": T.FLOAT}), END]),
            "Cast 'the_Cast' takes float to uint8; TensorRT has uint8 only as the network's input or output",
        ),
        (
            graph([("Cast", ["image"], ["i"], {"to": T.INT32}), ("Cast", ["i"], ["logits"], {"to": T.FLOAT})]),
            r"takes uint8 to int32; .* \(allowed: an input uint8 to float or float16, float or float16 to an output uint8\)",
        ),
        (
            graph([START, ("Shrink", ["x"], ["y"]), END]),
            "the graph has the operator 'Shrink' .node 'the_Shrink'., which TensorRT is not known to read",
        ),
        (
            graph([START, ("Gelu", ["x"], ["y"], {"domain": "com.microsoft"}), END]),
            "the graph has the operator 'com.microsoft.Gelu'",
        ),
        (graph([START, ("Relu", ["x"], ["logits"])], opset=8), r"does not read opset 8 \(allowed: 9 to 24\)"),
        (
            graph([START, *PAIR, END], QUANTISED | {"zero": np.int8(3)}),
            r"the zero point of QuantizeLinear 'the_QuantizeLinear' is 3: TensorRT quantises symmetrically \(allowed: 0\)",
        ),
        (
            graph([START, PAIR[0], ("DequantizeLinear", ["q", "s", "w"], ["y"]), END], QUANTISED | {"w": np.int8(-7)}),
            "the zero point of DequantizeLinear 'the_DequantizeLinear' is -7",
        ),
        (
            graph([START, *PAIR, END], QUANTISED | {"zero": np.uint8(0)}),
            r"QuantizeLinear 'the_QuantizeLinear' has uint8 on TensorRT \(allowed: int8\)",
        ),
        (
            graph(
                [START, ("QuantizeLinear", ["x", "s"], ["q"]), ("DequantizeLinear", ["q", "s"], ["y"]), END], QUANTISED
            ),
            "QuantizeLinear 'the_QuantizeLinear' has uint8 on TensorRT",
        ),
        (
            graph([START, ("Cast", ["x"], ["i"], {"to": T.INT8}), ("Cast", ["i"], ["y"], {"to": T.FLOAT}), END]),
            "Cast 'the_Cast' has int8, which TensorRT knows only between QuantizeLinear and DequantizeLinear",
        ),
        (
            graph(
                [START, PAIR[0], ("Relu", ["q"], ["r"]), ("DequantizeLinear", ["r", "s", "zero"], ["logits"])],
                QUANTISED,
            ),
            "Relu 'the_Relu' has int8, which TensorRT knows only between QuantizeLinear and DequantizeLinear",
        ),
        (
            graph(
                [START, ("DequantizeLinear", ["bias", "s"], ["b"]), ("Add", ["x", "b"], ["y"]), END],
                QUANTISED | {"bias": np.zeros(3, np.int32)},
            ),
            "DequantizeLinear 'the_DequantizeLinear' has int32: TensorRT wants a bias left in float",
        ),
        (
            graph([START, ("MaxPool", ["x"], ["y", "where"], {"kernel_shape": [2, 2]}), END]),
            "MaxPool 'the_MaxPool' gives its indices, which TensorRT does not",
        ),
        (
            graph([START, ("MaxPool", ["x"], ["y"], {"kernel_shape": [2, 2], "dilations": [2, 2]}), END]),
            r"MaxPool 'the_MaxPool' has dilations \[2, 2\] on TensorRT \(allowed: 1\)",
        ),
        (
            graph([START, ("Shape", ["x"], ["axes"]), ("ReduceMean", ["x", "axes"], ["y"]), END]),
            "the axes of ReduceMean 'the_ReduceMean' are computed, and TensorRT wants them constant",
        ),
        (
            graph([("Cast", ["image"], ["x"], {"to": T.FLOAT16}), ("Relu", ["x"], ["logits"])]),
            "the graph's types do not fit together",
        ),
    ],
)
def test_what_tensorrt_does_not_have_is_refused_by_name(model, message, tmp_path):
    with pytest.raises(UnsupportedError, match=message) as caught:
        supported(model)
    assert caught.value.exit_code == 2
    onnx.save(model, tmp_path / "given.onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(UnsupportedError, match=message):
        tensorrt.convert(tmp_path / "given.onnx", tmp_path / "out", tensorrt.Options())
    assert not list((tmp_path / "out").iterdir())


def test_a_zero_point_is_a_constant():
    model = graph([START, *PAIR, END], {"s": np.float32(0.1)}, inputs=[("image", T.UINT8), ("zero", T.INT8)])
    with pytest.raises(UnsupportedError, match="the zero point of QuantizeLinear 'the_QuantizeLinear' is computed"):
        supported(model)
