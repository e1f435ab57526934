"""A structure that was exported before is that graph with other weights: the same bytes as exporting it anew."""

import pytest
import torch
from torch import nn

from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.recipe.nets import CifarResNet, ConvNet
from kfdeploy.training.writing import to_onnx as exporting
from kfdeploy.training.writing.classifier import _Logits
from kfdeploy.training.writing.to_onnx import to_onnx

IMAGE = ImageSpec((16, 16), 3, (0.5,) * 3, (0.25,) * 3)
EXAMPLE = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)


def export(net):
    return to_onnx(_Logits(net), EXAMPLE, ["image"], ["logits"]).model.SerializeToString(deterministic=True)


def trained(net):
    """Give every weight and every normalisation's statistics another value."""
    with torch.no_grad():
        for value in (*net.parameters(), *net.buffers()):
            if value.is_floating_point() and value.ndim != 4:
                value.add_(torch.rand_like(value) * 0.1)
    return net


@pytest.fixture
def exports(monkeypatch):
    monkeypatch.setattr(exporting, "_MADE", {})
    count = []
    own = exporting._export
    monkeypatch.setattr(exporting, "_export", lambda *given: count.append(1) or own(*given))
    return count


@pytest.mark.parametrize(
    "net",
    [
        CifarResNet(family="cifar_resnet", depth=8),
        ConvNet(family="convnet", channels=[8, 8], strides=[2, 1]),
    ],
)
def test_the_bytes_are_those_of_a_fresh_export(net, exports):
    first, second = Classifier(net, IMAGE, 4), trained(Classifier(net, IMAGE, 4))
    export(first)
    again = export(second)
    assert len(exports) == 1
    exporting._MADE.clear()
    assert export(second) == again
    assert len(exports) == 2


def test_another_structure_is_exported_anew(exports):
    for net in (
        CifarResNet(family="cifar_resnet", depth=8),
        CifarResNet(family="cifar_resnet", depth=8, shortcut="projection"),
        CifarResNet(family="cifar_resnet", depth=14),
    ):
        export(Classifier(net, IMAGE, 4))
    assert len(exports) == 3


def test_a_network_whose_graph_has_more_of_the_weights_in_it_is_exported_anew(exports):
    """Weight standardisation: the exporter computes the standardised weights, which are no parameters."""

    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, image):
            w = self.conv.weight
            w = (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True)
            return (nn.functional.conv2d(image.permute(0, 3, 1, 2).float() / 255, w).mean((2, 3)),)

    first, second = Standardised(), Standardised()
    one, two = export(first), export(second)
    assert one != two
    exporting._MADE.clear()
    assert export(second) == two
