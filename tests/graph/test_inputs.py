"""A graph that takes floats gives what it gave of bytes."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kfdeploy.deploy.prepare import prepare
from kfdeploy.errors import UnsupportedError
from kfdeploy.graph.inputs import take_floats
from kfdeploy.graph.reference import run


@pytest.mark.parametrize("wanted", ["float32", "float16", "uint8", "int8"])
def test_it_gives_the_very_numbers_it_gave_of_bytes(assembly, wanted):
    graph, images = prepare(assembly, wanted).graph, assembly.evidence().images
    before = run(graph, images)["logits"]
    take_floats(graph)
    onnx.checker.check_model(graph, full_check=True)
    assert graph.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    casts = [node for node in graph.graph.node if node.op_type == "Cast"]
    assert len(casts) == (2 if wanted == "float16" else 0)
    for given in (images, images.astype(np.float32)):  # a runner gives a graph what it takes
        assert np.array_equal(run(graph, given)["logits"], before)


def test_an_image_that_something_else_reads_stays_bytes(assembly):
    graph = prepare(assembly, "float32").graph
    graph.graph.node.insert(0, helper.make_node("Shape", ["image"], ["sides"]))
    with pytest.raises(UnsupportedError, match="the operator Shape reads the image as it is"):
        take_floats(graph)
