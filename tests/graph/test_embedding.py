"""The last linear layer is found by what a graph computes, whatever its tensors are called."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from kfdeploy.deploy.model import Model
from kfdeploy.errors import UnsupportedError
from kfdeploy.graph.embedding import embedding

SHAPES = {"w": (4, 3), "v": (4, 2), "k": (3, 4, 1, 1), "k3": (3, 4, 3, 3), "depth": (4, 1, 1, 1), "s": (1,), "b": (3,)}


def graph(*nodes, outputs=("y",), shape=(None, 4)):
    """Return a graph of nodes written as `operator input… -> output…`, on an input `x` and constants by name."""
    made = []
    for line in nodes:
        left, right = line.split(" -> ")
        op, *inputs = left.split()
        extra = (
            {"group": 4}
            if "depth" in inputs
            else {"value": numpy_helper.from_array(np.ones(1))}
            if op == "Constant"
            else {}
        )
        made.append(helper.make_node(op, inputs, right.split(), **extra))
    constants = [numpy_helper.from_array(np.ones(size, np.float32), name) for name, size in SHAPES.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    start = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    return helper.make_model(helper.make_graph(made, "some", [start], ends, constants))


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        (("Relu x -> a", "Gemm a w b -> y"), ["a"]),
        (("Relu x -> a", "MatMul a w -> m", "Add b m -> n", "Mul n s -> y"), ["a"]),
        (("Relu x -> a", "Conv a k b -> m", "GlobalAveragePool m -> n", "Flatten n -> y"), ["a"]),
        # Weights that are computed from constants, and one that a node holds.
        (("Relu x -> a", "Identity w -> u", "MatMul a u -> y"), ["a"]),
        (("Relu x -> a", "Constant -> c", "Gemm a w b -> m", "Div m c -> y"), ["a"]),
        # Networks side by side, in their order; two heads that read one tensor.
        (("Relu x -> a", "Tanh x -> c", "Gemm a w -> m", "Gemm c v -> n", "Concat m n -> o", "Mul o s -> y"), ["a", "c"]),
        (("Relu x -> a", "Gemm a w -> m", "Gemm a v -> n", "Concat m n -> y"), ["a"]),
        # Of two layers the last.
        (("Gemm x w -> a", "Relu a -> c", "Gemm c v -> y"), ["c"]),
    ],
)  # fmt: skip
def test_it_is_found_by_structure(nodes, found):
    assert embedding(graph(*nodes), ["y"]) == found


def test_several_outputs_have_their_layers_in_their_order():
    model = graph(
        "Relu x -> a", "Tanh x -> c", "Gemm a w -> m", "Split m -> y z", "Gemm c v -> q", outputs=("q", "y", "z")
    )
    assert embedding(model, ["q", "y", "z"]) == ["c", "a"]
    assert embedding(model, ["z"]) == ["a"]


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (("Gemm x w -> a", "Gemm x w -> c", "Add a c -> y"), "'y' is Add of 'a', 'c'"),  # as an assembly's are
        (("Gemm x w -> a", "Softmax a -> y"), "'y' is Softmax of 'a'"),
        (("Relu x -> a", "Conv a k3 -> y"), "'y' is Conv of 'a'"),
        (("Relu x -> a", "Conv a depth -> y"), "'y' is Conv of 'a'"),
        (("Relu x -> a", "Tanh x -> c", "MatMul a c -> y"), "'y' is MatMul of 'a', 'c'"),
        (("Identity x -> y",), "'x' is the image itself"),
    ],
)
def test_what_ends_otherwise_is_refused_by_tensor_and_operator(nodes, said):
    with pytest.raises(UnsupportedError, match=f"the last linear layer of the student is not found: {said}"):
        embedding(graph(*nodes), ["y"], "the student")


def test_what_is_written_here_ends_in_one(toy):
    for place in (toy.students / "small", toy.pool / "train" / "teacher"):
        assert len(embedding(Model.open(place).load(), ["logits"])) == 1
