"""One output a field, through everything that happens to a graph, and a task's bits in every subset."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kfdeploy.errors import PoolError
from kfdeploy.graph.columns import cut_columns
from kfdeploy.graph.compose import compose
from kfdeploy.graph.fields import finish, split_outputs
from kfdeploy.graph.half import to_float16
from kfdeploy.graph.precision import quantised
from kfdeploy.graph.ranges import model_ranges
from kfdeploy.graph.reference import run, run_joined, tolerance
from kfdeploy.tasks.spec import outputs_of, together, widths_of

X = np.random.default_rng(0).integers(0, 4, (5, 4)).astype(np.uint8)


def small(columns=6, inner="hidden", chosen=None):
    """Return a graph `image` uint8 (N, 4) → `logits` (N, columns), with a tensor called `inner`."""
    random = np.random.default_rng(1)
    arrays = {"w": random.normal(size=(4, 4)), "v": random.normal(size=(4, columns)), "b": random.normal(size=columns)}
    last = "all" if chosen else "logits"
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["real", "w"], ["product"]),
        helper.make_node("Relu", ["product"], [inner]),
        helper.make_node("Gemm", [inner, "v", "b"], [last]),
    ]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    if chosen:
        nodes.append(helper.make_node("Gather", ["all", "chosen"], ["logits"], axis=1))
        tensors.append(numpy_helper.from_array(np.array(chosen), "chosen"))
    values = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 4])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(chosen or range(columns))])]
    graph = helper.make_graph(nodes, "small", values, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


def names(model):
    return [value.name for value in model.graph.output]


def checked(model, wanted):
    onnx.checker.check_model(model, full_check=True)
    assert names(model) == list(wanted)
    return run_joined(model, X, list(wanted), threads=1)


def test_the_field_class_alone_stays_as_it_is():
    model = small()
    before = model.SerializeToString()
    split_outputs(model, {"logits": 6})
    assert model.SerializeToString() == before


def test_another_field_alone_has_its_own_name_and_several_are_told_apart():
    expected = run(small(), X, threads=1)["logits"]
    alone = small()
    split_outputs(alone, {"shape": 6})
    assert "Split" not in {node.op_type for node in alone.graph.node}
    assert np.array_equal(checked(alone, ["shape"]), expected)
    for widths in ({"logits": 1, "shape": 3, "a/b, c": 2}, {"shape": 4, "lit": 2}):
        several = small()
        split_outputs(several, widths)
        assert np.array_equal(checked(several, widths), expected)
        for value, width in zip(several.graph.output, widths.values(), strict=True):
            assert [side.dim_param or side.dim_value for side in value.type.tensor_type.shape.dim] == ["N", width]


def test_a_field_may_be_called_as_something_inside():
    expected = run(small(), X, threads=1)["logits"]
    for inner in ("shape", "w2", "head/logits"):
        for widths in ({inner: 6}, {inner: 2, "b": 4}):
            model = small(inner=inner)
            split_outputs(model, widths)
            assert np.array_equal(checked(model, widths), expected)


def test_what_does_not_fit_is_refused():
    with pytest.raises(PoolError, match=r"an output of shape \['N', 6\], and its tasks have 5 columns"):
        split_outputs(small(), {"shape": 5})
    with pytest.raises(PoolError, match="the field 'image' has the name of the graph's input"):
        split_outputs(small(), {"image": 2, "b": 4})
    for field in ("shape.known", "shape.known/top", "shape.known.axis"):
        with pytest.raises(PoolError, match="is taken in the graph"):
            finish(small(), {"shape": 2, field: 4}, {"shape": 0.5})


def test_strangers_are_told_beside_each_field():
    model = finish(small(), {"logits": 2, "shape": 4}, {"logits": 0.5, "shape": 1.5})
    onnx.checker.check_model(model, full_check=True)
    assert names(model) == ["logits", "shape", "known", "shape.known"]
    found = run(model, X, names(model), threads=1)
    for output, known, threshold in (("logits", "known", 0.5), ("shape", "shape.known", 1.5)):
        score = np.log(np.exp(found[output].astype(np.float64)).sum(1)) - threshold
        np.testing.assert_allclose(found[known], score, atol=1e-5)


def test_float16_gives_every_field_its_own_output():
    widths = {"a": 1, "a/half": 2, "logits": 3}
    model = finish(small(), widths, {"a": 0.5})
    half = to_float16(model)
    onnx.checker.check_model(half, full_check=True)
    assert names(half) == [*widths, "a.known"]
    for name, array in run(half, X, names(half), threads=1).items():
        assert np.abs(array - run(model, X, [name], threads=1)[name]).max() < 2e-2


def test_columns_that_nobody_asked_for_are_cut_behind_several_outputs():
    model, widths = small(columns=9, chosen=[7, 1, 3, 0, 8]), {"shape": 3, "lit": 2}
    expected = run(model, X, threads=1)["logits"]
    split_outputs(model, widths)
    assert cut_columns(model)
    assert "Gather" not in {node.op_type for node in model.graph.node}
    np.testing.assert_allclose(checked(model, widths), expected, atol=1e-6)


def test_neither_outputs_nor_what_they_are_parts_of_have_a_range():
    model = small()
    split_outputs(model, {"shape": 4, "lit": 2})
    assert set(model_ranges(model, X)) == {"product", "hidden"}


def subsets(pool):
    """Give every subset of a pool's tasks, in another order each time."""
    for k in range(1, len(pool.tasks) + 1):
        for chosen in itertools.combinations(pool.tasks, k):
            yield together(chosen[::-1] if k % 2 else chosen)


@pytest.mark.parametrize("form", ["bank", "branches"])
def test_every_subset_gives_the_numbers_of_its_tasks(form, fields):
    graphs = fields.graphs()
    parts = {task.name: fields.part(task) for task in fields.tasks}
    evidence = fields.evidence()
    place = {name: i for i, name in enumerate(fields.classes)}
    count = 0
    for tasks in subsets(fields):
        graph = finish(compose(*graphs, [parts[task.name] for task in tasks], form), widths_of(tasks), {})
        assert names(graph) == outputs_of(tasks)
        golden = evidence.golden[:, [place[name] for task in tasks for name in task.columns]]
        found = run_joined(graph, evidence.images, outputs_of(tasks), threads=1)
        assert np.abs(found - golden).max() <= tolerance(golden)
        count += 1
    assert count == 31


@pytest.mark.parametrize("form", ["bank", "branches"])
def test_int8_gives_a_task_the_same_bits_in_every_subset(form, fields):
    graphs, images = fields.graphs(), fields.evidence().images
    shared = fields.ranges()
    known = {task.name: (fields.part(task), fields.ranges(task)) for task in fields.tasks}
    seen = {}
    for tasks in subsets(fields):
        own, each = zip(*(known[task.name] for task in tasks), strict=True)
        prepared = quantised(*graphs, own, shared, each, "uint8", form, fixed=True)
        graph = finish(prepared.graph, widths_of(tasks), {})
        assert names(graph) == outputs_of(tasks)
        whole = run_joined(graph, images, outputs_of(tasks), threads=1)
        pieces = np.split(whole, np.cumsum([len(task.classes) for task in tasks])[:-1], axis=1)
        for task, found in zip(tasks, pieces, strict=True):
            assert np.array_equal(found, seen.setdefault(task.name, found)), task.name
    assert len(seen) == 5
