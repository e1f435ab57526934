"""The output `known` of a graph: whether an image is of the assembled tasks at all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import ModelProto


KNOWN = "known"
THRESHOLD = "known.threshold"


def add_known(model: "ModelProto", threshold: float) -> "ModelProto":
    """Add the output `known` (N,) to a graph, in place: the score less the threshold, so that 0 or more is accepted.

    Written as max, exp, sum and log, which every runtime has. (OpenVINO does not heed the axes of ReduceLogSumExp.)
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "known.axis"))
    graph.initializer.append(numpy_helper.from_array(np.array(threshold, np.float32), THRESHOLD))

    def add(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        graph.node.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    if model.opset_import[0].version < 18:
        top = add("ReduceMax", ["logits"], "known/top", axes=[1], keepdims=1)  # (N, 1)
    else:
        top = add("ReduceMax", ["logits", "known.axis"], "known/top", keepdims=1)
    shares = add("Exp", [add("Sub", ["logits", top], "known/below")], "known/shares")
    mass = add("Log", [add("ReduceSum", [shares, "known.axis"], "known/mass", keepdims=1)], "known/log")
    score = add("Squeeze", [add("Add", [top, mass], "known/score"), "known.axis"], "known/flat")
    add("Sub", [score, THRESHOLD], KNOWN)
    graph.output.append(helper.make_tensor_value_info(KNOWN, TensorProto.FLOAT, ["N"]))
    return model
