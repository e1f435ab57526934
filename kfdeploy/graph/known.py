"""The output `known` of a graph: whether an image is of the assembled tasks at all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kfdeploy.errors import PoolError

if TYPE_CHECKING:
    from onnx import ModelProto


KNOWN = "known"
THRESHOLD = "known.threshold"


def known_beside(output: str) -> str:
    """Return the name of the output that judges the images of an output: `known` beside `logits`, `shape.known`."""
    return KNOWN if output == "logits" else f"{output}.{KNOWN}"


def threshold_beside(output: str) -> str:
    """Return the name of the initializer with an output's threshold."""
    return f"{known_beside(output)}.threshold"


def add_known(model: "ModelProto", threshold: float, output: str = "logits") -> "ModelProto":
    """Add the output `known` (N,) to a graph, in place: the score less the threshold, so that 0 or more is accepted.

    It judges the columns of `output`, and has another name beside others than `logits`: see `known_beside`. Written as
    max, exp, sum and log, which every runtime has. (OpenVINO does not heed the axes of ReduceLogSumExp.)

    Raises:
        PoolError: a tensor of the graph has one of its names: a field's name is made like one.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, known = model.graph, known_beside(output)
    taken = {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    axis = f"{known}.axis"

    def free(name: str) -> str:
        if name in taken:
            raise PoolError(f"the name '{name}' is taken in the graph", hint="give the field another name")
        return name

    def add(op: str, inputs: Sequence[str], made: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(op, list(inputs), [free(made)], name=made, **attributes))
        return made

    threshold_name = free(threshold_beside(output))
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), free(axis)))
    graph.initializer.append(numpy_helper.from_array(np.array(threshold, np.float32), threshold_name))
    if model.opset_import[0].version < 18:
        top = add("ReduceMax", [output], f"{known}/top", axes=[1], keepdims=1)  # (N, 1)
    else:
        top = add("ReduceMax", [output, axis], f"{known}/top", keepdims=1)
    shares = add("Exp", [add("Sub", [output, top], f"{known}/below")], f"{known}/shares")
    mass = add("Log", [add("ReduceSum", [shares, axis], f"{known}/mass", keepdims=1)], f"{known}/log")
    score = add("Squeeze", [add("Add", [top, mass], f"{known}/score"), axis], f"{known}/flat")
    add("Sub", [score, threshold_name], known)
    graph.output.append(helper.make_tensor_value_info(known, TensorProto.FLOAT, ["N"]))
    return model
