"""MobileNetV2 (Sandler et al. 2018), with the image stem or the CIFAR stem of Yang et al. (ECCV 2022)."""

import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy.training.nets.layers import Backbone, conv, norm

# expansion, channels, blocks, stride; the CIFAR strides keep 32×32 inputs at 4×4 in the end
_BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
_CIFAR_STRIDES = (1, 2, 1, 2, 1, 2, 1)


def _round8(channels: float) -> int:
    """Round to a multiple of 8, never below 90 % of the wish."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class InvertedResidual(nn.Module):
    """Widen by a 1×1 convolution, filter each channel by 3×3, narrow again; add the input where the shape allows."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, tasks: int = 1) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = (
            None if expansion == 1 else nn.Sequential(conv(inputs, hidden, 1, tasks=tasks), norm(hidden, tasks))
        )
        self.filter = nn.Sequential(conv(hidden, hidden, 3, stride, groups=hidden, tasks=tasks), norm(hidden, tasks))
        self.narrow = nn.Sequential(conv(hidden, outputs, 1, tasks=tasks), norm(outputs, tasks))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K·outputs, h, w)."""
        y: Tensor = x if self.expand is None else F.relu6(self.expand(x))
        y = self.narrow(F.relu6(self.filter(y)))
        return x + y if self.residual else y


class MobileNetV2(Backbone):
    """Eight stages: the seven groups of inverted residuals and the last 1×1 convolution."""

    def __init__(self, in_channels: int, width: float, stem: str, tasks: int = 1) -> None:
        super().__init__()
        cifar = stem == "cifar"
        widths = [_round8(c * width) for _, c, _, _ in _BLOCKS]
        last = _round8(1280 * max(1.0, width))
        self.channels = (*widths, last)
        inputs = _round8(32 * width)
        self.stem = nn.Sequential(
            conv(in_channels, inputs, 3, 1 if cifar else 2, tasks=tasks, shared=True), norm(inputs, tasks)
        )
        self.groups = nn.ModuleList()
        for i, (expansion, _, blocks, stride) in enumerate(_BLOCKS):
            first = _CIFAR_STRIDES[i] if cifar else stride
            group = []
            for b in range(blocks):
                group.append(InvertedResidual(inputs, widths[i], first if b == 0 else 1, expansion, tasks))
                inputs = widths[i]
            self.groups.append(nn.Sequential(*group))
        self.last = nn.Sequential(conv(inputs, last, 1, tasks=tasks), norm(last, tasks))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the eight stages' features."""
        x = F.relu6(self.stem(x))
        features = []
        for group in self.groups:
            x = group(x)
            features.append(x)
        features.append(F.relu6(self.last(x)))
        return tuple(features)
