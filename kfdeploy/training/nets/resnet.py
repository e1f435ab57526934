"""CIFAR ResNets (He et al. 2016, section 4.2) and wide ResNets (Zagoruyko & Komodakis 2016).

Parameter names of the CIFAR ResNet are those of the published CIFAR-10 checkpoints (`conv1`, `layer1.0.conv1`, …).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy.training.nets.branches import Side, fold_in
from kfdeploy.training.nets.layers import Backbone, conv, norm


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: the identity, a 1×1 convolution, or option A where the shape changes.

    Option A takes every second pixel and pads the channels with zeros on both sides.
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int, shortcut: str, tasks: int = 1, branches: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride, tasks=tasks)
        self.bn1 = norm(outputs, tasks)
        self.conv2 = conv(outputs, outputs, 3, tasks=tasks)
        self.bn2 = norm(outputs, tasks)
        self.side1 = Side(inputs, outputs, stride, tasks=tasks) if branches else None
        self.side2 = Side(outputs, outputs, tasks=tasks) if branches else None
        self.stride = stride
        self.pad = 0
        self.shortcut: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            if shortcut == "A":
                self.pad = (outputs - inputs) // 2
            else:
                self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride, tasks=tasks), norm(outputs, tasks))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K·outputs, h, w)."""
        y = self.bn1(self.conv1(x))
        y = F.relu(y if self.side1 is None else y + self.side1(x))
        y = self.bn2(self.conv2(y)) if self.side2 is None else self.bn2(self.conv2(y)) + self.side2(y)
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.pad:
            # A pooling window of 1 takes every second pixel, as one operator that every runtime has.
            x = F.pad(F.max_pool2d(x, 1, self.stride), (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(x + y)

    def fold_branches(self) -> None:
        """Leave one convolution of each layer's branches, in place."""
        if self.side1 is not None and self.side2 is not None:
            fold_in(self.conv1, self.bn1, self.side1)
            fold_in(self.conv2, self.bn2, self.side2)
            self.side1 = self.side2 = None


_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class _ProjectionBlock(BasicBlock):
    """A basic block whose shortcut is called `downsample`, as torchvision's is."""

    def __init__(self, inputs: int, outputs: int, stride: int, tasks: int) -> None:
        super().__init__(inputs, outputs, stride, "projection", tasks)
        self.downsample, self.shortcut = self.shortcut, None

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K·outputs, h, w)."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        past: Tensor = x if self.downsample is None else self.downsample(x)
        return F.relu(past + y)


class CifarResNet(Backbone):
    """ResNet of stages of `width`, 2·`width`, 4·`width`, … channels, with `blocks` in each; three of n: depth 6n+2."""

    def __init__(
        self, in_channels: int, blocks: Sequence[int], width: int, shortcut: str, tasks: int = 1, stride: int = 1,
        branches: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels = tuple(width * 2**s for s in range(len(blocks)))
        self.conv1 = conv(in_channels, width, 3, stride, tasks=tasks, shared=True)
        self.bn1 = norm(width, tasks)
        before = (width, *self.channels)
        for s, width_s in enumerate(self.channels):
            stage = [
                BasicBlock(
                    before[s] if b == 0 else width_s, width_s, 2 if s and b == 0 else 1, shortcut, tasks, branches
                )
                for b in range(blocks[s])
            ]
            self.add_module(f"layer{s + 1}", nn.Sequential(*stage))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the stages' features, each on half the map of the one before."""
        x = F.relu(self.bn1(self.conv1(x)))
        features = []
        for s in range(len(self.channels)):
            x = getattr(self, f"layer{s + 1}")(x)
            features.append(x)
        return tuple(features)


class ResNet(Backbone):
    """ResNet-18 or -34: four stages of `width`, 2·, 4· and 8·`width` channels, parameters named as torchvision's."""

    def __init__(self, in_channels: int, depth: int, width: int, stem: str, tasks: int = 1) -> None:
        super().__init__()
        self.channels = (width, 2 * width, 4 * width, 8 * width)
        self.small = stem == "cifar"
        self.conv1 = conv(in_channels, width, 3 if self.small else 7, 1 if self.small else 2, tasks=tasks, shared=True)
        self.bn1 = norm(width, tasks)
        before = (width, *self.channels)
        stages = [
            nn.Sequential(
                *(
                    _ProjectionBlock(before[s] if b == 0 else width_s, width_s, 2 if s and b == 0 else 1, tasks)
                    for b in range(_BLOCKS[depth][s])
                )
            )
            for s, width_s in enumerate(self.channels)
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the four stages' features."""
        x = F.relu(self.bn1(self.conv1(x)))
        if not self.small:
            x = F.max_pool2d(x, 3, 2, 1)
        first = self.layer1(x)
        second = self.layer2(first)
        third = self.layer3(second)
        return first, second, third, self.layer4(third)


class PreActivationBlock(nn.Module):
    """Normalise and rectify before each 3×3 convolution; a 1×1 shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, tasks: int = 1) -> None:
        super().__init__()
        self.bn1 = norm(inputs, tasks)
        self.conv1 = conv(inputs, outputs, 3, stride, tasks=tasks)
        self.bn2 = norm(outputs, tasks)
        self.conv2 = conv(outputs, outputs, 3, tasks=tasks)
        self.shortcut = conv(inputs, outputs, 1, stride, tasks=tasks) if stride != 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K·outputs, h, w)."""
        active = F.relu(self.bn1(x))
        y: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        past: Tensor = x if self.shortcut is None else self.shortcut(active)
        return y + past


class WideResNet(Backbone):
    """Wide ResNet of depth 6n+4; the last stage is taken after the final normalisation and ReLU."""

    def __init__(self, in_channels: int, depth: int, width: int, tasks: int = 1) -> None:
        super().__init__()
        self.channels = (16 * width, 32 * width, 64 * width)
        before = (16, *self.channels)
        self.stem = conv(in_channels, 16, 3, tasks=tasks, shared=True)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    PreActivationBlock(before[s] if b == 0 else width_s, width_s, 2 if s and b == 0 else 1, tasks)
                    for b in range((depth - 4) // 6)
                )
            )
            for s, width_s in enumerate(self.channels)
        )
        self.bn = norm(self.channels[-1], tasks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the three stages' features, at strides 1, 2 and 4."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        features[-1] = F.relu(self.bn(x))
        return tuple(features)
