"""What a teacher says of every view, computed once and read by every run that sees the same views.

Augmentation is a function of (seed, epoch, row), so a view has a name, and the teacher's answer to it can be kept: one
file an epoch, float32, indexed by the image's row in its source. A second student, seed or ablation then trains without
the teacher's forward pass.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kfdeploy.errors import KfdeployError
from kfdeploy.files import load_tensors, save_tensors
from kfdeploy.manifest import stamp
from kfdeploy.schema import hold
from kfdeploy.training.loop.learner import Taught
from kfdeploy.training.loop.processes import rank
from kfdeploy.training.recipe.sections import Augment
from kfdeploy.writing import fresh, place_errors

if TYPE_CHECKING:
    from kfdeploy.data.imageset import ImageSet
    from kfdeploy.tasks.spec import ImageSpec
    from kfdeploy.training.loop.loader import Batch
    from kfdeploy.training.nets.teacher import Teacher


Teach = Callable[["Batch"], Taught]
Autocast = Callable[[], AbstractContextManager[object]]


class Live:
    """Asks the teacher about every batch, in the precision of `autocast`."""

    def __init__(self, teacher: "Teacher", autocast: Autocast = nullcontext) -> None:
        self.teacher, self.autocast = teacher, autocast

    def __call__(self, batch: "Batch") -> Taught:
        """Return the teacher's answer, in float32."""
        logits, pooled = self.ask(batch.images)
        return Taught(self.teacher.choose(logits), pooled)

    @torch.no_grad()
    def ask(self, images: Tensor) -> Taught:
        """Return what the teacher says of uint8 images (N, H, W, C), with all the logits that it has, in float32."""
        with self.autocast():
            logits, stages = self.teacher.net(images)
        return Taught(logits.float(), tuple(stage.float().mean((2, 3)) for stage in stages))


class Replay:
    """Reads the teacher's answers from `folder` where they are there, else asks it and keeps them.

    They are kept by the image's row in its source, with a checksum of the image and with all the teacher's logits: a
    student of some classes reads what a pool of all of them has asked. An epoch's file (one a process) is written when
    another epoch begins or at `flush`, beside and renamed; a run that died leaves the epochs it finished. Where some of
    a batch's views are not there (every seed drops other images at an epoch's end), the teacher is shown those alone.
    In memory is one epoch: rows × (classes + channels) × 4 bytes, 24 MB for CIFAR-10 and a ResNet-56.
    """

    def __init__(self, live: Live, folder: Path, data: "ImageSet") -> None:
        self.live, self.folder = live, folder
        self.marks = torch.zeros(int(data.rows.max()) + 1, dtype=torch.int64)  # (rows,) 0: not of this set
        self.marks[torch.from_numpy(data.rows)] = _checksums(data)
        self.epoch, self.changed = -1, False
        self.have = torch.zeros(0, dtype=torch.int64)  # (rows,) the checksum of what is kept
        self.tables: list[Tensor] = []  # (rows, ·) logits, then each stage's pooled features
        self.asked = 0  # images that the teacher itself was shown

    def __call__(self, batch: "Batch") -> Taught:
        """Return the teacher's answer, in float32, from the store or from the teacher."""
        if batch.epoch != self.epoch:
            self.flush()
            self._open(batch.epoch)
        rows = batch.rows
        lost = self.have[rows] != self.marks[rows]
        if lost.any():
            logits, pooled = self.live.ask(batch.images[lost.to(batch.images.device)])
            fresh = [logits, *pooled]
            self.tables = self.tables or [torch.zeros(len(self.have), value.shape[1]) for value in fresh]
            for table, value in zip(self.tables, fresh, strict=True):
                table[rows[lost]] = value.cpu()
            self.have[rows[lost]] = self.marks[rows[lost]]
            self.changed = True
            self.asked += int(lost.sum())
        kept = [table[rows].to(batch.images.device) for table in self.tables]
        return Taught(self.live.teacher.choose(kept[0]), tuple(kept[1:]))

    def flush(self) -> None:
        """Write what the current epoch has that its file has not.

        Raises:
            OutputError: the folder cannot be written.
        """
        if not self.changed:
            return
        arrays = {"have": self.have.numpy()} | {f"table.{i}": table.numpy() for i, table in enumerate(self.tables)}
        path = self._path(self.epoch)
        with place_errors(path, "free some space, or run without --replay"):
            beside = fresh(path, "partial")  # a cache: it need not be on the disk
            try:
                save_tensors(beside, arrays, stamp("replay"))
                beside.replace(path)
            finally:
                beside.unlink(missing_ok=True)
        self.changed = False

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04}-{rank()}.safetensors"

    def _open(self, epoch: int) -> None:
        """Read what any process has written of an epoch."""
        self.epoch, self.have, self.tables = epoch, torch.zeros_like(self.marks), []
        for path in sorted(self.folder.glob(f"epoch-{epoch:04}-*.safetensors")):
            try:
                arrays = load_tensors(path)
                tables: dict[str, Any] = {f"table.{i}": ("float32", ("rows", None)) for i in range(len(arrays) - 1)}
                hold(arrays, {"have": ("int64", ("rows",))} | tables, str(path))
            except KfdeployError:  # a damaged file is worth what a missing one is: it is asked anew and replaced
                continue
            found = [torch.from_numpy(arrays[f"table.{i}"]) for i in range(len(arrays) - 1)]
            have = torch.from_numpy(arrays["have"])
            if len(have) > len(self.have):  # another set reached further into the source
                self.have = _longer(self.have, len(have))
                self.tables = [_longer(table, len(have)) for table in self.tables]
            self.tables = self.tables or [torch.zeros(len(self.have), table.shape[1]) for table in found]
            (own,) = torch.nonzero(have, as_tuple=True)
            for table, value in zip(self.tables, found, strict=True):
                table[own] = value[own]
            self.have[own] = have[own]


def _longer(tensor: Tensor, rows: int) -> Tensor:
    return torch.cat([tensor, tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])])


def views_folder(
    root: Path, teacher: "Teacher", image: "ImageSpec", augment: Augment, seed: int, precision: str
) -> Path:
    """Return the folder of exactly these views in `root`: of this teacher, augmentation, seed and precision.

    Which images they are of is told by their checksums.
    """
    found = hashlib.sha256()
    for name, value in sorted(teacher.net.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    about = {
        "augment": augment.model_dump(exclude={"views"}),
        "seed": seed,
        "precision": precision,
        "image": image.to_json(),
    }
    found.update(json.dumps(about, sort_keys=True).encode())
    return root / found.hexdigest()[:16]


def _checksums(data: "ImageSet") -> Tensor:  # → (N,), never 0
    """Return a number for each image, of what it contains."""
    numbers = np.ascontiguousarray(data.contents()).view(np.int64)[:, 0]
    return torch.from_numpy(np.where(numbers == 0, 1, numbers))
