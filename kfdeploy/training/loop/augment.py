"""Augmentation of batches, on their device, as a pure function of (seed, epoch, row) for every sample."""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """Scramble 32-bit integers held in int64 (Wellons' lowbias32); products overflow, their low 32 bits are right."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & _MASK
    x = (x ^ (x >> 15)) * 0x846CA68B & _MASK
    return x ^ (x >> 16)


def draws(seed: int, epoch: int, index: Tensor, purpose: int) -> Tensor:  # (N,) → (N,)
    """Return an integer in [0, 2³²) for each sample: the same for the same (seed, epoch, index, purpose)."""
    x = _mix(index.long() & _MASK)
    for number in (epoch, seed, purpose):
        x = _mix(x ^ (number * 0x9E3779B9 & _MASK))
    return x


def crop_and_flip(
    images: Tensor, index: Tensor, *, seed: int, epoch: int, pad: int, flip: bool
) -> Tensor:  # (N, H, W, C), (N,) → (N, H, W, C)
    """Return randomly shifted and mirrored images: padded by reflection by `pad` pixels, then cut out again."""
    if not pad and not flip:
        return images
    N, H, W, _ = images.shape
    rows = torch.arange(H, device=images.device).expand(N, H)
    columns = torch.arange(W, device=images.device).expand(N, W)
    if pad:
        rows = rows + (draws(seed, epoch, index, 1) % (2 * pad + 1) - pad).unsqueeze(1)
        columns = columns + (draws(seed, epoch, index, 2) % (2 * pad + 1) - pad).unsqueeze(1)
        rows, columns = _reflect(rows, H), _reflect(columns, W)
    if flip:
        mirrored = (draws(seed, epoch, index, 3) & 1).bool().unsqueeze(1)
        columns = torch.where(mirrored, columns.flip(1), columns)
    sample = torch.arange(N, device=images.device).view(N, 1, 1)
    return images[sample, rows.unsqueeze(2), columns.unsqueeze(1)]


def _reflect(position: Tensor, size: int) -> Tensor:
    """Fold positions outside [0, size) back in, as reflection padding does."""
    if size == 1:
        return torch.zeros_like(position)
    period = 2 * (size - 1)
    position = position.remainder(period)
    return torch.where(position >= size, period - position, position)
