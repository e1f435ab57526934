"""A teacher in an ONNX file: every layout and kind of numbers, and what is no teacher."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from kfdeploy.errors import TeacherError
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.nets.frozen import OnnxNet

IMAGE = ImageSpec((6, 5), 3, (0.5,) * 3, (0.25,) * 3)


class Net(nn.Module):
    def __init__(self, *, last=False, pixels=False, shares=False):
        super().__init__()
        self.last, self.pixels, self.shares = last, pixels, shares
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 3, 6, 5))

    def forward(self, x):
        x = (x.float() / 255 - 0.5) / 0.25 if self.pixels else x
        x = x.permute(0, 3, 1, 2) if self.last else x
        logits = torch.nn.functional.conv2d(x, self.weight).flatten(1) / 10
        return torch.softmax(logits, 1) if self.shares else logits


def write(net, path, *, batch=2, dynamic=True, names=("logits",)):
    shape = (batch, 6, 5, 3) if net.last else (batch, 3, 6, 5)
    example = torch.zeros(shape, dtype=torch.uint8 if net.pixels else torch.float32)
    torch.onnx.export(
        net.eval(), (example,), path, input_names=["x"], output_names=list(names), dynamo=True, verbose=False,
        external_data=False, dynamic_shapes=({0: torch.export.Dim("N")},) if dynamic else None,
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 6, 5, 3), dtype=np.uint8)


def expected(images):
    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    return Net()(x).detach()


@pytest.mark.parametrize("form", [{}, {"last": True}, {"pixels": True, "last": True}, {"pixels": True}])
def test_every_layout_gives_the_networks_logits(form, images, tmp_path):
    teacher = OnnxNet(write(Net(**form), tmp_path / "t.onnx"), IMAGE)
    logits, features = teacher(torch.from_numpy(images))
    assert features == ()
    assert torch.allclose(logits, expected(images), atol=1e-4)


def test_a_fixed_batch_and_probabilities(images, tmp_path):
    fixed = OnnxNet(write(Net(), tmp_path / "fixed.onnx", dynamic=False), IMAGE)
    assert torch.allclose(fixed(torch.from_numpy(images))[0], expected(images), atol=1e-4)
    shares = OnnxNet(write(Net(shares=True), tmp_path / "shares.onnx"), IMAGE)
    logits = shares(torch.from_numpy(images))[0]
    assert torch.allclose(torch.softmax(logits, 1), torch.softmax(expected(images), 1), atol=1e-5)


def test_what_is_no_teacher_is_refused(tmp_path):
    with pytest.raises(TeacherError, match="there is no ONNX file at"):
        OnnxNet(tmp_path / "none.onnx", IMAGE)
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(TeacherError, match="is no graph that is read") as caught:
        OnnxNet(tmp_path / "junk.onnx", IMAGE)
    assert "\n" not in str(caught.value)
    path = write(Net(), tmp_path / "t.onnx")
    with pytest.raises(TeacherError, match="has no output 'logit'") as caught:
        OnnxNet(path, IMAGE, "logit")
    assert "logits" in str(caught.value)
    with pytest.raises(TeacherError, match="takes images of the shape .*, and the recipe's are 8×8"):
        OnnxNet(path, ImageSpec((8, 8), 3, (0.5,) * 3, (0.25,) * 3))


@pytest.fixture
def beside(tmp_path):
    """A network whose weights are in a file beside it, as torch writes it by default."""
    write(Net(), tmp_path / "t.onnx")
    graph = onnx.load(tmp_path / "t.onnx")
    onnx.save(graph, tmp_path / "t.onnx", save_as_external_data=True, location="t.onnx.data", size_threshold=0)
    return tmp_path / "t.onnx"


def test_weights_beside_it(beside, images):
    teacher = OnnxNet(beside, IMAGE)
    assert torch.allclose(teacher(torch.from_numpy(images))[0], expected(images), atol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("location", "../t.onnx.data", "names a file outside it"),
        ("location", "/dev/zero", "names a file outside it"),
        ("location", "sub/t.onnx.data", "are in another folder: 'sub/t.onnx.data'"),
        ("location", "gone", "the file 'gone' with its weights cannot be read"),
        ("location", "pipe", "the file 'pipe' with its weights cannot be read: .*regular"),
        ("offset", "-4", "which are not those named in"),
        ("offset", "1000000", "which are not those named in"),
        ("length", "2", "which are not those named in"),
        ("length", "x", "cannot be read: invalid literal"),
    ],
)
def test_weights_somewhere_else_are_refused(key, value, message, beside):
    import os

    os.mkfifo(beside.with_name("pipe"))
    graph = onnx.load(beside, load_external_data=False)
    tensor = max(graph.graph.initializer, key=lambda each: len(each.external_data))
    kept = {entry.key: entry.value for entry in tensor.external_data} | {key: value}
    del tensor.external_data[:]
    for name, text in kept.items():
        tensor.external_data.add(key=name, value=text)
    beside.write_bytes(graph.SerializeToString())
    with pytest.raises(TeacherError, match=message):
        OnnxNet(beside, IMAGE)
