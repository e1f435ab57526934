"""The nets a recipe may name, typed."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, model_validator

from kfdeploy.training.recipe.base import Section


class _Net(Section):
    """What every net may have."""

    weights: str = ""  # to begin from: a checkpoint, or `pool:<folder>` for a pool's common network


class CifarResNet(_Net):
    """A CIFAR ResNet of depth 6n+2 (He et al. 2016, section 4.2), or with other numbers of stages and of their blocks.

    Each stage has twice the channels of the one before, on half its height and width.
    """

    family: Literal["cifar_resnet"]  # which kind of net this is
    depth: int  # 6n+2, or what `blocks` make: two layers each, and two
    blocks: list[NonNegativeInt] | None = Field(None, min_length=1, max_length=4)  # of each stage; none: three of n
    width: int = Field(16, ge=1)  # channels of the first stage
    stride: Literal[1, 2] = 1  # of the first convolution
    shortcut: Literal["A", "projection"] = "A"  # A: padded, without weights; projection: 1×1 convolutions
    branches: bool = False  # beside each 3×3 in training, a 1×1 and where it fits the identity; the graph has one 3×3

    @model_validator(mode="after")
    def _depth(self) -> "CifarResNet":
        if self.blocks is not None:
            if self.depth != 2 * sum(self.blocks) + 2:
                told = "-".join(map(str, self.blocks))
                raise ValueError(f"blocks {told} make a depth of {2 * sum(self.blocks) + 2}, and depth is {self.depth}")
            if not all(self.blocks[1:]):
                raise ValueError("only the first stage may have no block: each later one halves the map with its first")
        elif self.depth < 8 or (self.depth - 2) % 6:
            raise ValueError(f"depth must be 6n+2 (8, 14, 20, …), not {self.depth}; for another, say blocks")
        if self.shortcut == "A" and self.width % 2:
            raise ValueError("option A shortcuts need an even width")
        return self


class ResNet(_Net):
    """ResNet-18 or -34 (He et al. 2016, table 1); the CIFAR stem is one 3×3 convolution without pooling."""

    family: Literal["resnet"]  # which kind of net this is
    depth: Literal[18, 34]  # 18 or 34
    width: int = Field(64, ge=1)  # channels of the first stage
    stem: Literal["image", "cifar"] = "image"  # image: 7×7 and pooling; cifar: 3×3


class WideResNet(_Net):
    """A wide ResNet of depth 6n+4 (Zagoruyko & Komodakis 2016)."""

    family: Literal["wide_resnet"]  # which kind of net this is
    depth: int  # 6n+4
    width: int = Field(ge=1)  # times 16 channels in the first stage

    @model_validator(mode="after")
    def _depth(self) -> "WideResNet":
        if self.depth < 10 or (self.depth - 4) % 6:
            raise ValueError(f"depth must be 6n+4 (10, 16, 22, 28, …), not {self.depth}")
        return self


class MobileNetV2(_Net):
    """MobileNetV2 (Sandler et al. 2018); with the CIFAR stem a 32×32 input ends at 4×4."""

    family: Literal["mobilenetv2"]  # which kind of net this is
    width: float = Field(1.0, gt=0)  # times the published channels
    stem: Literal["image", "cifar"] = "image"  # cifar: no stride in the first layers


class ConvNet(_Net):
    """Plain convolutions, each with batch normalisation and ReLU."""

    LATER = ("kernel",)
    family: Literal["convnet"]  # which kind of net this is
    channels: list[int] = Field(min_length=1)  # of each convolution
    strides: list[int]  # of each convolution
    kernel: Literal[3, 4] = 3  # of each convolution; 4 is for strides of 2 alone
    branches: bool = False  # beside each 3×3 in training, a 1×1 and where it fits the identity; the graph has one 3×3

    @model_validator(mode="after")
    def _fits(self) -> "ConvNet":
        if self.kernel == 4 and (set(self.strides) != {2} or self.branches):
            raise ValueError("kernel = 4 is for strides of 2, and without branches")
        if len(self.strides) != len(self.channels):
            raise ValueError(f"strides must have {len(self.channels)} values, one a convolution")
        if min(self.channels) < 1 or min(self.strides) < 1:
            raise ValueError("channels and strides must be positive")
        return self


Argument = bool | int | float | str


class Timm(_Net):
    """Any timm backbone that knows `features_only`; `args` go to `timm.create_model`, such as `pad_type = "same"`."""

    family: Literal["timm"]  # which kind of net this is
    model: str  # its name in timm
    pretrained: bool = False  # download its weights
    args: dict[str, Argument] = Field(default_factory=dict)  # for timm.create_model, such as { pad_type = "same" }

    @model_validator(mode="after")
    def _one(self) -> "Timm":
        if self.pretrained and self.weights:
            raise ValueError("pretrained downloads weights, and weights names others; leave one of them out")
        return self


Net = Annotated[CifarResNet | ResNet | WideResNet | MobileNetV2 | ConvNet | Timm, Field(discriminator="family")]
