import onnx
import pytest
import torch
from torch import nn

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.model import Model
from kfdeploy.graph.cost import multiplications
from kfdeploy.training.writing.to_onnx import to_onnx


def test_multiplications_are_counted_by_convolution_and_matrix():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4),
        nn.Flatten(),
        nn.Linear(256, 5),
    )
    graph = to_onnx(net, torch.zeros(2, 3, 8, 8), ["image"], ["logits"])
    assert multiplications(graph.model) == 27 * 8 * 64 + 9 * 2 * 16 * 16 + 256 * 5


def test_a_task_more_costs_what_a_task_costs(toy, tmp_path):
    names = ["pets", "sea horse", "élan"]
    one, two, three = (
        multiplications(onnx.load(assemble(toy.pool, names[:k], tmp_path / str(k)).graph)) for k in (1, 2, 3)
    )
    assert three - two == pytest.approx(two - one, abs=2 * 16 * 2)  # pets has one class more
    student = onnx.load(Model.open(toy.students / "small").graph)
    assert multiplications(student) == 27 * 16 * 16 + 144 * 16 * 4 + 16 * 5
