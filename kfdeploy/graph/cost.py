"""What a graph costs to run, before it is: multiplications, to which latency on one core is proportional."""

import math
from collections.abc import Sequence

import onnx


def multiplications(model: onnx.ModelProto) -> int:
    """Return the multiplications that one image takes in a graph's convolutions and matrix products."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    del fixed.graph.value_info[:]  # they may have been inferred for a batch of any size
    inferred = onnx.shape_inference.infer_shapes(fixed).graph
    shapes: dict[str, Sequence[int]] = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.output)
    }
    weights = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    total = 0
    for node in inferred.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            places = math.prod(shapes.get(node.output[0], ())[2:]) if node.op_type == "Conv" else 1
            total += math.prod(weights[node.input[1]]) * places
    return total
