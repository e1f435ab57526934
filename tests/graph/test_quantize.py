import itertools
import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kfdeploy import targets
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.parity import blame
from kfdeploy.deploy.prepare import prepare
from kfdeploy.errors import ComposeError, UnsupportedError
from kfdeploy.graph.compose import Part, compose
from kfdeploy.graph.precision import quantised
from kfdeploy.graph.quantize import equalise, quantise, scale_of
from kfdeploy.graph.ranges import pool_ranges
from kfdeploy.graph.reference import run
from kfdeploy.pool.pool import Pool
from kfdeploy.targets.base import Setup


def test_scales_are_those_of_the_definition():
    scale, zero = scale_of((0.0, 2.55), "uint8")
    assert (scale, zero, zero.dtype) == (np.float32(0.01), 0, np.uint8)
    scale, zero = scale_of((-1.0, 1.55), "uint8")
    assert scale == pytest.approx(0.01)
    assert zero == 100
    scale, zero = scale_of((-1.27, 0.5), "int8")
    assert scale == pytest.approx(0.01)
    assert (zero, zero.dtype) == (0, np.int8)
    assert scale_of((0.0, 0.0), "uint8")[0] > 0  # a dead tensor divides by nothing


def test_folding_changes_no_number_and_gives_every_task_one_range(toy):
    pool = Pool.open(toy.pool)
    common, template = pool.graphs()
    parts = [pool.part(task) for task in pool.tasks]
    images = pool.evidence().images
    folded, found = zip(
        *(equalise(template, part, pool.ranges(task)) for part, task in zip(parts, pool.tasks, strict=True)),
        strict=True,
    )
    assert all(ranges == found[0] for ranges in found)
    assert set(found[0].values()) <= {(0.0, 1.0), (-1.0, 1.0)}
    for form in ("bank", "branches"):
        one = run(compose(common, template, parts, form), images)["logits"]
        other = run(compose(common, template, folded, form), images)["logits"]
        assert np.abs(one - other).max() <= 1e-5 * max(1, np.abs(one).max())
    assert np.abs(folded[0].head_u - parts[0].head_u).max() > 0


def subsets(names):
    return [list(c) for k in range(1, len(names) + 1) for c in itertools.combinations(names, k)]


@pytest.mark.parametrize("form", ["bank", "branches"])
def test_a_tasks_int8_logits_are_the_same_bits_in_every_subset(toy, form, tmp_path):
    pool = Pool.open(toy.pool)
    images = pool.evidence().images
    seen = {}
    shuffle = random.Random(0).shuffle
    for number, names in enumerate(subsets(toy.tasks)):
        shuffle(names)
        model = assemble(pool, names, tmp_path / str(number), fuse=form)
        graph = prepare(model, "uint8").graph
        for count in (len(images), 1):
            logits, start = run(graph, images[:count])["logits"], 0
            for task in model.tasks:
                own = logits[:, start : (start := start + len(task.classes))]
                assert np.array_equal(seen.setdefault(task.name, own)[:count], own), (names, task.name)


@pytest.mark.parametrize("form", ["bank", "branches"])
def test_nor_do_they_change_in_fifty_random_subsets_of_ten(toy, form):
    pool = Pool.open(toy.pool)
    common, template = pool.graphs()
    images = pool.evidence().images
    draw = np.random.default_rng(0)
    first = pool.part(pool.tasks[0])
    parts = []
    for number in range(10):  # ten tasks of one to three classes, from one trained task and noise
        weights = {n: (a * draw.normal(1, 0.3, a.shape)).astype(np.float32) for n, a in first.weights.items()}
        c = 1 + number % 3
        heads = [draw.normal(0, 1, (c, w)).astype(np.float32) for w in (first.head_z.shape[1], first.head_u.shape[1])]
        parts.append(Part(str(number), weights, *heads, draw.normal(0, 1, c).astype(np.float32)))
    ranges = pool_ranges(common, template, parts, images)
    seen = {}
    for _ in range(50):
        chosen = draw.permutation(10)[: draw.integers(1, 11)]
        some = [parts[i] for i in chosen]
        found = quantised(common, template, some, ranges[""], [ranges[p.name] for p in some], "uint8", form)
        logits, start = run(found.graph, images)["logits"], 0
        for part in some:
            own = logits[:, start : (start := start + len(part.head_bias))]
            assert np.array_equal(seen.setdefault(part.name, own), own), (chosen, part.name)


