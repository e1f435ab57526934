"""Backbones by name. Every one returns its stages' features through its return value, never through hooks."""

from torch import Tensor

from kfdeploy.errors import RecipeError, first_line
from kfdeploy.training.nets.convnet import ConvNet
from kfdeploy.training.nets.layers import Backbone
from kfdeploy.training.nets.mobilenet import MobileNetV2
from kfdeploy.training.nets.resnet import CifarResNet, ResNet, WideResNet
from kfdeploy.training.recipe import nets


class _Timm(Backbone):
    """Any timm backbone with `features_only`."""

    def __init__(self, in_channels: int, model: str, pretrained: bool) -> None:
        import timm

        super().__init__()
        try:
            self.net = timm.create_model(model, pretrained=pretrained, features_only=True, in_chans=in_channels)
        except Exception as error:  # an unknown name, or a download that failed in one of many ways
            raise RecipeError(
                f"timm cannot give the backbone '{model}' with features_only: {first_line(error)}"
            ) from None
        self.channels = tuple(self.net.feature_info.channels())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the stages' features."""
        return tuple(self.net(x))


def build(net: nets.Net, in_channels: int, tasks: int = 1) -> Backbone:
    """Return a backbone, or a bank of `tasks` of them that read one shared input.

    Raises:
        RecipeError: timm does not know the model.
    """
    match net:
        case nets.CifarResNet():
            return CifarResNet(in_channels, net.blocks or [(net.depth - 2) // 6] * 3, net.width, net.shortcut, tasks)
        case nets.ResNet():
            return ResNet(in_channels, net.depth, net.width, net.stem, tasks)
        case nets.WideResNet():
            return WideResNet(in_channels, net.depth, net.width, tasks)
        case nets.MobileNetV2():
            return MobileNetV2(in_channels, net.width, net.stem, tasks)
        case nets.ConvNet():
            return ConvNet(in_channels, net.channels, net.strides, tasks)
        case nets.Timm():
            return _Timm(in_channels, net.model, net.pretrained)


def describe(net: nets.Net) -> str:
    """Return a short name, such as 'ResNet-20' or 'ConvNet 64-64-64'."""
    match net:
        case nets.CifarResNet():
            blocks = f" ({'-'.join(map(str, net.blocks))})" if net.blocks else ""
            return f"ResNet-{net.depth}{blocks}" + (f" (width {net.width})" if net.width != 16 else "")
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
