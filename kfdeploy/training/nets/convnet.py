"""A small plain network: 3×3 convolutions with batch normalisation and ReLU, one stage each."""

import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy.training.nets.layers import Backbone, conv, norm


class ConvNet(Backbone):
    """As many stages as `channels` has entries, each with its stride."""

    def __init__(self, in_channels: int, channels: list[int], strides: list[int], tasks: int = 1) -> None:
        super().__init__()
        self.channels = tuple(channels)
        before = (in_channels, *channels)
        self.convs = nn.ModuleList(
            conv(before[i], c, 3, stride, tasks=tasks, shared=i == 0)
            for i, (c, stride) in enumerate(zip(channels, strides, strict=True))
        )
        self.norms = nn.ModuleList(norm(c, tasks) for c in channels)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return every convolution's features."""
        features = []
        for layer, normalise in zip(self.convs, self.norms, strict=True):
            x = F.relu(normalise(layer(x)))
            features.append(x)
        return tuple(features)
