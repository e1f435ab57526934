"""Branches that exist in training alone: a 1×1 convolution and the identity beside a 3×3 (RepVGG, Ding et al. 2021).

A sum of convolutions, each normalised, is one convolution: what is exported has a single 3×3, as without branches.
"""

import copy

import torch
from torch import Tensor, nn

from kfdeploy.training.nets.layers import conv, norm


class Side(nn.Module):
    """The branches beside a 3×3 convolution: a normalised 1×1, and the normalised input where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, tasks: int = 1, shared: bool = False) -> None:
        super().__init__()
        self.point = conv(inputs, outputs, 1, stride, tasks=tasks, shared=shared)
        self.norm = norm(outputs, tasks)
        # A bank's first layer reads what all tasks share: its input has not its output's channels.
        same = stride == 1 and inputs == outputs and not (shared and tasks > 1)
        self.same: nn.BatchNorm2d | None = norm(outputs, tasks) if same else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, K·outputs, h, w), to be added to the 3×3's normalised output."""
        y: Tensor = self.norm(self.point(x))
        return y if self.same is None else y + self.same(x)


@torch.no_grad()
def fold_in(main: nn.Conv2d, after: nn.BatchNorm2d, side: Side) -> None:
    """Put the branches of `side` into a 3×3 convolution and its normalisation, in place."""
    scale, shift = _affine(after)
    kernel = main.weight.double() * scale[:, None, None, None]
    one, moved = _affine(side.norm)
    kernel[:, :, 1, 1] += side.point.weight.double()[:, :, 0, 0] * one[:, None]
    shift = shift + moved
    if side.same is not None:
        gain, moved = _affine(side.same)
        outputs = torch.arange(len(kernel))
        kernel[outputs, outputs % kernel.shape[1], 1, 1] += gain  # within its group, a channel is its own input
        shift = shift + moved
    main.weight.copy_(kernel.float())
    assert after.running_mean is not None
    assert after.running_var is not None
    after.running_mean.zero_()
    after.running_var.fill_(1 - after.eps)  # so that the normalisation is the addition of its bias
    after.weight.fill_(1.0)
    after.bias.copy_(shift.float())


def _affine(layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what a normalisation in evaluation multiplies by and adds, in float64."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    scale = layer.weight.double() / (layer.running_var.double() + layer.eps).sqrt()
    return scale, layer.bias.double() - layer.running_mean.double() * scale


def merged(net: nn.Module) -> nn.Module:
    """Return a network whose branches are folded into its convolutions: itself where it has none, else a copy."""
    if not any(isinstance(module, Side) for module in net.modules()):
        return net
    net = copy.deepcopy(net)
    for module in net.modules():
        fold = getattr(module, "fold_branches", None)
        if fold is not None:
            fold()
    return net
