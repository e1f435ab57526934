"""The input of a graph: bytes, which it casts itself, or, for runtimes that have no bytes, float32 numbers."""

from typing import TYPE_CHECKING

from kfdeploy.errors import UnsupportedError

if TYPE_CHECKING:
    from onnx import ModelProto


def take_floats(model: "ModelProto") -> None:
    """Let a graph take its images as float32 from 0 to 255, in place; the cast from uint8 goes.

    In a float16 graph a cast stays, from float32.

    Raises:
        UnsupportedError: something else than a cast reads the image.
    """
    from onnx import NodeProto, TensorProto

    graph = model.graph
    image = graph.input[0]
    gone: dict[str, str] = {}
    for node in graph.node:
        if image.name in node.input and node.op_type != "Cast":
            raise UnsupportedError(f"the operator {node.op_type} reads the image as it is, so its input stays uint8")
        if image.name in node.input and any(a.name == "to" and a.i == TensorProto.FLOAT for a in node.attribute):
            gone[node.output[0]] = image.name
    kept = [NodeProto.FromString(node.SerializeToString()) for node in graph.node if node.output[0] not in gone]
    for node in kept:
        node.input[:] = [gone.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)
    image.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.value_info[:]
