"""Opening a graph that somebody else may have written: parsed within limits, and refused where it is more than plain.

A graph of ours is nodes and weights in one file: no weights beside it, no graphs inside nodes (so nothing loops), no
functions, no operators but ONNX's own. What a graph takes to run is told from its shapes before it is run.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from kfdeploy.errors import KfdeployError, PoolError, first_line
from kfdeploy.reading import MOST_FILE, ReadingError

MOST_NODES = 50_000
MOST_MESSAGES = 1_000_000  # pieces of the file, of some hundred bytes in memory each whatever they have in the file
DOMAINS = ("", "ai.onnx")
_SMALL = 1 << 20  # bytes of a file whose pieces need not be counted
_BYTES: dict[int, int] = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.DOUBLE: 8, TensorProto.INT64: 8,
          TensorProto.INT32: 4, TensorProto.INT16: 2, TensorProto.INT8: 1, TensorProto.UINT8: 1, TensorProto.UINT16: 2,
          TensorProto.UINT32: 4, TensorProto.UINT64: 8, TensorProto.BOOL: 1, TensorProto.BFLOAT16: 2}  # fmt: skip
_TYPED = {"float_data": 4, "int32_data": 4, "int64_data": 8, "double_data": 8, "uint64_data": 8}
_PLAIN = (onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT, onnx.AttributeProto.STRING, onnx.AttributeProto.TENSOR,
          onnx.AttributeProto.FLOATS, onnx.AttributeProto.INTS, onnx.AttributeProto.STRINGS)  # fmt: skip
# Operators whose output may be of any size, whatever the sizes of what they read.
_GROWING = {"Expand", "Tile", "ConstantOfShape", "Range", "Resize", "Upsample", "Pad", "NonZero", "OneHot", "Einsum",
            "GridSample", "AffineGrid", "Col2Im", "RandomNormal", "RandomUniform", "EyeLike", "MaxUnpool", "Bernoulli",
            "ConvTranspose", "RoiAlign", "DFT", "STFT", "BlackmanWindow", "HannWindow", "HammingWindow", "Multinomial",
            "MelWeightMatrix", "Gather", "GatherND", "Unique"}  # fmt: skip
# Which fields of a message hold messages: model, graph, node, attribute, tensor, a value's type, its shape.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "", 14: "", 20: "", 25: "", 26: ""},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 14: "", 15: "", 16: ""},
    "node": {5: "attribute", 9: "", 10: ""},
    "attribute": {5: "tensor", 6: "", 10: "tensor", 11: "", 14: "", 15: "", 22: "", 23: ""},
    "tensor": {3: "", 13: "", 16: ""},
    "value": {2: "type", 4: ""},
    "type": {1: "array", 4: "", 5: "", 8: "", 9: ""},
    "array": {2: "shape"},
    "shape": {1: ""},
}


def read_onnx(
    data: bytes, origin: str, *, inputs: int | None = None, outputs: int | None = None,
    error: type[KfdeployError] = PoolError, hint: str = "make it again",
) -> ModelProto:  # fmt: skip
    """Return the graph in the bytes of an ONNX file from `origin`, with so many inputs and at least so many outputs.

    Raises:
        `error`: it is no ONNX, too large, or holds more than plain computation; see the module.
    """
    try:
        _count(data)
        model = ModelProto()
        try:
            model.ParseFromString(data)
        except Exception as why:  # protobuf's DecodeError, whose module is not ours to import
            raise ReadingError(f"it is no ONNX: {first_line(why)}") from None
        _check(model, inputs, outputs)
    except ReadingError as why:
        raise error(f"'{origin}' is no graph that is read: {why}", hint=hint) from None
    return model


def _count(data: bytes) -> None:
    """Refuse a file of more pieces than are read: a piece of two bytes becomes hundreds in memory.

    Raises:
        ReadingError: as above, or the pieces do not end where the file does.
    """
    if len(data) > MOST_FILE:
        raise ReadingError(f"it has {len(data):,} bytes")
    if len(data) <= _SMALL:
        return
    left, count, nodes = [("model", 0, len(data))], 0, 0
    while left:
        kind, at, end = left.pop()
        inside = _INSIDE[kind]
        while at < end:
            tag, at = _varint(data, at, end)
            wire = tag & 7
            if wire == 2:
                size, at = _varint(data, at, end)
                if size > end - at:
                    raise ReadingError("it is cut short")
                if (below := inside.get(tag >> 3)) is not None:
                    count, nodes = count + 1, nodes + (below == "node")
                    if below:
                        left.append((below, at, at + size))
                at += size
            elif wire == 0:
                _, at = _varint(data, at, end)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise ReadingError("it is no ONNX")
        if count > MOST_MESSAGES or nodes > MOST_NODES:
            raise ReadingError(f"it has more than {MOST_NODES:,} nodes, or {MOST_MESSAGES:,} pieces")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ReadingError("it is cut short")


def _check(model: ModelProto, inputs: int | None, outputs: int | None) -> None:
    """Refuse what is no plain computation.

    Raises:
        ReadingError: as above.
    """
    graph = model.graph
    for what, there in (("functions", model.functions), ("training steps", model.training_info),
                        ("sparse weights", graph.sparse_initializer)):  # fmt: skip
        if there:
            raise ReadingError(f"it has {what}")
    if odd := [entry.domain for entry in model.opset_import if entry.domain not in DOMAINS]:
        raise ReadingError(f"it uses operators of {odd[0]!r:.80} (allowed: ONNX's own)")
    if not 0 < len(graph.node) <= MOST_NODES:
        raise ReadingError(f"it has {len(graph.node):,} nodes (allowed: 1 … {MOST_NODES:,})")
    if len(graph.input) != (len(graph.input) if inputs is None else inputs) or len(graph.output) < (outputs or 1):
        raise ReadingError(f"it has {len(graph.input)} inputs and {len(graph.output)} outputs")
    made: set[str] = set()
    for tensor in graph.initializer:
        _new(tensor.name, made)
        _check_tensor(tensor)
    for value in graph.input:
        if value.name not in made:
            _new(value.name, made)
    for node in graph.node:
        _check_node(node)
        if lost := [name for name in node.input if name and name not in made]:
            raise ReadingError(f"the node '{_said(node)}' reads '{lost[0]:.80}', which nothing before it makes")
        for name in node.output:
            if name:
                _new(name, made)
    if lost := [value.name for value in graph.output if value.name not in made]:
        raise ReadingError(f"nothing makes its output {lost[0]!r:.80}")
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # ValidationError, and what C++ throws through it
        raise ReadingError(first_line(error)[:300]) from None


def _new(name: str, made: set[str]) -> None:
    if type(name) is not str:  # protobuf gives bytes for what is no UTF-8
        raise ReadingError("a name in it is no text")
    if not name or name in made:
        raise ReadingError(f"two of its tensors are called '{name:.80}'" if name else "a tensor of it has no name")
    made.add(name)


def _said(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or next(iter(node.output), '')}"[:120]


def _check_node(node: NodeProto) -> None:
    names = (node.op_type, node.domain, node.name, *node.input, *node.output, *(each.name for each in node.attribute))
    if not all(type(name) is str for name in names):  # protobuf gives bytes for what is no UTF-8
        raise ReadingError("a name in it is no text")
    if node.domain not in DOMAINS:
        raise ReadingError(f"the node '{_said(node)}' is an operator of '{node.domain:.80}' (allowed: ONNX's own)")
    if not node.output or not node.output[0]:
        raise ReadingError(f"the node '{_said(node)}' makes nothing")
    for attribute in node.attribute:
        if attribute.type not in _PLAIN or attribute.ref_attr_name:
            raise ReadingError(f"the node '{_said(node)}' has '{attribute.name:.80}', a graph or what no number is")
        if attribute.type == onnx.AttributeProto.TENSOR:
            _check_tensor(attribute.t)


def _check_tensor(tensor: TensorProto) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ReadingError(f"the weights of '{tensor.name:.80}' are in another file")
    if tensor.data_type not in _BYTES:
        raise ReadingError(f"'{tensor.name:.80}' is of a type ({tensor.data_type}) that is not read")
    if tensor.HasField("segment") or len(tensor.dims) > 16 or any(side < 0 for side in tensor.dims):
        raise ReadingError(f"'{tensor.name:.80}' has the shape {list(tensor.dims)[:20]}")
    size = math.prod(tensor.dims)
    there = [name for name in _TYPED if len(getattr(tensor, name))]
    if tensor.HasField("raw_data") or not there:
        fits, seen = len(tensor.raw_data) == size * _BYTES[tensor.data_type], len(tensor.raw_data)
        fits &= not there
    else:
        fits, seen = len(there) == 1 and len(getattr(tensor, there[0])) == size, len(getattr(tensor, there[0]))
    if not fits:
        raise ReadingError(f"'{tensor.name:.80}' has the shape {list(tensor.dims)}, and {seen:,} bytes or numbers")


def check_whole(model: ModelProto, what: str) -> None:
    """Refuse a graph, made of files that fit their manifests, that ONNX's own checker and shape inference do not pass.

    Raises:
        PoolError: as above.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # classes of C++, which are not exported
        raise PoolError(
            f"{what} is no graph that can be run: {first_line(error)[:300]}", hint="make it again"
        ) from None


