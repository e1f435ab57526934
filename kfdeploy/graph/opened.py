"""Opening a graph that somebody else may have written: parsed within limits, and refused where it is more than plain.

A graph of ours is nodes and weights in one file: no weights beside it, no graphs inside nodes (so nothing loops), no
functions, no operators but ONNX's own.
"""

import math
import os
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from kfdeploy.errors import KfdeployError, PoolError, first_line
from kfdeploy.names import check_inside
from kfdeploy.reading import MOST_FILE, ReadingError, open_regular, reason

MOST_NODES = 50_000
MOST_MESSAGES = 1_000_000  # pieces of the file, of some hundred bytes in memory each whatever they have in the file
DOMAINS = ("", "ai.onnx")
_SMALL = 1 << 20  # bytes of a file whose pieces need not be counted
BYTES: dict[int, int] = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.DOUBLE: 8, TensorProto.INT64: 8,
          TensorProto.INT32: 4, TensorProto.INT16: 2, TensorProto.INT8: 1, TensorProto.UINT8: 1, TensorProto.UINT16: 2,
          TensorProto.UINT32: 4, TensorProto.UINT64: 8, TensorProto.BOOL: 1, TensorProto.BFLOAT16: 2}  # fmt: skip
_TYPED = {"float_data": 4, "int32_data": 4, "int64_data": 8, "double_data": 8, "uint64_data": 8}
_PLAIN = (onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT, onnx.AttributeProto.STRING, onnx.AttributeProto.TENSOR,
          onnx.AttributeProto.FLOATS, onnx.AttributeProto.INTS, onnx.AttributeProto.STRINGS)  # fmt: skip
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
    error: type[KfdeployError] = PoolError, hint: str = "make it again", beside: Path | None = None,
) -> ModelProto:  # fmt: skip
    """Return the graph in the bytes of an ONNX file from `origin`, with so many inputs and at least so many outputs.

    With `beside`, weights may be in files of that folder, as torch writes a user's own network; large ones stay there.

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
        _check(model, inputs, outputs, beside)
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


def _check(model: ModelProto, inputs: int | None, outputs: int | None, beside: Path | None) -> None:
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
        _check_tensor(tensor, beside)
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
    if any(tensor.external_data for tensor in graph.initializer):
        return  # the checker would look for the files in the working folder
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


def _check_tensor(tensor: TensorProto, beside: Path | None = None) -> None:
    outside = tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)
    if outside and beside is None:
        raise ReadingError(f"the weights of '{tensor.name:.80}' are in another file")
    if tensor.data_type not in BYTES:
        raise ReadingError(f"'{tensor.name:.80}' is of a type ({tensor.data_type}) that is not read")
    if tensor.HasField("segment") or len(tensor.dims) > 16 or any(side < 0 for side in tensor.dims):
        raise ReadingError(f"'{tensor.name:.80}' has the shape {list(tensor.dims)[:20]}")
    size = math.prod(tensor.dims)
    if outside and beside is not None:
        _check_outside(tensor, size * BYTES[tensor.data_type], beside)
        return
    there = [name for name in _TYPED if len(getattr(tensor, name))]
    if tensor.HasField("raw_data") or not there:
        fits, seen = len(tensor.raw_data) == size * BYTES[tensor.data_type], len(tensor.raw_data)
        fits &= not there
    else:
        fits, seen = len(there) == 1 and len(getattr(tensor, there[0])) == size, len(getattr(tensor, there[0]))
    if not fits:
        raise ReadingError(f"'{tensor.name:.80}' has the shape {list(tensor.dims)}, and {seen:,} bytes or numbers")


def _check_outside(tensor: TensorProto, size: int, folder: Path) -> None:
    """Refuse weights that are not wholly in a regular file of this folder; take small ones out of it.

    Raises:
        ReadingError: as above.
    """
    told = {entry.key: entry.value for entry in tensor.external_data}
    name = told.get("location", "")
    try:
        check_inside(folder, [name])
        if name != Path(name).name:
            raise ReadingError(f"the weights of '{tensor.name:.80}' are in another folder: {name!r:.80}")
        offset, length = int(told.get("offset", "0")), int(told.get("length", str(size)))
        with open_regular(folder / name) as stream:
            there = os.fstat(stream.fileno()).st_size
            fits = offset >= 0 and length == size and offset + size <= there and not tensor.raw_data
            if fits and size <= _SMALL:  # the lengths and axes among them are what shapes are told from
                stream.seek(offset)
                tensor.raw_data = stream.read(size)
    except KfdeployError as why:
        raise ReadingError(why.what) from None
    except OSError as why:
        raise ReadingError(f"the file {name!r:.80} with its weights cannot be read: {reason(why)}") from None
    except ValueError as why:
        raise ReadingError(f"where the weights of '{tensor.name:.80}' are cannot be read: {first_line(why)}") from None
    if not fits:
        raise ReadingError(f"'{tensor.name:.80}' has {size:,} bytes, which are not those named in {name!r:.80}")
    if size <= _SMALL:
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT


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
