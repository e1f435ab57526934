"""Several processes as one: sums, gathered rows, and normalisation over the whole batch.

With W processes of batch B/W the pairs of the information term, the statistics of batch normalisation and every logged
number are those of the whole batch B, and so are their gradients.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def world() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number among them, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def total(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, without a gradient."""
    if world() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


class _Sum(torch.autograd.Function):
    """The sum over all processes; each of them has the whole sum, so each gradient counts for every process."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return total(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0].contiguous())


class _Gather(torch.autograd.Function):
    """All processes' rows, in the order of their numbers."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.own = slice(rank() * len(rows), (rank() + 1) * len(rows))
        out = [torch.empty_like(rows) for _ in range(world())]
        dist.all_gather(out, rows.contiguous())
        return torch.cat(out)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return total(gradients[0].contiguous())[ctx.own]


def gather(rows: Tensor) -> Tensor:  # (N, …) → (W·N, …)
    """Return all processes' rows, differentiably: the gradient of each row is summed over the processes.

    A loss that every process computes alike from gathered rows, its parameters' gradients averaged over the processes
    as DDP does, has the gradient it would have in one process.
    """
    if world() == 1:
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _GlobalNorm(nn.Module):
    """The part that all global normalisations share; mixed into torch's, so names and buffers stay."""

    def _global(self, x: Tensor) -> Tensor:
        norm: Any = self
        dims = [d for d in range(x.ndim) if d != 1]
        wide = x.float()
        count = wide.numel() // wide.shape[1] * world()
        # Two exchanges, mean first: the difference of two large sums would lose the variance's digits.
        mean = _Sum.apply(wide.sum(dims)) / count
        shape = [1, -1] + [1] * (x.ndim - 2)
        centred = wide - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        with torch.no_grad():
            norm.num_batches_tracked += 1
            norm.running_mean.lerp_(mean.detach(), norm.momentum)
            norm.running_var.lerp_(variance.detach() * count / (count - 1), norm.momentum)
        scale = torch.rsqrt(variance + norm.eps) * norm.weight
        out: Tensor = (centred * scale.view(shape) + norm.bias.view(shape)).to(x.dtype)
        return out


class _GlobalNorm1d(_GlobalNorm, nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return self._global(input) if self.training else nn.BatchNorm1d.forward(self, input)


class _GlobalNorm2d(_GlobalNorm, nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._global(input) if self.training else nn.BatchNorm2d.forward(self, input)


def globalise(module: nn.Module) -> None:
    """Make every batch normalisation inside use all processes' statistics, in place.

    torch's SyncBatchNorm refuses the CPU; this one is a differentiable all-reduce on any backend.
    """
    for name, child in module.named_children():
        kinds: dict[type, type[nn.Module]] = {nn.BatchNorm1d: _GlobalNorm1d, nn.BatchNorm2d: _GlobalNorm2d}
        kind = kinds.get(type(child))
        if kind is None:
            globalise(child)
            continue
        assert isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d)
        new = kind(child.num_features, eps=child.eps, momentum=child.momentum)
        new.load_state_dict(child.state_dict())
        setattr(module, name, new.to(child.weight.device))