@dataclass(frozen=True)
class Cost:
    """What a graph takes to run on one image: the most bytes that its tensors have at once, and multiplications."""

    peak: int
    products: int

    def at_once(self, most: int = 96 << 20) -> int:
        """Return how many images fit into so many bytes."""
        return max(1, most // max(1, self.peak))


_LEAST_PEAK, _PEAK = 48 << 20, 512  # bytes an image, and how many times the image's own as float32
_LEAST_PRODUCTS, _PRODUCTS = 10_000_000_000, 2_000_000  # of an image, and of a number of it


def check_cost(model: ModelProto, origin: str, hint: str = "make it again") -> Cost:
    """Return what a graph takes to run, told from its shapes; refuse one that takes more than a network would.

    Raises:
        PoolError: as above, or its shapes do not fit each other, or are not known before it runs.
    """
    try:
        shapes = dict(_shapes(model))
        source = shapes.get(model.graph.input[0].name) if model.graph.input else None
        numbers = max(1, math.prod(source[0])) if source else 1
        cost = Cost(_peak(model, shapes), sum(_products(node, shapes) for node in model.graph.node))
        if cost.peak > (most := max(_LEAST_PEAK, _PEAK * 4 * numbers)):
            raise ReadingError(f"it would take {cost.peak:,} bytes an image, and at most {most:,} are given")
        if cost.products > (most := max(_LEAST_PRODUCTS, _PRODUCTS * numbers)):
            raise ReadingError(
                f"it would take {cost.products:,} multiplications an image, and at most {most:,} are done"
            )
    except ReadingError as why:
        raise PoolError(f"'{origin}' is not run: {why}", hint=hint) from None
    return cost


Shape = tuple[tuple[int, ...], int]  # sides, and bytes an element


def _shapes(model: ModelProto) -> Iterator[tuple[str, Shape]]:
    """Give the shape of every tensor that is known, for one image.

    Raises:
        ReadingError: they contradict each other, or that of an operator that may make anything is not known.
    """
    fixed = ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # what they say is not believed
    for value in fixed.graph.input:
        for side in value.type.tensor_type.shape.dim:
            if not side.HasField("dim_value"):
                side.dim_value = 1
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    except Exception as error:  # C++'s, through classes of its own
        raise ReadingError(f"its shapes do not fit: {first_line(error)[:300]}") from None
    found: dict[str, Shape] = {t.name: (tuple(t.dims), _BYTES[t.data_type]) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if (shape := _known(value)) is not None:
            found[value.name] = shape
    for node in graph.node:
        if node.op_type in _GROWING and (lost := [name for name in node.output if name and name not in found]):
            raise ReadingError(f"how large '{lost[0]:.80}' ({node.op_type}) is cannot be told before it runs")
    yield from found.items()


def _known(value: ValueInfoProto) -> Shape | None:
    kind = value.type.tensor_type
    sides = [side.dim_value if side.HasField("dim_value") else -1 for side in kind.shape.dim]
    if not kind.HasField("shape") or any(side < 0 for side in sides):
        return None
    return tuple(sides), _BYTES.get(kind.elem_type, 8)


def _peak(model: ModelProto, shapes: dict[str, Shape]) -> int:
    """Return the most bytes of tensors that are alive at once, weights aside."""
    nodes = model.graph.node
    last = {name: i for i, node in enumerate(nodes) for name in node.input}
    stay = {value.name for value in (*model.graph.output, *model.graph.input)}
    stay |= {tensor.name for tensor in model.graph.initializer}
    held = peak = 0
    for i, node in enumerate(nodes):
        held += sum(_size(shapes, name) for name in node.output)
        peak = max(peak, held)
        gone = {name for name in (*node.input, *node.output) if last.get(name, i) == i and name not in stay}
        held -= sum(_size(shapes, name) for name in gone)
    return peak


def _size(shapes: dict[str, Shape], name: str) -> int:
    sides, each = shapes.get(name, ((0,), 0))
    return math.prod(sides) * each


def _products(node: NodeProto, shapes: dict[str, Shape]) -> int:
    """Return a node's multiplications; of one that only looks at each number of its output, these."""
    out = math.prod(shapes[node.output[0]][0]) if node.output[0] in shapes else 0
    sides: Sequence[int] = shapes[node.input[1]][0] if len(node.input) > 1 and node.input[1] in shapes else ()
    if node.op_type in ("Conv", "ConvInteger", "QLinearConv", "ConvTranspose"):
        place = 3 if node.op_type == "QLinearConv" else 1
        sides = shapes[node.input[place]][0] if len(node.input) > place and node.input[place] in shapes else ()
        return out * math.prod(sides[1:])
    if node.op_type in ("MatMul", "Gemm", "MatMulInteger") and len(sides) > 1:
        return out * max(sides[-2], sides[-1] if node.op_type == "Gemm" else 0)
    if node.op_type in ("MaxPool", "AveragePool", "LpPool"):
        return out * math.prod(_ints(node, "kernel_shape"))
    return out


def _ints(node: NodeProto, name: str) -> list[int]:
    found: Any = next((attribute.ints for attribute in node.attribute if attribute.name == name), ())
    return [max(1, value) for value in found]
