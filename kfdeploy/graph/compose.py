"""Composing graphs: one ONNX model from the common graph, the template and some tasks' weights. Numpy and onnx only.

    common: image → z (N, d, 1, 1), tap        template: tap → u (N, D, 1, 1)
    logits = W z + b + (W_j A_j) u_j, each a 1×1 convolution

K templates become a *bank*: one template whose convolutions have K times the groups. Every tensor in it is *shared*
(the same for all tasks) or *banked* (K times the channels). What cannot be banked is refused by operator, and the
caller falls back to *branches*: K copies side by side, the same numbers from more nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from kfdeploy.arrays import Arrays
from kfdeploy.errors import ComposeError, PoolError, first_line
from kfdeploy.graph.portable import lower
from kfdeploy.schema import hold

OPSET = 18  # of what is exported; what is composed is written at 17 where that says it
IR_VERSION = 8
FIRST_IR_VERSION = 10  # of what 0.1.0 wrote
_FLOATS = "float32 float16"
Form = Literal["bank", "branches"]
# One value in, one out, each element by itself: what comes in banked goes out banked.
_UNARY = {
    "Abs",
    "Clip",
    "Elu",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Mish",
    "Neg",
    "Relu",
    "Sigmoid",
    "Softplus",
    "Sqrt",
    "Tanh",
}
_BINARY = {"Add", "Sub", "Mul", "Div", "Max", "Min"}
_POOLING = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"}


@dataclass(frozen=True)
class Part:
    """One task's share: the template's weights, and its folded head."""

    name: str
    weights: Arrays
    head_z: np.ndarray[Any, Any]  # (c, d) W_j
    head_u: np.ndarray[Any, Any]  # (c, D) W_j A_j
    head_bias: np.ndarray[Any, Any]  # (c,)

    @classmethod
    def of(cls, name: str, stored: Arrays) -> "Part":
        """Return a task's share, in float32, from the arrays of its file; a pool may store float16.

        Raises:
            PoolError: its head is missing, or is none.
        """
        heads = {"head.z": (_FLOATS, ("c", "d")), "head.u": (_FLOATS, ("c", "D")), "head.bias": (_FLOATS, ("c",))}
        hold(stored, heads, f"the weights of '{name}'", "make them again")
        arrays = {key: v.astype(np.float32) if v.dtype == np.float16 else v for key, v in stored.items()}
        head = {key: arrays.pop(f"head.{key}") for key in ("z", "u", "bias")}
        return cls(name, arrays, head["z"], head["u"], head["bias"])


def compose(
    common: ModelProto, template: ModelProto, parts: Sequence[Part], form: Form, *, first: bool = False
) -> ModelProto:
    """Return `image → logits` (N, C) for the parts in their order.

    With `first` it is the graph that 0.1.0 made of them, to the byte: a device may have it.

    Raises:
        ComposeError: the form is `bank` and the template has an operator that cannot be banked.
        PoolError: the graphs and the parts do not fit each other.
    """
    try:
        return _composed(common, template, parts, form, first=first)
    except (KeyError, IndexError, TypeError, ValueError, onnx.checker.ValidationError) as error:
        raise PoolError(
            f"the graphs and the weights of {', '.join(repr(part.name) for part in parts[:3])} do not fit each other: "
            f"{first_line(error)[:200]}",
            hint="they are of two pools, or damaged: make them again",
        ) from None


def _composed(
    common: ModelProto, template: ModelProto, parts: Sequence[Part], form: Form, *, first: bool
) -> ModelProto:
    graph = GraphProto(name="kfdeploy")
    arrays: Arrays = {}
    _copy(common.graph, graph, arrays, "common/", {common.graph.input[0].name: "image"})
    z, tap = (f"common/{output.name}" for output in common.graph.output)
    graph.input.append(common.graph.input[0])
    graph.input[0].name = "image"

    sizes = [len(part.head_bias) for part in parts]
    # A grouped convolution gives each task as many outputs: shorter heads are padded, and picked from behind it.
    widest = max(sizes) if form == "bank" else 0
    padded, rows = min(sizes) < widest, widest if first else 0
    arrays["head.z"] = np.concatenate([_rows(part.head_z, rows) for part in parts])[:, :, None, None]
    arrays["head.bias"] = np.concatenate([_rows(part.head_bias, rows) for part in parts])
    if form == "bank":
        u, from_tasks = _bank(template.graph, graph, arrays, parts, tap), "head/u"
        arrays["head.u"] = np.concatenate([_rows(part.head_u, widest) for part in parts])[:, :, None, None]
        _node(graph, "Conv", [u, "head.u"], from_tasks, group=len(parts), kernel_shape=[1, 1])
        if padded and not first:
            # By a convolution with zeros and ones, which is exact: several runtimes cannot pick columns.
            arrays["head.picks"] = np.eye(len(parts) * widest, dtype=np.float32)[_columns(sizes)][:, :, None, None]
            _node(graph, "Conv", [from_tasks, "head.picks"], "head/u/picked", kernel_shape=[1, 1])
            from_tasks = "head/u/picked"
    else:
        from_tasks = _branches(template.graph, graph, arrays, parts, tap)
    _node(graph, "Conv", [z, "head.z", "head.bias"], "head/z", kernel_shape=[1, 1])
    if form == "branches" and len(parts) > 1 and not first:
        # Flat before they are added: OpenCV 4 is silently wrong where a sum follows joined convolutions.
        _node(graph, "Flatten", ["head/z"], "head/z/row", axis=1)
        _node(graph, "Flatten", [from_tasks], "head/u/row", axis=1)
        _node(graph, "Add", ["head/z/row", "head/u/row"], "logits")
    else:
        _node(graph, "Add", ["head/z", from_tasks], "head/sum")
        _node(graph, "Flatten", ["head/sum"], "head/all" if padded and first else "logits", axis=1)
    if padded and first:
        arrays["head.columns"] = np.array(_columns(sizes), np.int64)
        _node(graph, "Gather", ["head/all", "head.columns"], "logits", axis=1)
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", sum(sizes)]))
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(arrays[name]), name) for name in sorted(arrays)
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="kfdeploy")
    model.ir_version = FIRST_IR_VERSION if first else IR_VERSION
    if not first:
        lower(model)
    onnx.checker.check_model(model)
    return model


def _columns(sizes: Sequence[int]) -> list[int]:
    """Return where the outputs of heads lie, each of which is padded to the widest."""
    return [j * max(sizes) + i for j, n in enumerate(sizes) for i in range(n)]


def _branches(source: GraphProto, graph: GraphProto, arrays: Arrays, parts: Sequence[Part], tap: str) -> str:
    """Append K templates side by side, each with its head, and return the name of their outputs (N, C, 1, 1)."""
    outputs = []
    for j, part in enumerate(parts):
        # Numbered, because two percent-encoded or odd names must not meet in one graph.
        prefix = f"task{j}/"
        _copy(source, graph, arrays, prefix, {source.input[0].name: tap}, part.weights)
        arrays[f"{prefix}head.u"] = part.head_u[:, :, None, None]
        outputs.append(f"{prefix}head/u")
        u = f"{prefix}{source.output[0].name}"
        _node(graph, "Conv", [u, f"{prefix}head.u"], outputs[-1], kernel_shape=[1, 1])
    if len(outputs) == 1:
        return outputs[0]
    _node(graph, "Concat", outputs, "head/u", axis=1)
    return "head/u"


def parameter_count(model: ModelProto) -> int:
    """Return the number of trained numbers in a model: its floating-point initializers of one dimension or more."""
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and t.name != "head.picks"]
    return sum(int(np.prod(t.dims)) for t in floats if t.dims)


def _rows(array: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """Pad the first axis with zeros to `count`, where it is shorter."""
    return np.pad(array, [(0, max(0, count - len(array))), *[(0, 0)] * (array.ndim - 1)])


def _node(graph: GraphProto, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
    graph.node.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))


def _copy(
    source: GraphProto,
    graph: GraphProto,
    arrays: Arrays,
    prefix: str,
    rename: dict[str, str],
    own: Arrays | None = None,
) -> None:
    """Append the nodes and initializers of `source`, every name behind `prefix` but those of `rename`."""

    def name(old: str) -> str:
        return rename.get(old, f"{prefix}{old}") if old else ""

    for tensor in source.initializer:
        mine = None if own is None else own.get(tensor.name)
        arrays[name(tensor.name)] = numpy_helper.to_array(tensor) if mine is None else mine
    for node in source.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [name(old) for old in node.input]
        copy.output[:] = [name(old) for old in node.output]
        copy.name = copy.output[0]
        graph.node.append(copy)


def _bank(source: GraphProto, graph: GraphProto, arrays: Arrays, parts: Sequence[Part], tap: str) -> str:
    """Append K templates as one, and return the name of its output (N, K·D, 1, 1)."""
    K = len(parts)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in source.initializer}
    mine = set(parts[0].weights)
    banked: set[str] = set()
    names = {source.input[0].name: tap}

    def stack(old: str) -> str:
        """Concatenate the tasks' weights along the first axis."""
        names[old] = f"bank/{old}"
        arrays[names[old]] = np.concatenate([part.weights[old] for part in parts])
        return names[old]

    def constant(old: str) -> str:
        names[old] = f"bank/{old}"
        arrays[names[old]] = constants[old]
        return names[old]

    for node in source.node:
        copy = NodeProto()
        copy.CopyFrom(node)
        data = [old for old in node.input if old and old not in constants]
        states = {old in banked for old in data}
        if node.op_type == "Conv":
            copy.input[:] = [names[node.input[0]], *(stack(old) for old in node.input[1:])]
            group = next((a for a in copy.attribute if a.name == "group"), None)
            if node.input[0] in banked:
                if group is None:
                    copy.attribute.append(helper.make_attribute("group", K))
                else:
                    group.i *= K
            elif group is not None and group.i != 1:
                raise _refuse(node, "its input is shared by all tasks, and it has groups")
            banked.add(node.output[0])
        elif node.op_type == "BatchNormalization" and states == {True}:
            copy.input[:] = [names[node.input[0]], *(stack(old) for old in node.input[1:])]
            banked.add(node.output[0])
        else:
            if mine & set(node.input):
                raise _refuse(node, "it has weights of the task")
            if not (
                node.op_type in _UNARY | _POOLING
                or (node.op_type in _BINARY and _scalars(node, constants))
                or (node.op_type == "ReduceMean" and _spatial(node, constants))
            ):
                raise _refuse(node, "it may mix or move channels")
            if len(states) > 1:
                raise _refuse(node, "it joins a tensor shared by all tasks with one a task has to itself")
            copy.input[:] = [(names.get(old) or constant(old)) if old else "" for old in node.input]
            if states == {True}:
                banked.update(node.output)
        for old in node.output:
            names[old] = f"bank/{old}"
        copy.output[:] = [names[old] for old in node.output]
        copy.name = copy.output[0]
        graph.node.append(copy)
    if source.output[0].name not in banked:
        raise ComposeError("the template's output does not depend on the task's weights")
    return names[source.output[0].name]


def _refuse(node: NodeProto, why: str) -> ComposeError:
    return ComposeError(
        f"the operator {node.op_type} ('{node.name or node.output[0]}') cannot be banked: {why}",
        hint="assemble with branches instead of a bank",
    )


def _scalars(node: NodeProto, constants: Arrays) -> bool:
    return all(constants[name].size == 1 for name in node.input if name in constants)


def _spatial(node: NodeProto, constants: Arrays) -> bool:
    """Whether a reduction runs over height and width alone, keeping them."""
    keep = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
    axes = constants.get(node.input[1]) if len(node.input) > 1 else None
    return bool(keep) and axes is not None and sorted(axis % 4 for axis in axes.tolist()) == [2, 3]
