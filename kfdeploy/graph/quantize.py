"""INT8 graphs from ranges that belong to the pool: no data, and no task that depends on its neighbours.

Activations are quantised by tensor, weights by output channel and symmetrically; every integer convolution stands
between QuantizeLinear/DequantizeLinear pairs, which ONNX Runtime and OpenVINO fuse and TensorRT demands. Heads stay in
float. In a bank all tasks share one activation scale, so each task's own range is folded into its weights first (see
`equalise`): a task's integers are then the same in every subset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from kfdeploy.arrays import Arrays
from kfdeploy.errors import ComposeError, UnsupportedError
from kfdeploy.graph.compose import Part
from kfdeploy.graph.ranges import Range, Ranges

_BIAS_LIMIT = 2.0**30  # of a quantised bias: as much again is left for a convolution's sums, in int32
Kind = Literal["uint8", "int8"]
# What gives out what it was given, in the same unit: quantised with the scale of its input.
_SAME = {"MaxPool", "Pad"}
# What only moves values, or leaves some out: its range is that of its input.
_MOVES = {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Slice", "MaxPool"}
# What a positive factor passes through: f(a x) = a f(x).
_HOMOGENEOUS = {"Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Identity", "Pad"}
_RECTIFIERS = {"Relu", "Clip"}
_POOLED = {"ReduceMean", "GlobalAveragePool"}


def equalise(template: ModelProto, part: Part, ranges: Ranges) -> tuple[Part, dict[str, Range]]:
    """Fold a task's activation ranges into its weights, so that every tensor of the template fills [0, 1] or [−1, 1].

    With y = relu(W x + b), and x and y in units of r_x and r_y: y / r_y = relu((W r_x / r_y) (x / r_x) + b / r_y). What
    enters (the tap) keeps its unit, what leaves gives its factor to the head. Returns the part and the range of every
    tensor, which depends on the template alone: [0, 1] behind a ReLU, else [−1, 1].

    Raises:
        ComposeError: the factor does not pass through an operator, named.
    """
    graph = template.graph
    tap = graph.input[0].name
    weights = {tensor.name for tensor in graph.initializer}
    groups = _units(graph, weights)
    unit: dict[str, float] = {groups[tap]: 1.0}
    for name, (low, high) in ranges.items():
        if groups.get(name, groups[tap]) != groups[tap]:
            root = groups[name]
            unit[root] = max(unit.get(root, 0.0), abs(low), abs(high), 1e-6)
    arrays = dict(part.weights)
    found: dict[str, Range] = {}
    behind = {tap: True}  # whether a tensor is never negative
    for node in graph.node:
        data = [name for name in node.input if name and name not in weights]
        if node.op_type == "Conv":
            r_x, r_y = unit[groups[data[0]]], unit[groups[node.output[0]]]
            arrays[node.input[1]] = (arrays[node.input[1]].astype(np.float64) * (r_x / r_y)).astype(np.float32)
            if len(node.input) > 2 and node.input[2]:
                arrays[node.input[2]] = (arrays[node.input[2]].astype(np.float64) / r_y).astype(np.float32)
            behind[node.output[0]] = False
        else:
            behind[node.output[0]] = node.op_type == "Relu" or all(behind[name] for name in data)
        if groups[node.output[0]] != groups[tap]:
            found[node.output[0]] = (0.0 if behind[node.output[0]] else -1.0, 1.0)
    last = unit[groups[graph.output[0].name]]
    head = (part.head_u.astype(np.float64) * last).astype(np.float32)
    return replace(part, weights=arrays, head_u=head), found


def _units(graph: GraphProto, weights: set[str]) -> dict[str, str]:
    """Return a representative for every tensor: those that must share one factor have the same."""
    parent: dict[str, str] = {graph.input[0].name: graph.input[0].name}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in graph.node:
        data = [name for name in node.input if name and name not in weights]
        out = node.output[0]
        parent[out] = out
        if node.op_type == "Conv":
            continue
        if not (node.op_type in _HOMOGENEOUS or (node.op_type in ("Add", "Sub") and len(data) == 2)):
            raise ComposeError(
                f"the operator {node.op_type} ('{node.name or out}') cannot be folded: no scale passes through it",
                hint="export with --fuse branches, which need no common scale",
            )
        for name in data:  # both sides of a residual sum, and the sum
            parent[root(name)] = root(out)
    return {name: root(name) for name in parent}


def quantise(model: ModelProto, ranges: Ranges, kind: Kind) -> ModelProto:
    """Return a copy whose convolutions stand between Q/DQ pairs.

    `kind` "uint8" quantises activations to uint8 and biases to int32 (ONNX Runtime, OpenVINO); "int8" quantises them
    symmetrically to int8 and leaves biases in float (TensorRT refuses an int32 bias and a zero-point). Convolutions of
    pooled features, the heads, stay in float.

    Raises:
        UnsupportedError: there is no convolution to quantise, or a tensor has no range.
    """
    out = ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producer = {name: node for node in graph.node for name in node.output}
    chosen = [
        node
        for node in graph.node
        if node.op_type == "Conv" and not node.output[0].startswith("head/") and not _pooled(node.input[0], producer)
    ]
    if not chosen:
        raise UnsupportedError("the model has no convolution that could be quantised", hint="export it as fp32")
    points = _points(graph, chosen)
    if kind == "int8":
        _leave_sums_fused(graph, chosen, points)
    scales = {name: scale_of(_range_of(points[name], ranges, producer), kind) for name in points}

    new: list[NodeProto] = []
    if graph.input[0].name in points:
        raise UnsupportedError("a convolution reads the image itself, before it is normalised")
    for node in graph.node:
        if node in chosen:
            scale = scales[node.input[0]][0]
            bias = arrays[node.input[2]] if len(node.input) > 2 and node.input[2] and kind == "uint8" else None
            node.input[1] = _weight(node.input[1], arrays, new, None if bias is None else np.abs(bias) / scale)
            if bias is not None:
                node.input[2] = _bias(node.input[2], node.input[1], scale, arrays, new)
        node.input[:] = [f"{name}/real" if name in points else name for name in node.input]
        new.append(node)
        for name in node.output:
            if name in points:
                arrays[f"{name}/scale"], arrays[f"{name}/zero"] = scales[name]
                pair = [f"{name}/scale", f"{name}/zero"]
                quantised, real = f"{name}/quantised", f"{name}/real"
                new.append(helper.make_node("QuantizeLinear", [name, *pair], [quantised], name=quantised))
                new.append(helper.make_node("DequantizeLinear", [quantised, *pair], [real], name=real))
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in new]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in graph.node for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(numpy_helper.from_array(np.asarray(arrays[n]), n) for n in sorted(arrays) if n in used)
    del graph.value_info[:]
    return out


def _range_of(name: str, ranges: Ranges, producer: Mapping[str, NodeProto]) -> Range:
    """Return a tensor's range, or that of the tensor whose values it only moves.

    Raises:
        UnsupportedError: there is none on record.
    """
    source: str = name
    while source not in ranges:
        node = producer.get(source)
        if node is None or node.op_type not in _MOVES:
            raise UnsupportedError(
                f"the tensor '{name}' has no range on record, so the model cannot be int8",
                hint="export it as fp32 or fp16; if it was made by an older kfdeploy: kfdeploy calibrate, and assemble "
                "again",
            )
        source = node.input[0]
    return ranges[source]


def _points(graph: GraphProto, chosen: Sequence[NodeProto]) -> dict[str, str]:
    """Return the tensors that are quantised around some convolutions, each with the tensor whose scale it has."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def settled(name: str) -> str:
        """Return where a convolution's or a sum's output is quantised: behind its rectifier, where it has one."""
        after = readers.get(name, [])
        return after[0].output[0] if len(after) == 1 and after[0].op_type in _RECTIFIERS else name

    points: dict[str, str] = {}
    for node in chosen:
        for name in (node.input[0], settled(node.output[0])):
            points.setdefault(name, name)
    for node in graph.node:  # in topological order
        name = node.output[0]
        if node.op_type in _SAME and node.input[0] in points:
            points[name] = points[node.input[0]]
        elif node.op_type == "Add" and all(source in points for source in node.input):
            points.setdefault(settled(name), settled(name))
    return points


