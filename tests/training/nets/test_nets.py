import pytest
import torch
import torch.nn.functional as F
from settled import settle

from kfdeploy.errors import RecipeError
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.nets.build import build, describe
from kfdeploy.training.nets.classifier import Classifier, Normalise
from kfdeploy.training.nets.layers import BankedPointwise, conv
from kfdeploy.training.recipe.nets import CifarResNet, ConvNet, MobileNetV2, ResNet, Timm, WideResNet

NETS = [
    CifarResNet(family="cifar_resnet", depth=8),
    CifarResNet(family="cifar_resnet", depth=14, width=8, shortcut="projection"),
    CifarResNet(family="cifar_resnet", depth=10, blocks=[1, 1, 2], width=8, shortcut="projection"),
    WideResNet(family="wide_resnet", depth=10, width=1),
    ResNet(family="resnet", depth=18, width=8, stem="cifar"),
    ResNet(family="resnet", depth=18, width=8),
    MobileNetV2(family="mobilenetv2", width=0.25, stem="cifar"),
    MobileNetV2(family="mobilenetv2", width=0.5),
    ConvNet(family="convnet", channels=[8, 16], strides=[1, 2]),
]
BANKED = [net for net in NETS if not (isinstance(net, CifarResNet) and net.shortcut == "A")]


def ids(net):
    return f"{net.family}-{describe(net)}"


@pytest.mark.parametrize("config", [*NETS, Timm(family="timm", model="resnet18")], ids=ids)
def test_stages_have_the_channels_they_say(config):
    net = build(config, 3).eval()
    features = net(torch.randn(2, 3, 32, 32))
    assert tuple(feature.shape[1] for feature in features) == net.channels
    assert all(len(feature.shape) == 4 for feature in features)
    sizes = [feature.shape[2] for feature in features]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("config", BANKED, ids=ids)
def test_a_slice_of_a_bank_is_the_network(config):
    torch.manual_seed(0)
    K = 3
    bank = settle(build(config, 3, tasks=K)).double()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    together = bank(x)[-1].chunk(K, dim=1)
    for j in range(K):
        alone = build(config, 3).eval().double()
        alone.load_state_dict({key: v.chunk(K)[j] if v.ndim else v for key, v in bank.state_dict().items()})
        assert torch.allclose(alone(x)[-1], together[j], atol=1e-10)


@pytest.mark.parametrize("size", [8, 16, 17])
def test_a_bank_s_pointwise_convolution_is_the_grouped_one(size):
    torch.manual_seed(0)
    layer = conv(16, 24, 1, tasks=3)
    assert isinstance(layer, BankedPointwise)
    x = torch.randn(2, 48, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
    found = layer(x)
    exact = F.conv2d(x, layer.weight, groups=3)
    assert torch.allclose(found, exact, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn_like(exact)
    ours = torch.autograd.grad((found * weights).sum(), (x, layer.weight))
    theirs = torch.autograd.grad((exact * weights).sum(), (x, layer.weight))
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("config", BANKED, ids=ids)
def test_a_bank_starts_as_wide_as_its_networks(config):
    torch.manual_seed(0)
    bank, alone = build(config, 3, tasks=8), build(config, 3)
    for (name, a), b in zip(bank.named_parameters(), alone.parameters(), strict=True):
        if a.ndim == 4 and a.numel() > 4000:
            assert abs(float(a.detach().std() / b.detach().std()) - 1) < 0.25, name


@pytest.mark.parametrize("depth", [18, 34])
def test_resnets_are_torchvisions(depth):
    """The same names and shapes, and with the same weights the same features."""
    from torchvision import models

    theirs = models.get_model(f"resnet{depth}", weights=None)
    ours = build(ResNet(family="resnet", depth=depth), 3)
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state)
    settle(ours)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.eval().fc = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    assert torch.allclose(ours(x)[-1].mean((2, 3)), theirs(x), rtol=1e-3, atol=1e-3)


def test_option_a_shortcut_takes_every_second_pixel_and_pads_both_sides():
    net = build(NETS[0], 3)
    block = net.layer2[0].eval()
    x = torch.randn(2, 16, 8, 8)
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    for layer in (block.conv1, block.conv2):
        layer.weight.data.zero_()
    assert torch.equal(block(x), F.relu(expected))


def test_published_sizes():
    def count(config, classes=10):
        image = ImageSpec((32, 32), 3, (0.5,) * 3, (0.5,) * 3)
        return sum(p.numel() for p in Classifier(config, image, classes).parameters())

    assert count(CifarResNet(family="cifar_resnet", depth=20)) == 269_722  # 0.27 M
    assert count(CifarResNet(family="cifar_resnet", depth=56)) == 853_018  # 0.85 M
    assert abs(count(WideResNet(family="wide_resnet", depth=28, width=10)) - 36.5e6) < 0.1e6
    assert abs(count(MobileNetV2(family="mobilenetv2"), 1000) - 3.50e6) < 0.01e6


def test_normalise_is_what_torchvision_does():
    from torchvision.transforms.v2.functional import normalize

    image = ImageSpec((4, 5), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    pixels = torch.randint(0, 256, (2, 4, 5, 3), dtype=torch.uint8)
    expected = normalize(pixels.permute(0, 3, 1, 2).float() / 255, list(image.mean), list(image.std))
    assert torch.allclose(Normalise(image)(pixels), expected, atol=1e-5)


def test_an_unknown_timm_model_is_refused():
    with pytest.raises(RecipeError, match="timm has no model 'resnet1800'"):
        build(Timm(family="timm", model="resnet1800"), 3)
