"""The lowest opset that says a graph: what was exported at opset 18 becomes opset 17, which older runtimes read.

They fail, or are silently wrong, on what opset 18 changed: a reduction whose axes are an input, where they had been an
attribute. The mean over height and width becomes a pooling, which every runtime has.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from kfdeploy.arrays import Arrays

LOWEST = 17
Shapes = Mapping[str, Sequence[int]]
_REDUCTIONS = {"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"}


def lower(model: ModelProto) -> None:
    """Write a graph of opset 18 at opset 17, in place, with the same tensor names and the same meaning.

    It stays as it is where an operator needs opset 18, or is of another opset already.
    """
    graph = model.graph
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.INT64}
    if [(each.domain, each.version) for each in model.opset_import] != [("", LOWEST + 1)]:
        return
    asks = any(node.op_type == "Split" or node.op_type in _REDUCTIONS for node in graph.node)
    shapes = _shapes(model) if asks else {}
    nodes: list[NodeProto] = []
    for node in graph.node:
        found = _lowered(node, arrays, shapes)
        if found is None:
            return
        nodes.extend(found)
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    used = {name for node in copies for name in node.input} | {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    model.opset_import[0].version = LOWEST


def _lowered(node: NodeProto, arrays: Arrays, shapes: Shapes) -> list[NodeProto] | None:
    """Return the nodes that say at opset 17 what a node says at opset 18, or None where there are none."""
    if node.domain or any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
        return None
    if node.op_type in _REDUCTIONS:
        return _reduction(node, arrays, len(shapes.get(node.input[0], ())))
    if node.op_type == "Split":
        return _split(node, shapes.get(node.input[0], ()))
    if _since(node.op_type, LOWEST) == _since(node.op_type, LOWEST + 1):
        return [node]
    rule = _RULES.get(node.op_type)
    return rule(node) if rule else None


def _since(operator: str, opset: int) -> int:
    """Return the opset that an operator's definition is of; 0 where there is none yet."""
    try:
        return int(onnx.defs.get_schema(operator, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0


def _reduction(node: NodeProto, arrays: Arrays, rank: int) -> list[NodeProto] | None:
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    keep, name = given.get("keepdims", 1), node.output[0]
    if len(node.input) < 2 or not node.input[1]:
        if given.get("noop_with_empty_axes", 0):
            return None
        return [helper.make_node(node.op_type, node.input[:1], [name], name=node.name, keepdims=keep)]
    if node.input[1] not in arrays or not arrays[node.input[1]].size:
        return None
    axes = [int(axis) for axis in arrays[node.input[1]].ravel()]
    if node.op_type == "ReduceMean" and rank == 4 and sorted(axis % 4 for axis in axes) == [2, 3]:
        pooled = name if keep else f"{name}/pooled"
        pooling = helper.make_node("GlobalAveragePool", node.input[:1], [pooled], name=pooled)
        return [pooling] if keep else [pooling, helper.make_node("Flatten", [pooled], [name], name=name, axis=1)]
    return [helper.make_node(node.op_type, node.input[:1], [name], name=node.name, axes=axes, keepdims=keep)]


def _pad(node: NodeProto) -> list[NodeProto] | None:
    return [node] if len(node.input) < 4 or not node.input[3] else None


def _split(node: NodeProto, shape: Sequence[int]) -> list[NodeProto] | None:
    if len(node.input) > 1 and node.input[1]:
        return [node]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if not -len(shape) <= axis < len(shape) or not shape[axis] or shape[axis] % len(node.output):
        return None
    return [helper.make_node("Split", node.input[:1], node.output, name=node.name, axis=axis)]  # in equal pieces


def _resize(node: NodeProto) -> list[NodeProto] | None:
    plain = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}  # what opset 17 does, unsaid
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if "axes" in given or any(given.get(name, value) != value for name, value in plain.items()):
        return None
    copy = NodeProto.FromString(node.SerializeToString())
    del copy.attribute[:]
    copy.attribute.extend(a for a in node.attribute if a.name not in plain)
    return [copy]


def _mish(node: NodeProto) -> list[NodeProto]:
    soft, bent = f"{node.output[0]}/soft", f"{node.output[0]}/bent"
    return [
        helper.make_node("Softplus", node.input, [soft], name=soft),
        helper.make_node("Tanh", [soft], [bent], name=bent),
        helper.make_node("Mul", [node.input[0], bent], node.output, name=node.output[0]),
    ]


_RULES: dict[str, Callable[[Any], list[NodeProto] | None]] = {
    "Mish": _mish,
    "Pad": _pad,
    "Resize": _resize,
}


def _shapes(model: ModelProto) -> Shapes:
    """Return the shapes of a graph's tensors, where they can be told; 0 is a side that cannot."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: [int(side.dim_value) for side in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