@pytest.mark.parametrize("name", ["openvino", "mnn"])
def test_elsewhere_they_are_the_same_to_1e5(toy, name, tmp_path):
    from kfdeploy.deploy.export import convert

    target = targets.load(name)
    wanted = target.GRAPHS["int8"]

    pool = Pool.open(toy.pool)
    images, seen = pool.evidence().images, {}
    # MNN takes seconds to convert a model: every fourth subset, the last of which is all tasks.
    for number, names in enumerate(subsets(toy.tasks)[:: -4 if name == "mnn" else 1]):
        model = assemble(pool, names, tmp_path / f"a{number}")
        folder = tmp_path / f"o{number}"
        folder.mkdir()
        setting = target.Options(precision="int8")
        convert(target, setting, prepare(model, wanted), folder)
        with target.open(folder, setting, Setup()) as session:
            logits, start = session.run({"image": images})["logits"], 0
        for task in model.tasks:
            own = logits[:, start : (start := start + len(task.classes))]
            first = seen.setdefault(task.name, own)
            assert np.abs(first - own).max() <= 1e-5 * max(1, np.abs(first).max())


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_convolutions_stand_between_pairs_and_heads_stay_in_float(assembly, kind):
    prepared = prepare(assembly, kind)
    onnx.checker.check_model(prepared.graph, full_check=True)
    producer = {name: node for node in prepared.graph.graph.node for name in node.output}
    kinds = {t.name: t.data_type for t in prepared.graph.graph.initializer}
    zeros = {t.name: numpy_helper.to_array(t) for t in prepared.graph.graph.initializer if t.name.endswith("/zero")}
    convolutions = [n for n in prepared.graph.graph.node if n.op_type == "Conv" and not n.output[0].startswith("head")]
    assert len(convolutions) == 9
    for node in convolutions:
        source, weight = producer[node.input[0]], producer[node.input[1]]
        assert (source.op_type, weight.op_type) == ("DequantizeLinear", "DequantizeLinear")
        assert kinds[weight.input[0]] == TensorProto.INT8
        if kind == "uint8":
            assert kinds[producer[node.input[2]].input[0]] == TensorProto.INT32
        else:  # TensorRT: a float bias, and no zero-point
            assert kinds[node.input[2]] == TensorProto.FLOAT
    if kind == "int8":
        assert not any(zero.any() for zero in zeros.values())
    images = assembly.evidence().images
    one, other = run(prepared.float32, images)["logits"], run(prepared.graph, images)["logits"]
    assert 0 < np.abs(one - other).max() <= 0.2 * max(1, np.abs(one).max())


def test_for_tensorrt_a_convolution_is_not_rounded_before_its_residual_sum(assembly):
    """It fuses convolution, sum and rectifier where the sum's other side alone is quantised; ONNX Runtime wants both."""
    for kind, direct in (("uint8", 0), ("int8", 1)):
        graph = prepare(assembly, kind).graph.graph
        producer = {name: node for node in graph.node for name in node.output}
        sums = [n for n in graph.node if n.op_type == "Add" and n.output[0].startswith("common/")]
        sums = [n for n in sums if all(name in producer for name in n.input)]  # not that with a constant
        assert len(sums) == 3
        for node in sums:
            kinds = [producer[name].op_type for name in node.input]
            assert sorted(kinds) == sorted(["Conv"] * direct + ["DequantizeLinear"] * (2 - direct))


