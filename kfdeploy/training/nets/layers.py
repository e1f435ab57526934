"""Convolutions and normalisation for one network or for a bank of them.

A *bank* of K networks of one architecture is one network whose convolutions have K groups times their own, so that
every per-network tensor lies along the first axis: `chunk(K)` along axis 0 of any parameter gives one network's.
The first convolution of a bank reads a tensor that all networks share, so it keeps its group of 1 and has K times
the output channels.
"""

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """A network that returns the features of its stages, through its return value.

    `channels` are the channels of each stage, for one network of the bank.
    """

    channels: tuple[int, ...]

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the stages' features, each (N, K·c, h, w), from (N, C, H, W)."""
        raise TypeError(f"{type(self).__name__} has no forward")


class BankedPointwise(nn.Conv2d):
    """A bank's 1×1 convolution, as one batched matrix product over the K networks where that is faster.

    On the CPU it is on maps of up to 16×16 pixels; on larger ones moving the products into place costs more than
    grouping does (`pointwise` in benchmarks/factorize_speed.py). Parameters are those of the grouped convolution.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, K·outputs, h, w)."""
        N, channels, h, w = input.shape
        if h * w > 256 and input.device.type == "cpu":
            return super().forward(input)
        K = self.groups
        rows = input.permute(0, 2, 3, 1).reshape(-1, K, channels // K).transpose(0, 1)  # (K, N·h·w, c)
        each = self.weight.view(K, self.out_channels // K, channels // K)
        products = torch.bmm(rows, each.transpose(1, 2))  # (K, N·h·w, o)
        return products.transpose(0, 1).reshape(N, h, w, self.out_channels).permute(0, 3, 1, 2)


def conv(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, tasks: int = 1, shared: bool = False
) -> nn.Conv2d:
    """Return a convolution without bias, padded to keep the size (of 4×4, to halve it); `shared` is a bank's first."""
    kind = BankedPointwise if kernel == 1 and stride == 1 and groups == 1 and tasks > 1 and not shared else nn.Conv2d
    banked = kind(
        inputs if shared else inputs * tasks,
        outputs * tasks,
        kernel,
        stride,
        padding=(kernel - 1) // 2,
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
