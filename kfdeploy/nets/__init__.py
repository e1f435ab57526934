"""Backbones by name. Every one returns its stages' features through its return value, never through hooks."""

from torch import Tensor, nn

from kfdeploy import sections
from kfdeploy.errors import RecipeError, first_line
from kfdeploy.nets.convnet import ConvNet
from kfdeploy.nets.layers import Backbone
from kfdeploy.nets.mobilenet import MobileNetV2
from kfdeploy.nets.resnet import CifarResNet, ResNet, WideResNet
from kfdeploy.spec import ImageSpec

__all__ = ["Backbone", "Classifier", "Normalise", "build", "describe"]


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


def build(net: sections.Net, in_channels: int, tasks: int = 1) -> Backbone:
    """Return a backbone, or a bank of `tasks` of them that read one shared input.

    Raises:
        RecipeError: timm does not know the model.
    """
    match net:
        case sections.CifarResNet():
            return CifarResNet(in_channels, net.blocks or [(net.depth - 2) // 6] * 3, net.width, net.shortcut, tasks)
        case sections.ResNet():
            return ResNet(in_channels, net.depth, net.width, net.stem, tasks)
        case sections.WideResNet():
            return WideResNet(in_channels, net.depth, net.width, tasks)
        case sections.MobileNetV2():
            return MobileNetV2(in_channels, net.width, net.stem, tasks)
        case sections.ConvNet():
            return ConvNet(in_channels, net.channels, net.strides, tasks)
        case sections.Timm():
            return _Timm(in_channels, net.model, net.pretrained)


def describe(net: sections.Net) -> str:
    """Return a short name, such as 'ResNet-20' or 'ConvNet 64-64-64'."""
    match net:
        case sections.CifarResNet():
            blocks = f" ({'-'.join(map(str, net.blocks))})" if net.blocks else ""
            return f"ResNet-{net.depth}{blocks}" + (f" (width {net.width})" if net.width != 16 else "")
        case sections.ResNet():
            return f"ResNet-{net.depth}" + (f" (width {net.width})" if net.width != 64 else "")
        case sections.WideResNet():
            return f"WRN-{net.depth}-{net.width}"
        case sections.MobileNetV2():
            return f"MobileNetV2 ×{net.width:g}"
        case sections.ConvNet():
            return f"ConvNet {'-'.join(str(c) for c in net.channels)}"
        case sections.Timm():
            return net.model


class Normalise(nn.Module):
    """From uint8 (N, H, W, C) to float (N, C, H, W), minus the mean and over the deviation of values in [0, 1]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, image: ImageSpec) -> None:
        super().__init__()
        import torch

        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (image.mean, image.std))
        # One multiplication and one addition: x/255 → (x/255 − mean) / std = x · scale + shift.
        self.register_buffer("scale", (1 / (255 * std)).float().view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean / std).float().view(1, -1, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return (N, C, H, W)."""
        return image.float().permute(0, 3, 1, 2) * self.scale + self.shift


class Classifier(nn.Module):
    """A backbone, global average pooling and a linear head: teachers of ours, and students."""

    def __init__(self, net: sections.Net, image: ImageSpec, classes: int) -> None:
        super().__init__()
        self.normalise = Normalise(image)
        self.backbone = build(net, image.channels)
        self.head = nn.Linear(self.backbone.channels[-1], classes)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits (N, C) and the stages' features, from uint8 (N, H, W, C)."""
        features = self.backbone(self.normalise(image))
        return self.head(features[-1].mean((2, 3))), features
