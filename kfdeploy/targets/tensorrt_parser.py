"""What TensorRT's ONNX parser reads, as it is documented for TensorRT 10.15: so that a graph is refused here, by name.

A refusal on the device comes after a copy, and from a parser that names an assertion. The table holds the operators of
feed-forward networks; one that is not in it is refused although TensorRT may have it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from kfdeploy.errors import UnsupportedError, first_line

OPSETS = range(9, 25)
FLOATS = ("float", "float16", "bfloat16")
NUMBERS = (*FLOATS, "int32", "int64")
ANY = (*NUMBERS, "bool")
_NAMES = {
    FLOATS: "AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose Elu Erf Exp Floor Gemm GlobalAveragePool "
    "GlobalMaxPool HardSigmoid HardSwish InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax "
    "LpNormalization MatMul MaxPool PRelu Reciprocal Resize Round Selu Sigmoid Softmax Softplus Softsign Sqrt Tanh",
    NUMBERS: "Abs Add ArgMax ArgMin DepthToSpace Div Max Mean Min Mul Neg Pad Pow ReduceL1 ReduceL2 ReduceMax "
    "ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Sign SpaceToDepth Sub Sum TopK",
    ANY: "Concat Constant ConstantOfShape Equal Expand Flatten Gather GatherElements GatherND Greater GreaterOrEqual "
    "Identity Less LessOrEqual Reshape Shape Size Slice Split Squeeze Tile Transpose Unsqueeze Where",
    ("bool",): "And Not Or Xor",
    (*ANY, "uint8"): "Cast",
}
# The element types of an operator's first input and of its outputs.
OPERATORS: Mapping[str, tuple[str, ...]] = {name: kinds for kinds, names in _NAMES.items() for name in names.split()}
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
POOLS = ("AveragePool", "MaxPool")


def supported(model: "onnx.ModelProto") -> None:
    """Refuse a graph that TensorRT's ONNX parser does not read, by operator, element type and node.

    Raises:
        UnsupportedError: an opset, an operator, an element type or a quantisation that TensorRT does not have.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise UnsupportedError(f"TensorRT does not read opset {opset}", allowed=(f"{OPSETS[0]} to {OPSETS[-1]}",))
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in (*OPERATORS, *QUANTISERS):
            name = ".".join(filter(None, (node.domain, node.op_type)))
            raise UnsupportedError(
                f"the graph has the operator '{name}' (node '{_name(node)}'), which TensorRT is not known to read",
                hint="kfdeploy export --target onnx",
            )
    kinds, constants = _element_types(model), _constants(model)
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        if node.op_type in QUANTISERS:
            _check_quantiser(node, kinds, constants)
            continue
        if node.op_type in POOLS:
            _check_pool(node)
        for name in (*node.input[:1], *filter(None, node.output)):
            _check_type(node, kinds.get(name, "unknown"))
        if node.op_type == "Cast":
            _check_cast(node, kinds, ends)
        elif node.op_type.startswith("Reduce") and len(node.input) > 1 and node.input[1] not in constants:
            raise UnsupportedError(f"the axes of {_title(node)} are computed, and TensorRT wants them constant")


def _check_type(node: "onnx.NodeProto", kind: str) -> None:
    if kind == "uint8" and node.op_type != "Cast":
        raise UnsupportedError(
            f"{_title(node)} has uint8, which TensorRT knows only as the network's input or output, next to a Cast"
        )
    if kind == "int8":
        raise UnsupportedError(f"{_title(node)} has int8, which TensorRT knows only between {' and '.join(QUANTISERS)}")
    if kind not in OPERATORS[node.op_type]:
        raise UnsupportedError(f"{_title(node)} has {kind} on TensorRT", allowed=OPERATORS[node.op_type])


def _check_cast(node: "onnx.NodeProto", kinds: Mapping[str, str], ends: set[str]) -> None:
    before, after = kinds[node.input[0]], kinds[node.output[0]]
    for mine, kind, other in ((node.input[0], before, after), (node.output[0], after, before)):
        if kind == "uint8" and (mine not in ends or other not in ("float", "float16")):
            raise UnsupportedError(
                f"{_title(node)} takes {before} to {after}; TensorRT has uint8 only as the network's input or output",
                allowed=("an input uint8 to float or float16", "float or float16 to an output uint8"),
            )


def _check_quantiser(node: "onnx.NodeProto", kinds: Mapping[str, str], constants: Mapping[str, Any]) -> None:
    whole, real = (node.output[0], node.input[0]) if node.op_type == QUANTISERS[0] else (node.input[0], node.output[0])
    if kinds.get(whole) == "int32":
        raise UnsupportedError(f"{_title(node)} has int32: TensorRT wants a bias left in float")
    if kinds.get(whole) != "int8":
        raise UnsupportedError(f"{_title(node)} has {kinds.get(whole, 'unknown')} on TensorRT", allowed=("int8",))
    if kinds.get(real) not in FLOATS:
        raise UnsupportedError(f"{_title(node)} has {kinds.get(real, 'unknown')} on TensorRT", allowed=FLOATS)
    if len(node.input) < 3 or not node.input[2]:
        return  # zero is the default
    if node.input[2] not in constants:
        raise UnsupportedError(f"the zero point of {_title(node)} is computed, and TensorRT wants a constant 0")
    from onnx import numpy_helper

    zero = numpy_helper.to_array(constants[node.input[2]])
    if np.any(zero):
        worst = zero.flat[int(np.abs(zero.astype(np.int64)).argmax())]
        raise UnsupportedError(
            f"the zero point of {_title(node)} is {worst}: TensorRT quantises symmetrically", allowed=(0,)
        )


def _check_pool(node: "onnx.NodeProto") -> None:
    dilations = next((list(entry.ints) for entry in node.attribute if entry.name == "dilations"), [])
    if any(step != 1 for step in dilations):
        raise UnsupportedError(f"{_title(node)} has dilations {dilations} on TensorRT", allowed=("1",))
    if len(node.output) > 1:
        raise UnsupportedError(f"{_title(node)} gives its indices, which TensorRT does not")


def _element_types(model: "onnx.ModelProto") -> dict[str, str]:
    """Return the element type of every tensor."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise UnsupportedError(f"the graph's types do not fit together: {first_line(error)}") from None
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    kinds |= {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    return {name: onnx.TensorProto.DataType.Name(kind).lower() for name, kind in kinds.items()}


def _constants(model: "onnx.ModelProto") -> dict[str, "onnx.TensorProto"]:
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            values.update((node.output[0], entry.t) for entry in node.attribute if entry.name == "value")
    return values


def _name(node: "onnx.NodeProto") -> str:
    return node.name or node.output[0]


def _title(node: "onnx.NodeProto") -> str:
    return f"{node.op_type} '{_name(node)}'"
