"""One output a field: what a composed graph or a network gives as one matrix is told apart by the last step.

Inside, all columns stand side by side in one matrix `logits` (N, C). The field `class` keeps that name for its own
columns, and every other field's output has the field's name. A `Split` copies, so a column's bits stay what they were.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from kfdeploy.errors import PoolError
from kfdeploy.graph.known import add_known

if TYPE_CHECKING:
    from onnx import ModelProto

LOGITS = "logits"  # the matrix of all columns; where there are several fields, the output of the field `class`
_MATRIX = "head/logits"  # what the matrix is called once `logits` is a part of it, or is no output at all
_SIZES = "head.columns"


def finish(model: "ModelProto", widths: Mapping[str, int], thresholds: Mapping[str, float]) -> "ModelProto":
    """Give a graph `image → logits` (N, C) its outputs, in place: one a field, and `known` where there is a threshold.

    `widths` are the columns of each output in their order, `thresholds` are by output; see `kfdeploy.graph.known`.

    Raises:
        PoolError: an output's name is taken in the graph, or the columns are not those of the outputs together.
    """
    split_outputs(model, widths)
    for output, threshold in thresholds.items():
        add_known(model, threshold, output)
    return model


def split_outputs(model: "ModelProto", widths: Mapping[str, int]) -> None:
    """Give a graph whose one output is `logits` (N, C) one output a field instead, in place; see `finish`.

    A graph of the one output `logits` stays as it is. What has an output's name inside gets another one.

    Raises:
        PoolError: as `finish`.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    if list(widths) == [LOGITS]:
        return
    sides = graph.output[0].type.tensor_type.shape.dim
    if len(sides) != 2 or sides[1].dim_value not in (0, sum(widths.values())):  # 0: the graph leaves it open
        shape = [side.dim_param or side.dim_value for side in sides]
        raise PoolError(
            f"the graph gives an output of shape {shape}, and its tasks have {sum(widths.values())} columns",
            hint="its network and its tasks are not of one another: make them again",
        )
    if taken := sorted({value.name for value in graph.input} & widths.keys()):
        raise PoolError(f"the field '{taken[0]}' has the name of the graph's input", hint="give the field another name")
    names = _names(model) | widths.keys()
    moved = {name: _free(f"{name}/inner", names) for name in sorted(_names(model) & widths.keys() - {LOGITS})}
    inner = moved[LOGITS] = next(iter(widths)) if len(widths) == 1 else _free(_MATRIX, names)
    _rename(model, moved)
    batch = sides[0].dim_param or sides[0].dim_value or None
    del graph.output[:]
    if len(widths) > 1:
        sizes = _free(_SIZES, names)
        graph.initializer.append(numpy_helper.from_array(np.array([*widths.values()], np.int64), sizes))
        graph.node.append(helper.make_node("Split", [inner, sizes], list(widths), name=f"{inner}/fields", axis=1))
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, width]) for name, width in widths.items()
    )
    del graph.value_info[:]


def _names(model: "ModelProto") -> set[str]:
    """Return the names of all tensors that a graph computes or holds."""
    graph = model.graph
    return {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}


def _free(name: str, taken: Iterable[str]) -> str:
    """Return a name that nothing has: `name`, or one that is made of it."""
    found, taken = name, set(taken)
    while found in taken:
        found += "'"
    return found


def _rename(model: "ModelProto", moved: Mapping[str, str]) -> None:
    """Call tensors by other names, in place, where they are made and where they are read."""
    for tensor in model.graph.initializer:
        tensor.name = moved.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.input[:] = [moved.get(name, name) for name in node.input]
        node.output[:] = [moved.get(name, name) for name in node.output]
