"""Float16 graphs: every float tensor inside becomes float16, input and output stay what they are."""

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from kfdeploy.errors import UnsupportedError

LARGEST = float(np.finfo(np.float16).max)


def to_float16(model: ModelProto) -> ModelProto:
    """Return a copy that computes in float16, its output cast back to float32.

    The precision is then in the graph itself, which is where TensorRT 11 wants it.

    Raises:
        UnsupportedError: a weight is beyond float16, or a node makes floats of its own.
    """
    out = ModelProto()
    out.CopyFrom(model)
    graph = out.graph
    _split_gemm(graph)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            if (largest := float(np.abs(array).max(initial=0))) > LARGEST:
                raise UnsupportedError(
                    f"the weight '{tensor.name}' reaches {largest:.3g}, and float16 ends at {LARGEST:.0f}",
                    hint="export it as fp32",
                )
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), tensor.name))
    names = {tensor.name for tensor in graph.initializer} | {name for node in graph.node for name in node.output}
    results = {value.name: f"{value.name}/half" for value in graph.output}
    while any(name in names for name in results.values()):  # an output may be called as another one is made
        results = {name: f"{made}/half" for name, made in results.items()}
    for node in graph.node:
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                    attribute.i = TensorProto.FLOAT16
        elif any(a.type == a.TENSOR and a.t.data_type == TensorProto.FLOAT for a in node.attribute):
            raise UnsupportedError(
                f"the node '{node.name}' ({node.op_type}) makes floats of its own", hint="export fp32"
            )
        node.output[:] = [results.get(name, name) for name in node.output]
        node.input[:] = [results.get(name, name) for name in node.input]
    casts: list[NodeProto] = [
        helper.make_node("Cast", [results[name]], [name], name=f"{name}/cast", to=TensorProto.FLOAT)
        for name in sorted(results)
    ]
    graph.node.extend(casts)
    del graph.value_info[:]
    return out


def _split_gemm(graph: GraphProto) -> None:
    """Write each Gemm as a MatMul and an Add, in place: tract computes it in float32 alone."""
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
        if node.op_type != "Gemm" or not plain or node.input[1] not in arrays:
            nodes.append(node)
            continue
        weight, out = node.input[1], node.output[0]
        if given.get("transB", 0):
            turned = f"{weight}.turned"
            if turned not in arrays:
                array = np.ascontiguousarray(numpy_helper.to_array(arrays[weight]).T)
                arrays[turned] = numpy_helper.from_array(array, turned)
            weight = turned
        added = len(node.input) > 2 and node.input[2]
        product = f"{out}/product" if added else out
        nodes.append(helper.make_node("MatMul", [node.input[0], weight], [product], name=product))
        if added:
            nodes.append(helper.make_node("Add", [product, node.input[2]], [out], name=out))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    used = {name for node in copies for name in node.input}
    tensors = [arrays[name] for name in arrays if name in used]
    del graph.node[:]
    graph.node.extend(copies)
    kept = [TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del graph.initializer[:]
    graph.initializer.extend(kept)
