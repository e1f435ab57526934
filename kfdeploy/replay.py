"""What a teacher says of every view, computed once and read by every run that sees the same views.

Augmentation is a function of (seed, epoch, index), so a view has a name, and the teacher's answer to it can be kept:
one file an epoch, float32, indexed by image. A second student, seed or ablation then trains without the teacher's
forward pass.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kfdeploy.devices import rank
from kfdeploy.errors import KfdeployError
from kfdeploy.files import SCHEMA, load_tensors, place_errors, save_tensors
from kfdeploy.sections import Augment

if TYPE_CHECKING:
    from kfdeploy.data.loader import Batch
    from kfdeploy.data.source import ImageSet
    from kfdeploy.nets.teacher import Teacher


class Taught(NamedTuple):
    """A teacher's answer to one batch."""

    logits: Tensor  # (N, C)
    pooled: tuple[Tensor, ...]  # (N, c_l) the stages' features, averaged over each map


Teach = Callable[["Batch"], Taught]
Autocast = Callable[[], AbstractContextManager[object]]


class Live:
    """Asks the teacher about every batch, in the precision of `autocast`."""

    def __init__(self, teacher: "Teacher", autocast: Autocast = nullcontext) -> None:
        self.teacher, self.autocast = teacher, autocast

    def __call__(self, batch: "Batch") -> Taught:
        """Return the teacher's answer, in float32."""
        return self.ask(batch.images)

    @torch.no_grad()
    def ask(self, images: Tensor) -> Taught:
        """Return the teacher's answer to uint8 images (N, H, W, C), in float32."""
        with self.autocast():
            logits, stages = self.teacher(images)
        return Taught(logits.float(), tuple(stage.float().mean((2, 3)) for stage in stages))


class Replay:
    """Reads the teacher's answers from `folder` where they are there, else asks it and keeps them.

    An epoch's file (one a process) is written when another epoch begins or at `flush`, beside and renamed; a run that
    died leaves the epochs it finished. Where some of a batch's views are not there (every seed drops other images at an
    epoch's end), the teacher is shown those alone. In memory is one epoch: images × (classes + channels) × 4 bytes,
    22 MB for CIFAR-10 and a ResNet-56.
    """

    def __init__(self, live: Live, folder: Path, images: int) -> None:
        self.live, self.folder, self.images = live, folder, images
        self.epoch, self.changed = -1, False
        self.have = torch.zeros(images, dtype=torch.bool)
        self.logits = torch.empty(0)
        self.pooled: tuple[Tensor, ...] = ()
        self.asked = 0  # images that the teacher itself was shown

    def __call__(self, batch: "Batch") -> Taught:
        """Return the teacher's answer, in float32, from the store or from the teacher."""
        if batch.epoch != self.epoch:
            self.flush()
            self._open(batch.epoch)
        index = batch.index.cpu()
        lost = ~self.have[index]
        if lost.any():
            fresh = self.live.ask(batch.images[lost.to(batch.images.device)])
            if not self.pooled:
                self.logits = torch.zeros(self.images, fresh.logits.shape[1])
                self.pooled = tuple(torch.zeros(self.images, p.shape[1]) for p in fresh.pooled)
            for table, value in zip((self.logits, *self.pooled), (fresh.logits, *fresh.pooled), strict=True):
                table[index[lost]] = value.cpu()
            self.have[index[lost]] = True
            self.changed = True
            self.asked += int(lost.sum())
        device = batch.images.device
        return Taught(self.logits[index].to(device), tuple(p[index].to(device) for p in self.pooled))

    def flush(self) -> None:
        """Write what the current epoch has that its file has not.

        Raises:
            OutputError: the folder cannot be written.
        """
        if not self.changed:
            return
        arrays = {"logits": self.logits.numpy(), "have": self.have.numpy().astype(np.uint8)}
        arrays |= {f"pooled.{i}": p.numpy() for i, p in enumerate(self.pooled)}
        path = self._path(self.epoch)
        with place_errors(path, "free some space, or run without --replay"):
            beside = path.with_name(f".{path.name}.partial")
            save_tensors(beside, arrays, {"schema": SCHEMA, "kind": "replay"})
            beside.replace(path)
        self.changed = False

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04}-{rank()}.safetensors"

    def _open(self, epoch: int) -> None:
        """Read what any process has written of an epoch."""
        self.epoch, self.have = epoch, torch.zeros(self.images, dtype=torch.bool)
        self.logits, self.pooled = torch.empty(0), ()
        for path in sorted(self.folder.glob(f"epoch-{epoch:04}-*.safetensors")):
            try:
                arrays = load_tensors(path)
            except KfdeployError:  # a damaged file is worth what a missing one is: it is asked anew and replaced
                continue
            have = torch.from_numpy(arrays["have"].astype(bool))
            found = [torch.from_numpy(arrays["logits"])]
            found += [torch.from_numpy(arrays[f"pooled.{i}"]) for i in range(len(arrays) - 2)]
            if not self.pooled:
                self.logits, self.pooled = found[0], tuple(found[1:])
            else:
                for table, value in zip((self.logits, *self.pooled), found, strict=True):
                    table[have] = value[have]
            self.have |= have


def views_folder(root: Path, teacher: "Teacher", data: "ImageSet", augment: Augment, seed: int, precision: str) -> Path:
    """Return the folder of exactly these views in `root`: of this teacher, these images, this augmentation and seed."""
    found = hashlib.sha256()
    for name, value in sorted(teacher.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    found.update(teacher.columns.cpu().numpy().tobytes())
    for part in _identity(data):
        found.update(part)
    about = {"augment": augment.model_dump(), "seed": seed, "precision": precision, "image": data.image.to_json()}
    found.update(json.dumps(about, sort_keys=True).encode())
    return root / found.hexdigest()[:16]


def _identity(data: "ImageSet") -> Iterator[bytes]:
    yield data.labels.tobytes()
    yield data.rows.tobytes()
    if data.images is not None:
        yield data.images.tobytes()
    else:  # their bytes would take as long to read as the teacher to run: names, places and sizes
        for path in data.paths:
            name = f"{path.parent.name}/{path.name} {path.stat().st_size}" if isinstance(path, Path) else repr(path)
            yield f"{name}\n".encode()
