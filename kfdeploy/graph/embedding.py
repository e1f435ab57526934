"""What a classifier's last linear layer reads, found by the structure of its graph."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kfdeploy.errors import UnsupportedError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

# What stands between a last linear layer and an output: shapes, columns, means over places, and constants.
_BETWEEN = frozenset(
    ("Add", "AveragePool", "Cast", "Concat", "Div", "Flatten", "Gather", "GlobalAveragePool", "Identity", "Mul",
     "ReduceMean", "Reshape", "Slice", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze")
)  # fmt: skip


def embedding(model: "ModelProto", outputs: Sequence[str], what: str = "the graph") -> list[str]:
    """Return the tensors that the last linear layers of the named outputs read, each once, in the outputs' order.

    A linear layer is a Gemm, a MatMul or a 1×1 Conv with constant weights. Networks side by side have one each.

    Raises:
        UnsupportedError: there is none, or an output is computed otherwise: as a sum of two layers, for one.
    """
    made = {name: node for node in model.graph.node for name in node.output}
    constants = {each.name for each in model.graph.initializer}
    found: dict[str, None] = {}

    def varying(node: "NodeProto") -> list[str]:
        return [name for name in node.input if name and name not in constants]

    for node in model.graph.node:  # in the order they are computed in
        if not varying(node):
            constants.update(node.output)
    # Depth first, the first input first; each tensor once.
    waiting, seen = list(reversed(outputs)), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        node = made.get(name)
        inputs = [] if node is None else varying(node)
        if node is not None and _linear(node, model) and len(inputs) == 1:
            found[inputs[0]] = None
        elif node is None or node.op_type not in _BETWEEN or (len(inputs) > 1 and node.op_type != "Concat"):
            maker = "the image itself" if node is None else f"{node.op_type} of {', '.join(map(repr, inputs))}"
            raise UnsupportedError(
                f"the last linear layer of {what} is not found: '{name}' is {maker}",
                hint="name students and teachers that end in a Gemm, a MatMul or a 1×1 Conv",
            )
        else:
            waiting += reversed(inputs)
    return list(found)


def _linear(node: "NodeProto", model: "ModelProto") -> bool:
    if node.op_type != "Conv":
        return node.op_type in ("Gemm", "MatMul")
    shape = next((list(each.dims) for each in model.graph.initializer if each.name == node.input[1]), [])
    group = next((each.i for each in node.attribute if each.name == "group"), 1)
    return len(shape) == 4 and shape[2:] == [1, 1] and group == 1