def _leave_sums_fused(graph: GraphProto, chosen: Sequence[NodeProto], points: dict[str, str]) -> None:
    """Take out of `points`, in place, what a convolution gives to a residual sum alone.

    TensorRT computes a convolution, the sum behind it and the rectifier behind that in one go, where nothing is rounded
    between them and the other side of the sum is quantised. Of two convolutions the later one is left so.
    """
    outputs = [node.output[0] for node in chosen]  # in topological order
    read = [name for node in graph.node for name in node.input] + [value.name for value in graph.output]
    for node in graph.node:
        if node.op_type == "Add" and all(name in points for name in node.input):
            own = [name for name in outputs if name in node.input and read.count(name) == 1]
            if own:
                del points[own[-1]]


def scale_of(values: Range, kind: Kind) -> tuple[Any, Any]:
    """Return scale and zero-point, as numpy scalars, of a range.

    uint8: zero-point 0 where nothing is negative. int8: zero-point 0 always.
    """
    low, high = min(values[0], 0.0), max(values[1], 0.0)
    if kind == "int8":
        return np.float32(max(-low, high, 1e-6) / 127), np.int8(0)
    scale = np.float32(max(high - low, 1e-6) / 255)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255))


def _weight(name: str, arrays: Arrays, new: list[NodeProto], offset: Any = None) -> str:
    """Quantise a weight by output channel; return the name of the tensor that a convolution reads in its place.

    `offset` (C,) is what its bias is in units of the input's scale. Where a channel's weights are so small that their
    scale would make its bias larger than int32 holds, the scale grows instead: such weights round to nothing, and the
    bias, which is all that such a channel says, stays right.
    """
    weight = arrays[name].astype(np.float64)
    scale = (np.abs(weight).reshape(len(weight), -1).max(1, initial=0) / 127).astype(np.float32)
    scale[scale == 0] = 1.0
    if offset is not None:
        scale = np.maximum(scale, (offset / _BIAS_LIMIT).astype(np.float32))
    shape = (-1, *[1] * (weight.ndim - 1))
    arrays[f"{name}/quantised"] = np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8)
    arrays[f"{name}/scale"], arrays[f"{name}/zero"] = scale, np.zeros(len(scale), np.int8)
    inputs = [f"{name}/{part}" for part in ("quantised", "scale", "zero")]
    new.append(helper.make_node("DequantizeLinear", inputs, [f"{name}/real"], name=f"{name}/real", axis=0))
    return f"{name}/real"


def _bias(name: str, weight: str, scale: Any, arrays: Arrays, new: list[NodeProto]) -> str:
    """Quantise a bias to int32 in the unit of its convolution's sums: the input's scale times the weight's."""
    unit = np.float32(scale) * arrays[weight.removesuffix("/real") + "/scale"]
    arrays[f"{name}/quantised"] = np.rint(arrays[name] / unit.astype(np.float64)).astype(np.int32)
    arrays[f"{name}/scale"], arrays[f"{name}/zero"] = unit, np.zeros(len(unit), np.int32)
    inputs = [f"{name}/{part}" for part in ("quantised", "scale", "zero")]
    new.append(helper.make_node("DequantizeLinear", inputs, [f"{name}/real"], name=f"{name}/real", axis=0))
    return f"{name}/real"


def _pooled(name: str, producer: Mapping[str, NodeProto]) -> bool:
    """Whether a tensor is pooled features (N, C, 1, 1), or comes of such."""
    node = producer.get(name)
    while node is not None and node.op_type in ("Flatten", "Reshape", "Identity", *_RECTIFIERS):
        node = producer.get(node.input[0])
    return node is not None and node.op_type in _POOLED
