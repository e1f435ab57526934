import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from runtimes import session

from kfdeploy.errors import ComposeError
from kfdeploy.graph.compose import Part, compose, parameter_count

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def model(nodes, arrays, inputs, outputs):
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 10
    return made


def common():
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["tap"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["tap"], ["z"]),
    ]
    return model(nodes, {"w": floats(4, 3, 3, 3) / 100}, [("image", TensorProto.UINT8, ["N", 8, 8, 3])],
                 [("z", ["N", 4, 1, 1]), ("tap", ["N", 4, 8, 8])])  # fmt: skip


AXES = {"axes": np.array([2, 3])}
WEIGHTS = {"a": (8, 4, 3, 3), "ab": (8,), "b": (8, 2, 3, 3), "s": (8,), "t": (8,), "m": (8,), "v": (8,)}


def template(*middle, extra=None):
    """Conv on the shared tap, a grouped convolution, whatever is tested, and the mean."""
    nodes = [
        helper.make_node("Conv", ["tap", "a", "ab"], ["x0"]),
        helper.make_node("Relu", ["x0"], ["x1"]),
        helper.make_node("Conv", ["x1", "b"], ["x2"], group=4, pads=[1, 1, 1, 1]),
        *(middle or [helper.make_node("Clip", ["x2"], ["y"])]),
        helper.make_node("ReduceMean", ["y", "axes"], ["u"], keepdims=1),
    ]
    arrays = {name: floats(*shape) for name, shape in WEIGHTS.items()} | AXES | (extra or {})
    used = {name for node in nodes for name in node.input}
    return model(nodes, {name: array for name, array in arrays.items() if name in used},
                 [("tap", TensorProto.FLOAT, ["N", 4, 8, 8])], [("u", ["N", 8, 1, 1])])  # fmt: skip


def parts(made, sizes):
    own = [t.name for t in made.graph.initializer if t.name in WEIGHTS]
    return [
        Part(f"t{j}", {n: np.abs(floats(*WEIGHTS[n])) for n in own}, floats(c, 4), floats(c, 8), floats(c))
        for j, c in enumerate(sizes)
    ]


def run(made, tmp_path):
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    return session(tmp_path / "m.onnx", 1).run(None, {"image": IMAGES})[0]


BANKABLE = {
    "batch norm": [helper.make_node("BatchNormalization", ["x2", "s", "t", "m", "v"], ["y"])],
    "residual": [helper.make_node("Add", ["x2", "x1p"], ["y"])],
    "pool": [helper.make_node("MaxPool", ["x2"], ["y"], kernel_shape=[2, 2])],
    "scale": [helper.make_node("Mul", ["x2", "two"], ["y"])],
    "swish": [helper.make_node("Sigmoid", ["x2"], ["q"]), helper.make_node("Mul", ["x2", "q"], ["y"])],
}


@pytest.mark.parametrize("name", BANKABLE)
@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [2, 1, 3], [2, 2]], ids=str)
def test_a_bank_is_its_branches(name, sizes, tmp_path):
    middle = BANKABLE[name]
    if name == "residual":  # banked with banked
        middle = [helper.make_node("Neg", ["x2"], ["x1p"]), helper.make_node("Mul", ["x1p", "two"], ["q"]),
                  helper.make_node("Add", ["x2", "q"], ["y"])]  # fmt: skip
    made = template(*middle, extra={"two": np.array(2.0, np.float32)})
    common_graph, tasks = common(), parts(made, sizes)
    bank = run(compose(common_graph, made, tasks, "bank"), tmp_path)
    branches = run(compose(common_graph, made, tasks, "branches"), tmp_path)
    assert bank.shape == (5, sum(sizes))
    assert np.abs(bank - branches).max() <= 1e-5 * max(1, np.abs(branches).max())