def test_the_module_to_blame_is_found(assembly):
    prepared = prepare(assembly, "uint8")
    images = assembly.evidence().images

    def damaged(name):
        model = onnx.ModelProto.FromString(prepared.graph.SerializeToString())
        tensor = next(t for t in model.graph.initializer if t.name == name)
        array = numpy_helper.to_array(tensor).copy()
        array[: len(array) // 2] *= -3  # of a bank's weights the first half is the first task's
        tensor.CopyFrom(numpy_helper.from_array(array, name))
        return model

    names = [t.name for t in prepared.graph.graph.initializer if t.name.endswith("scale") and "weight" in t.name]
    bank = next(name for name in names if name.startswith("bank/"))
    common = next(name for name in names if "conv1" in name)
    assert blame(prepared.float32, damaged(bank), images, assembly.tasks) == "the network of 'sea horse'"
    assert blame(prepared.float32, damaged(common), images, assembly.tasks) == "the CKN"


def small(*nodes):
    """A graph tap → u with weights of one task."""
    weights = [numpy_helper.from_array(np.ones((8, 8, 1, 1), np.float32), f"w{i}") for i in range(2)]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 8, 4, 4]) for n in ("tap", "u")]
    graph = helper.make_graph(list(nodes), "t", values[:1], values[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def part_of(model):
    from kfdeploy.graph.compose import Part

    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return Part("a", arrays, np.ones((1, 8)), np.ones((1, 8)), np.ones(1))


def test_what_a_scale_does_not_pass_is_refused_by_operator():
    model = small(
        helper.make_node("Conv", ["tap", "w0"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["b"], name="gate"),
        helper.make_node("Conv", ["b", "w1"], ["u"]),
    )
    with pytest.raises(ComposeError, match=r"operator Sigmoid \('gate'\) cannot be folded") as caught:
        equalise(model, part_of(model), {"a": (0, 2), "b": (0, 1), "u": (0, 3)})
    assert "--fuse branches" in caught.value.hint


def test_both_sides_of_a_residual_sum_share_one_scale():
    model = small(
        helper.make_node("Conv", ["tap", "w0"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["s"]),
        helper.make_node("Relu", ["s"], ["u"]),
    )
    part, ranges = equalise(model, part_of(model), {"a": (-9, 2), "b": (0, 2), "c": (-4, 3), "s": (0, 5), "u": (0, 5)})
    assert part.weights["w0"][0, 0, 0, 0] == pytest.approx(1 / 9)  # one unit, the largest, for b, c and their sum
    assert part.weights["w1"][0, 0, 0, 0] == 1
    assert part.head_u[0, 0] == 9
    assert ranges == {"a": (-1, 1), "b": (0, 1), "c": (-1, 1), "s": (-1, 1), "u": (0, 1)}


def test_what_cannot_be_quantised_says_so(assembly):
    with pytest.raises(UnsupportedError, match="has no range on record, so the model cannot be int8") as caught:
        quantise(onnx.load(assembly.graph), {}, "uint8")
    assert "export it as fp32 or fp16" in caught.value.hint
    bare = small(helper.make_node("Relu", ["tap"], ["u"]))
    with pytest.raises(UnsupportedError, match="no convolution that could be quantised"):
        quantise(bare, {}, "uint8")
    direct = small(helper.make_node("Conv", ["tap", "w0"], ["u"]))
    with pytest.raises(UnsupportedError, match="reads the image itself"):
        quantise(direct, {"tap": (0, 1), "u": (0, 1)}, "uint8")


def convolved(weight, bias, moved=False):
    """A 1×1 convolution and its ReLU, of what is transposed before where `moved`."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["t"], ["m"], perm=[0, 3, 1, 2]),
    ]
    nodes = (nodes if moved else [helper.make_node("Identity", ["x"], ["m"])]) + [
        helper.make_node("Conv", ["m", "w", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["logits"]),
    ]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2, 4, 4]) for n in ("image", "logits")]
    nodes = [helper.make_node("Relu", ["image"], ["x"]), *nodes]
    stored = [
        numpy_helper.from_array(np.array(a, np.float32).reshape(s), n)
        for n, a, s in (("w", weight, (2, 2, 1, 1)), ("b", bias, (2,)))
    ]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("tiny", [0, 1e-30, 1e-12, 1e-9, 1e-6])
def test_a_channel_of_tiny_weights_keeps_its_bias(tiny):
    model = convolved([[tiny, -tiny], [1.0, 0.5]], [3.0, -0.2])
    images = np.random.default_rng(0).random((4, 2, 4, 4)).astype(np.float32)
    found = quantise(model, {"x": (0, 1), "m": (0, 1), "c": (0, 3), "logits": (0, 3)}, "uint8")
    assert np.abs(run(found, images)["logits"] - run(model, images)["logits"]).max() < 0.03


def test_what_only_moves_values_has_the_range_of_its_input():
    model = convolved([[1, 0], [0, 1]], [0, 0], moved=True)
    images = np.random.default_rng(0).random((4, 2, 4, 4)).astype(np.float32)
    found = quantise(model, {"x": (0, 1), "c": (0, 1), "logits": (0, 1)}, "uint8")
    assert np.abs(run(found, images)["logits"] - images).max() < 0.01


def test_only_floats_are_observed():
    from kfdeploy.graph.reference import observed

    nodes = [
        helper.make_node("Relu", ["image"], ["x"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "i"], ["n"]),
        helper.make_node("Reshape", ["x", "s"], ["logits"]),
    ]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in ("image", "logits")]
    index = numpy_helper.from_array(np.array([0]), "i")
    model = helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:], [index]))
    assert observed(model) == ["x", "logits"]
