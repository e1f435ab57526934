"""Damaged and hostile ONNX graphs; see `mutants`."""

from contextlib import suppress

import numpy as np
import onnx
from mutants import scrambled
from onnx import TensorProto, helper, numpy_helper


def onnx_file(data, dice):
    """Return a mutant of an ONNX file."""
    if dice.random() < 0.15:
        return scrambled(data, dice)
    model = onnx.ModelProto.FromString(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        dice.choice((_node, _node, _attribute, _attribute, _weights, _weights, _growing, _more, _value))(model, dice)
    return model.SerializeToString()


def _node(model, dice):
    graph = model.graph
    if not graph.node:
        return
    node = dice.choice(graph.node)
    what = dice.randrange(9)
    names = [name for each in graph.node for name in (*each.input, *each.output)] + [""]
    if what == 0:
        graph.node.remove(node)
    elif what == 1 and node.input:
        node.input[dice.randrange(len(node.input))] = dice.choice(names)
    elif what == 2 and node.output:
        node.output[0] = dice.choice(names)
    elif what == 3:
        node.op_type = dice.choice(("Relu", "Pad", "Tile", "Resize", "Loop", "MatMul", "Conv", "Softmax", "X", "Add",
                                    "Reshape", "Concat", "Split", "Einsum", "ConstantOfShape", "NonZero", "Gather"))  # fmt: skip
    elif what == 4:
        node.domain = dice.choice(("com.microsoft", "ai.onnx.ml", "evil", "ai.onnx"))
    elif what == 5:
        del node.input[:]
    elif what == 6:
        del node.output[:]
    elif what == 7:
        graph.node.add().CopyFrom(node)
    else:
        for i in range(dice.choice((10, 2000))):
            more = graph.node.add()
            more.CopyFrom(node)
            if more.output:
                more.output[0] = f"copy{i}"


def _attribute(model, dice):
    nodes = [node for node in model.graph.node if node.attribute]
    if not nodes:
        return
    attribute = dice.choice(dice.choice(nodes).attribute)
    number = dice.choice((0, 1, -1, 2, 1000, 2**31 - 1, 2**31, 2**40, -(2**31), 2**62))
    if attribute.ints and dice.random() < 0.8:
        attribute.ints[dice.randrange(len(attribute.ints))] = number
    elif dice.random() < 0.3:
        attribute.ints.append(number)
    elif dice.random() < 0.5:
        attribute.i = number
    else:
        attribute.type = dice.randrange(15)


def _weights(model, dice):
    if not model.graph.initializer:
        return
    tensor = dice.choice(model.graph.initializer)
    what = dice.randrange(7)
    if what == 0 and tensor.dims:
        tensor.dims[dice.randrange(len(tensor.dims))] = dice.choice((0, 1, -1, 2**31, 2**40, 2**62))
    elif what == 1:
        tensor.raw_data = tensor.raw_data[: dice.randrange(len(tensor.raw_data) + 1)]
    elif what == 2:
        tensor.data_type = dice.randrange(24)
    elif what == 3:
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", dice.choice(("../../../etc/passwd", "/dev/zero", "x"))
    elif what == 4:
        model.graph.initializer.remove(tensor)
    elif what == 5:
        with suppress(ValueError):  # broken by a change before
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(array.reshape(-1)[: max(1, array.size // 2)].copy(), tensor.name))
    else:
        tensor.dims.append(dice.choice((1, 2, 2**40)))


def _growing(model, dice):
    """Put a node in that makes something of any size of what there is."""
    graph = model.graph
    if not graph.node:
        return
    at = dice.randrange(len(graph.node))
    name = next(iter(graph.node[at].output), "")
    big = dice.choice((100, 100_000, 2**31, 2**40))
    wanted = dice.choice(("Tile", "Pad", "Expand", "ConstantOfShape", "Resize", "Range"))
    numbers = {"Tile": [1, 1, big, 1], "Pad": [0] * 6 + [big, 0], "Expand": [1, 1, big, big], "ConstantOfShape": [big, big],
               "Resize": [1.0, 1.0, float(big), 1.0], "Range": [0, big, 1]}[wanted]  # fmt: skip
    kind = np.float32 if wanted == "Resize" else np.int64
    constants = [np.array(each, kind) for each in numbers] if wanted == "Range" else [np.array(numbers, kind)]
    names = [f"big{at}.{i}" for i in range(len(constants))]
    graph.initializer.extend(numpy_helper.from_array(each, own) for each, own in zip(constants, names, strict=True))
    inputs = {"ConstantOfShape": names, "Range": names, "Resize": [name, "", *names]}.get(wanted, [name, *names])
    node = helper.make_node(wanted, inputs, [f"big{at}"])
    nodes = list(graph.node)
    for later in nodes[at + 1 :]:
        later.input[:] = [f"big{at}" if old == name else old for old in later.input]
    nodes.insert(at + 1, node)
    copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _more(model, dice):
    """Put in what is more than plain computation."""
    what = dice.randrange(6)
    if what == 0:
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["again"]), helper.make_node("Identity", ["x"], ["y"])], "body",
            [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, []),
             helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info("again", TensorProto.BOOL, []), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        )  # fmt: skip
        source = model.graph.node[0].output[0] if model.graph.node else "image"
        model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "trips"))
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "truth"))
        model.graph.node.append(helper.make_node("Loop", ["trips", "truth", source], ["never"], body=body))
    elif what == 1:
        function = helper.make_function("own", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [])
        model.functions.append(function)
    elif what == 2:
        model.graph.sparse_initializer.add()
    elif what == 3:
        model.opset_import.append(helper.make_opsetid(dice.choice(("evil", "com.microsoft")), 1))
    elif what == 4:
        for entry in model.opset_import:
            entry.version = dice.choice((0, 1, 6, 99, 2**40))
    else:
        model.ir_version = dice.choice((0, 1, 99, 2**40))


def _value(model, dice):
    value = dice.choice([*model.graph.input, *model.graph.output] or [None])
    if value is None:
        return
    what = dice.randrange(5)
    if what == 0:
        value.name = dice.choice(("x", "", "image", "logits"))
    elif what == 1:
        value.type.tensor_type.elem_type = dice.randrange(24)
    elif what == 2 and value.type.tensor_type.shape.dim:
        dice.choice(value.type.tensor_type.shape.dim).dim_value = dice.choice((0, -1, 1, 2**31, 2**40))
    elif what == 3:
        value.type.Clear()
    elif len(model.graph.output):
        del model.graph.output[-1]