REFUSED = {
    "Concat": [helper.make_node("Concat", ["x2", "x1"], ["y"], axis=1)],
    "Pad": [helper.make_node("Pad", ["x2", "pads"], ["y"])],
    "Slice": [helper.make_node("Slice", ["x2", "zero", "four", "one"], ["y"])],
    "Reshape": [helper.make_node("Reshape", ["x2", "shape"], ["y"])],
    "Add": [helper.make_node("Add", ["x2", "tap2"], ["y"])],
    "Mul": [helper.make_node("Mul", ["x2", "vector"], ["y"])],
    "ReduceMean": [helper.make_node("ReduceMean", ["x2", "channel"], ["y"], keepdims=1)],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_moves_or_mixes_channels_is_refused_by_operator(name):
    middle = list(REFUSED[name])
    if name == "Add":
        middle.insert(0, helper.make_node("Relu", ["tap"], ["tap2"]))
    extra = {"pads": np.array([0, 0, 0, 0, 0, 4, 0, 0]), "zero": np.array([0]), "four": np.array([4]),
             "one": np.array([1]), "shape": np.array([0, 4, 2, -1]), "vector": floats(8, 1, 1), "channel": np.array([1])}  # fmt: skip
    made = template(*middle, extra=extra)
    with pytest.raises(ComposeError, match=f"the operator {name} .* cannot be banked") as caught:
        compose(common(), made, parts(made, [1, 1]), "bank")
    assert "branches" in caught.value.hint


def test_a_grouped_convolution_on_the_shared_tensor_and_loose_weights_are_refused():
    made = template()
    made.graph.node[0].attribute.append(helper.make_attribute("group", 2))
    with pytest.raises(ComposeError, match="its input is shared by all tasks, and it has groups"):
        compose(common(), made, parts(made, [1]), "bank")
    made = template(helper.make_node("Mul", ["x2", "s"], ["y"]))
    with pytest.raises(ComposeError, match="it has weights of the task"):
        compose(common(), made, parts(made, [1]), "bank")


def test_an_output_that_is_the_same_for_all_tasks_is_refused():
    nodes = [helper.make_node("GlobalAveragePool", ["tap"], ["u"])]
    made = model(nodes, {}, [("tap", TensorProto.FLOAT, ["N", 4, 8, 8])], [("u", ["N", 4, 1, 1])])
    part = Part("t", {}, floats(1, 4), floats(1, 4), floats(1))
    with pytest.raises(ComposeError, match="does not depend on the task's weights"):
        compose(common(), made, [part], "bank")


def test_the_contract_of_the_graph():
    made = template()
    whole = compose(common(), made, parts(made, [2, 1]), "bank")
    assert [value.name for value in whole.graph.input] == ["image"]
    assert [value.name for value in whole.graph.output] == ["logits"]
    assert whole.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in whole.graph.output[0].type.tensor_type.shape.dim] == ["N", 3]
    assert (whole.ir_version, whole.opset_import[0].version) == (8, 17)
    onnx.checker.check_model(whole, full_check=True)
    assert parameter_count(whole) == sum(
        int(np.prod(t.dims))
        for t in whole.graph.initializer
        if t.data_type == TensorProto.FLOAT and t.dims and t.name != "head.picks"  # what picks is not trained
    )


def operators(whole):
    return [node.op_type for node in whole.graph.node]


@pytest.mark.parametrize("form", ["bank", "branches"])
@pytest.mark.parametrize("sizes", [[1], [2, 1, 3], [2, 2]], ids=str)
def test_no_operator_is_one_that_a_runtime_lacks(form, sizes):
    made = template()
    whole = compose(common(), made, parts(made, sizes), form)
    assert not {"Gather", "ReduceMean", "ReduceMax", "Slice", "Reshape"} & set(operators(whole))
    # OpenCV 4 is wrong where joined convolutions are added to another as they are.
    joined = [node.output[0] for node in whole.graph.node if node.op_type == "Concat"]
    assert {node.op_type for node in whole.graph.node if set(joined) & set(node.input)} <= {"Flatten"}


def test_heads_of_unequal_size_give_the_very_bits_that_their_own_convolution_gives(tmp_path):
    made = template()
    tasks = parts(made, [2, 1, 3])
    whole = compose(common(), made, tasks, "bank")
    picks = next(t for t in whole.graph.initializer if t.name == "head.picks")
    assert numpy_helper.to_array(picks)[:, :, 0, 0].argmax(1).tolist() == [0, 1, 3, 6, 7, 8]
    for name in ("head/u", "head/u/picked"):
        whole.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    (tmp_path / "m.onnx").write_bytes(whole.SerializeToString())
    wide, picked = session(tmp_path / "m.onnx", 1).run(["head/u", "head/u/picked"], {"image": IMAGES})
    assert np.array_equal(wide[:, [0, 1, 3, 6, 7, 8]], picked)


@pytest.mark.parametrize("form", ["bank", "branches"])
def test_the_first_form_is_still_composed(form, tmp_path):
    """What 0.1.0 made, for the devices that have it: see also `tests/deploy/update/test_first.py`."""
    made = template()
    shared, tasks = common(), parts(made, [2, 1])
    first, now = (compose(shared, made, tasks, form, first=old) for old in (True, False))
    assert (first.ir_version, first.opset_import[0].version) == (10, 18)
    assert operators(first)[-1] == ("Gather" if form == "bank" else "Flatten")
    assert "ReduceMean" in operators(first)
    one, other = run(first, tmp_path), run(now, tmp_path)
    assert np.abs(one - other).max() <= 1e-5 * max(1, np.abs(one).max())
