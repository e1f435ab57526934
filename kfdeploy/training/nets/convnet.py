"""A small plain network: convolutions with batch normalisation and ReLU, one stage each."""

import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy.training.nets.branches import Side, fold_in
from kfdeploy.training.nets.layers import Backbone, conv, norm


class ConvNet(Backbone):
    """As many stages as `channels` has entries, each with its stride."""

    def __init__(
        self, in_channels: int, channels: list[int], strides: list[int], tasks: int = 1, branches: bool = False,
        kernel: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels = tuple(channels)
        before = (in_channels, *channels)
        self.convs = nn.ModuleList(
            conv(before[i], c, kernel, stride, tasks=tasks, shared=i == 0)
            for i, (c, stride) in enumerate(zip(channels, strides, strict=True))
        )
        self.norms = nn.ModuleList(norm(c, tasks) for c in channels)
        self.sides: nn.ModuleList | None = None
        if branches:
            self.sides = nn.ModuleList(
                Side(before[i], c, stride, tasks=tasks, shared=i == 0)
                for i, (c, stride) in enumerate(zip(channels, strides, strict=True))
            )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return every convolution's features."""
        features = []
        for i, (layer, normalise) in enumerate(zip(self.convs, self.norms, strict=True)):
            y = normalise(layer(x))
            x = F.relu(y if self.sides is None else y + self.sides[i](x))
            features.append(x)
        return tuple(features)

    def fold_branches(self) -> None:
        """Leave one convolution of each layer's branches, in place."""
        if self.sides is not None:
            for layer, normalise, side in zip(self.convs, self.norms, self.sides, strict=True):
                fold_in(layer, normalise, side)  # type: ignore[arg-type]
            self.sides = None
