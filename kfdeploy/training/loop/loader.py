"""Where data become tensors: sets in memory are indexed, larger ones stream through a DataLoader."""

import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kfdeploy.data.images import decode
from kfdeploy.data.imageset import ImageSet
from kfdeploy.errors import DataError, RecipeError, first_line
from kfdeploy.training.loop.augment import crop_and_flip, draws
from kfdeploy.training.loop.processes import rank, world
from kfdeploy.training.recipe.sections import Augment


@dataclass(frozen=True)
class Batch:
    """One batch, or this process's share of it: uint8 images (N, H, W, C), labels, and which views these are.

    Labels are those of an `ImageSet`: (N,), or (N, F) where there are several fields, −1 where one is unknown.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor  # (N,) the images' positions in their source, on the CPU: with the epoch, the names of these views
    epoch: int  # that of the views


def share(index: Tensor, rank: int, world: int) -> Tensor:
    """Return one process's part of a batch: the processes' parts, one after another, are the batch."""
    part = len(index) // world
    return index[rank * part : (rank + 1) * part]


class MemoryLoader:
    """Batches of a set held in memory on the device.

    The order is a function of (seed, epoch), augmentation one of (augment.seed, epoch, row): an image has the same
    views in a set of some classes as in the whole.
    """

    def __init__(self, data: ImageSet, batch: int, augment: Augment, seed: int, device: torch.device) -> None:
        self.images = torch.from_numpy(data.in_memory().load()).to(device)
        self.labels, self.rows = torch.from_numpy(data.labels).to(device), torch.from_numpy(data.rows)
        self.batch, self.augment, self.seed = batch_size(batch, len(data)), augment, seed
        self.views = seed if augment.seed is None else augment.seed

    def __len__(self) -> int:
        return len(self.labels) // self.batch

    def epoch(self, number: int, start: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch from the `start`-th on; the last, smaller one is dropped."""
        order, view = shuffled(len(self.labels), self.seed, number), _view(number, self.augment)
        for step in range(start, len(self)):
            own = share(order[step * self.batch : (step + 1) * self.batch], rank(), world())
            index, rows = own.to(self.images.device), self.rows[own]
            images = crop_and_flip(
                self.images[index],
                rows.to(index.device),
                seed=self.views,
                epoch=view,
                pad=self.augment.crop,
                flip=self.augment.flip,
            )
            yield Batch(images, self.labels[index], rows, view)


class _Stream(Dataset[tuple[Tensor, Tensor, int]]):
    """Decodes and augments one image at a time with torchvision's v2 transforms."""

    def __init__(self, data: ImageSet, augment: Augment, seed: int) -> None:
        from torchvision.transforms import v2

        height, width = data.image.size
        steps: list[Any] = []
        if augment.resized_crop:
            steps.append(v2.RandomResizedCrop((height, width), scale=(augment.resized_crop, 1.0), antialias=True))
        if augment.crop:
            steps.append(v2.RandomCrop((height, width), padding=augment.crop, padding_mode="reflect"))
        if augment.flip:
            steps.append(v2.RandomHorizontalFlip())
        self.transform = v2.Compose(steps) if steps else None
        self.data, self.seed = data, seed
        self.whole = augment.resized_crop > 0 and bool(data.paths)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, int]:
        epoch, index = key
        row = int(self.data.rows[index])
        if self.whole:  # a random resized crop is taken from the file's own pixels
            image = torch.from_numpy(np.array(decode(self.data.paths[index], self.data.image.channels)))
            image = image.view(*image.shape[:2], self.data.image.channels)
        else:
            image = torch.from_numpy(self.data.load([index])[0])  # (H, W, C)
        if self.transform is not None:
            # v2 draws from torch's global generator: seed it, so that the view is a function of (seed, epoch, row).
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(draws(self.seed, epoch, torch.tensor(row), 4)))
                image = self.transform(image.permute(2, 0, 1)).permute(1, 2, 0)
        return image, torch.as_tensor(self.data.labels[index]), row


class StreamLoader:
    """Batches of a set that stays on disk, decoded by worker processes."""

    def __init__(
        self, data: ImageSet, batch: int, augment: Augment, seed: int, device: torch.device, workers: int = 0
    ) -> None:
        self.data = _Stream(data, augment, seed if augment.seed is None else augment.seed)
        self.count, self.batch, self.seed = len(data), batch_size(batch, len(data)), seed
        self.augment = augment
        self.device = device
        self.workers = workers or min(8, max(1, (os.cpu_count() or 1) // world()))

    def __len__(self) -> int:
        return self.count // self.batch

    def epoch(self, number: int, start: int = 0) -> Generator[Batch]:
        """Yield the batches of an epoch from the `start`-th on; the last, smaller one is dropped."""
        order = shuffled(self.count, self.seed, number)
        view = _view(number, self.augment)
        batches = [
            [(view, i) for i in share(order[s * self.batch : (s + 1) * self.batch], rank(), world()).tolist()]
            for s in range(start, len(self))
        ]
        loader = DataLoader(
            self.data, batch_sampler=batches, num_workers=self.workers, pin_memory=self.device.type == "cuda"
        )
        try:
            for images, labels, rows in loader:
                yield Batch(
                    images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True), rows, view
                )
        except DataError as error:
            # A worker's error arrives with its traceback in the message: the last line is the message itself.
            last = str(error).strip().splitlines()[-1]
            raise DataError(last.rpartition("DataError: ")[2], hint="remove the file, or save it again") from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"a process that reads images died: {first_line(error)}",
                hint="go on with --resume; where the system was short of memory, free some",
            ) from None


def _view(epoch: int, augment: Augment) -> int:
    """Return the epoch whose views an epoch sees."""
    return epoch % augment.views if augment.views else epoch


Loader = MemoryLoader | StreamLoader


def batch_size(batch: int, images: int) -> int:
    """Return the batch of all processes together: not more than there are images.

    Raises:
        RecipeError: it cannot be shared equally among the processes.
    """
    batch = min(batch, images // world() * world())
    if batch % world():
        raise RecipeError(
            f"train.batch is {batch}, which {world()} processes cannot share equally",
            hint=f"--set train.batch={batch // world() * world()}",
        )
    return batch


def shuffled(count: int, seed: int, epoch: int) -> Tensor:  # → (count,)
    """Return the order of an epoch, a function of (seed, epoch)."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))


def make_loader(
    data: ImageSet, batch: int, augment: Augment, seed: int, device: torch.device, stream_above_mb: int,
    workers: int = 0,
) -> Loader:  # fmt: skip
    """Return a loader in memory, or one that streams where the set is too large or the augmentation needs the file."""
    streams = augment.resized_crop > 0 or (data.images is None and data.megabytes > stream_above_mb)
    if streams:
        return StreamLoader(data, batch, augment, seed, device, workers)
    return MemoryLoader(data, batch, augment, seed, device)
