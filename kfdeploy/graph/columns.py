"""Columns that nobody asked for: a choice of outputs behind a network's last layer becomes part of that layer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper

from kfdeploy.graph.fold import initializers, set_initializers


def cut_columns(model: onnx.ModelProto) -> bool:
    """Give the last layer only the rows that a `Gather` behind it chooses, in that order, in place.

    Returns whether it did: the graph has to end with a Gemm, a MatMul, or a MatMul and an Add, with constants for
    weights, whose result nothing else reads, and a Gather of its columns (axis 1), or a Split of that.
    """
    graph = model.graph
    arrays = initializers(model)
    final = graph.output[0].name
    split = _maker(graph, final)
    if split is not None and split.op_type == "Split":  # one output a field: what is chosen stands before it
        final = split.input[0]
    gather = next((node for node in graph.node if final in node.output), None)
    if gather is None or gather.op_type != "Gather" or _axis(gather) not in (1, -1) or gather.input[1] not in arrays:
        return False
    chosen = arrays[gather.input[1]]
    readers = [name for node in graph.node for name in node.input] + [output.name for output in graph.output]
    change: list[Callable[[], None]] = []
    node = _maker(graph, gather.input[0])
    while node is not None and readers.count(node.output[0]) == 1:
        if node.op_type == "Add":
            bias = next((i for i, name in enumerate(node.input) if name in arrays), None)
            if bias is None:
                return False
            change.append(_slice(node, bias, arrays, chosen, -1))
            node = _maker(graph, node.input[1 - bias])
            continue
        if node.op_type not in ("Gemm", "MatMul") or node.input[1] not in arrays:
            return False
        turned = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
        change.append(_slice(node, 1, arrays, chosen, 0 if turned else 1))
        if len(node.input) > 2:
            if node.input[2] not in arrays:
                return False
            change.append(_slice(node, 2, arrays, chosen, -1))
        break
    else:
        return False
    for each in change:
        each()
    last = _maker(graph, gather.input[0])
    assert last is not None
    last.output[0] = final
    graph.node.remove(gather)
    used = {name for node in graph.node for name in node.input}
    set_initializers(model, {name: array for name, array in arrays.items() if name in used})
    onnx.checker.check_model(model, full_check=True)
    return True


def _slice(node: Any, place: int, arrays: dict[str, Any], chosen: Any, axis: int) -> Callable[[], None]:
    """Return what gives a node a copy of its constant with the chosen rows; a bias of one number stays as it is."""

    def apply() -> None:
        array = arrays[node.input[place]]
        if array.ndim and array.shape[axis] > 1:
            arrays[f"{node.input[place]}.chosen"] = np.ascontiguousarray(array.take(chosen, axis=axis))
            node.input[place] += ".chosen"

    return apply


def _axis(node: Any) -> int:
    return next((int(helper.get_attribute_value(a)) for a in node.attribute if a.name == "axis"), 0)


def _maker(graph: Any, name: str) -> Any:
    return next((node for node in graph.node if name in node.output), None)
