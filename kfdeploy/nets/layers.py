"""Convolutions and normalisation for one network or for a bank of them.

A *bank* of K networks of one architecture is one network whose convolutions have K groups times their own, so that
every per-network tensor lies along the first axis: `chunk(K)` along axis 0 of any parameter gives one network's.
The first convolution of a bank reads a tensor that all networks share, so it keeps its group of 1 and has K times
the output channels.
"""

from torch import Tensor, nn


class Backbone(nn.Module):
    """A network that returns the features of its stages, through its return value.

    `channels` are the channels of each stage, for one network of the bank.
    """

    channels: tuple[int, ...]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the stages' features, each (N, K·c, h, w), from (N, C, H, W)."""
        raise TypeError(f"{type(self).__name__} has no forward")


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, tasks: int = 1, shared: bool = False
) -> nn.Conv2d:
    """Return a convolution without bias, padded to keep the size; `shared` is a bank's first."""
    banked = nn.Conv2d(
        inputs if shared else inputs * tasks,
        outputs * tasks,
        kernel,
        stride,
        padding=kernel // 2,
        groups=groups if shared else groups * tasks,
        bias=False,
    )
    nn.init.kaiming_normal_(banked.weight, mode="fan_out", nonlinearity="relu")
    # PyTorch divides neither fan by the groups: a bank's fan_out counts all K networks' channels.
    banked.weight.data.mul_((banked.groups if not shared else tasks) ** 0.5)
    return banked


def pooled(maps: Tensor) -> Tensor:  # (N, C, h, w) → (N, C)
    """Return each map's mean, for training.

    `mean((2, 3))` spreads its gradient in an order that is not channels last, and everything before it then converts:
    a tenth of a bank's step. What is exported says `mean((2, 3), keepdim=True)`, which is one operator.
    """
    return maps.permute(0, 2, 3, 1).flatten(1, 2).mean(1)


def norm(channels: int, tasks: int = 1) -> nn.BatchNorm2d:
    """Return batch normalisation; over K·C channels it is exactly K normalisations."""
    return nn.BatchNorm2d(channels * tasks)
