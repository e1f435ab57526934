"""Backbones by name. Every one returns its stages' features through its return value, never through hooks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kfdeploy.errors import RecipeError, first_line, nearest
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.nets.convnet import ConvNet
from kfdeploy.training.nets.layers import Backbone
from kfdeploy.training.nets.mobilenet import MobileNetV2
from kfdeploy.training.nets.resnet import CifarResNet, ResNet, WideResNet
from kfdeploy.training.recipe import nets


class _Timm(Backbone):
    """Any timm backbone with `features_only`."""

    def __init__(self, in_channels: int, model: str, pretrained: bool, args: Mapping[str, Any]) -> None:
        import timm

        super().__init__()
        if not timm.is_model(model.partition(".")[0]):
            raise RecipeError(f"timm has no model '{model}'", hint=nearest(model, timm.list_models()))
        try:
            self.net = timm.create_model(model, pretrained=pretrained, features_only=True, in_chans=in_channels, **args)
        except Exception as error:  # an unknown name, or a download that failed in one of many ways
            raise RecipeError(
                f"timm cannot give the backbone '{model}' with features_only: {first_line(error)}"
            ) from None
        self.channels = tuple(self.net.feature_info.channels())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the stages' features; what a model computes with channels last is permuted."""
        return tuple(
            value.permute(0, 3, 1, 2) if value.shape[1] != channels and value.shape[-1] == channels else value
            for value, channels in zip(self.net(x), self.channels, strict=True)
        )


def build(net: nets.Net, in_channels: int, tasks: int = 1) -> Backbone:
    """Return a backbone, or a bank of `tasks` of them that read one shared input.

    Raises:
        RecipeError: timm does not know the model, or it does not take its arguments.
    """
    match net:
        case nets.CifarResNet():
            blocks = net.blocks or [(net.depth - 2) // 6] * 3
            return CifarResNet(in_channels, blocks, net.width, net.shortcut, tasks, net.stride, net.branches)
        case nets.ResNet():
            return ResNet(in_channels, net.depth, net.width, net.stem, tasks)
        case nets.WideResNet():
            return WideResNet(in_channels, net.depth, net.width, tasks)
        case nets.MobileNetV2():
            return MobileNetV2(in_channels, net.width, net.stem, tasks)
        case nets.ConvNet():
            return ConvNet(in_channels, net.channels, net.strides, tasks, net.branches, net.kernel)
        case nets.Timm():
            return _Timm(in_channels, net.model, net.pretrained, net.args)


def check_images(net: nn.Module, image: ImageSpec, what: str) -> None:
    """Run two black images through a network, before anything is trained.

    Raises:
        RecipeError: it does not take images of that size.
    """
    net.eval()
    try:
        with torch.no_grad():
            net(torch.zeros(2, *image.shape, dtype=torch.uint8))
    except (RuntimeError, AssertionError, ValueError, IndexError) as error:
        raise RecipeError(
            f"{what} does not take images of {image.size[0]}×{image.size[1]}: {first_line(error)}",
            hint="set image.size to what it takes, or choose another network",
        ) from None


def describe(net: nets.Net) -> str:
    """Return a short name, such as 'ResNet-20' or 'ConvNet 64-64-64'."""
    match net:
        case nets.CifarResNet():
            told = [f"blocks {'-'.join(map(str, net.blocks))}"] if net.blocks else []
            told += [f"width {net.width}"] if net.width != 16 else []
            told += ["stride 2"] if net.stride == 2 else []
            return f"ResNet-{net.depth}" + (f" ({', '.join(told)})" if told else "")
        case nets.ResNet():
            return f"ResNet-{net.depth}" + (f" (width {net.width})" if net.width != 64 else "")
        case nets.WideResNet():
            return f"WRN-{net.depth}-{net.width}"
        case nets.MobileNetV2():
            return f"MobileNetV2 ×{net.width:g}"
        case nets.ConvNet():
            return f"ConvNet {'-'.join(str(c) for c in net.channels)}"
        case nets.Timm():
            return net.model
