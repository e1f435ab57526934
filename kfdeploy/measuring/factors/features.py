"""The features of a pool's factors, and of networks beside it, on images, by ONNX Runtime."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.arrays import Floats
from kfdeploy.data.imageset import ImageSet
from kfdeploy.deploy.model import Model
from kfdeploy.errors import UnsupportedError
from kfdeploy.graph.embedding import embedding
from kfdeploy.graph.reference import Runner
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.spec import outputs_of

COMMON = "common network"


def features(pool: Pool, images: ImageSet, batch: int = 250) -> dict[str, Floats]:
    """Return every factor's pooled features (N, d) and (N, D), by name; the common network's under `COMMON`."""
    import onnx

    common, template = pool.graphs()
    parts = [pool.part(task) for task in pool.tasks]
    runs = {COMMON: Runner(common, ("z", "tap"))}
    for part in parts:
        own = onnx.ModelProto()
        own.CopyFrom(template)
        for initializer in own.graph.initializer:
            if initializer.name in part.weights:
                initializer.CopyFrom(onnx.numpy_helper.from_array(part.weights[initializer.name], initializer.name))
        runs[part.name] = Runner(own, ("u",))
    found: dict[str, list[Any]] = {name: [] for name in runs}
    for start in range(0, len(images), batch):
        common_out = runs[COMMON](images.load(slice(start, start + batch)))
        found[COMMON].append(common_out["z"][:, :, 0, 0])
        for part in parts:
            found[part.name].append(runs[part.name](common_out["tap"])["u"][:, :, 0, 0])
    return {name: np.concatenate(rows).astype(np.float64) for name, rows in found.items()}


@dataclass(frozen=True)
class Beside:
    """A student or a teacher beside a pool: what its last linear layers read are its features."""

    model: Model
    tensors: tuple[str, ...]  # one; of networks side by side, one each

    @property
    def name(self) -> str:
        """What it is called among the factors."""
        return self.model.name if self.model.name == self.model.kind else f"{self.model.kind} {self.model.name}"

    @classmethod
    def open(cls, path: str | Path, pool: Pool) -> "Beside":
        """Open it, and find the tensors.

        Raises:
            PoolError: it is not there, or not whole.
            UnsupportedError: it is an assembly, reads other images than the pool, or has no last linear layer.
        """
        model = Model.open(path)
        if model.parts is not None:
            raise UnsupportedError(
                f"'{path}' is an assembly: its networks are the pool's, which are inspected already",
                hint="--beside names students and teachers",
            )
        read = [(s.size, s.channels, s.resize, s.interpolation) for s in (model.image, pool.image)]
        if read[0] != read[1]:
            raise UnsupportedError(
                f"'{path}' reads images of {model.image.shape} and pool '{pool.where}' of {pool.image.shape}, or they "
                "are resized otherwise: features of other images do not compare",
                hint="name a model that was trained with the pool's recipe",
            )
        return cls(model, tuple(embedding(model.load(), outputs_of(model.tasks), f"'{path}'")))

    def features(self, images: ImageSet, batch: int = 250) -> list[Floats]:
        """Return what each of its last linear layers reads (N, d), maps as their mean over all places."""
        run = Runner(self.model.load(), self.tensors)
        batch = min(batch, run.at_once)
        found: dict[str, list[Any]] = {name: [] for name in self.tensors}
        for start in range(0, len(images), batch):
            for name, values in run(images.load(slice(start, start + batch))).items():
                found[name].append(values.mean(tuple(range(2, values.ndim))) if values.ndim > 2 else values)
        return [np.concatenate(rows).astype(np.float64) for rows in found.values()]


def open_beside(paths: Sequence[str | Path], pool: Pool) -> list[Beside]:
    """Open the models beside a pool, each of which needs a name of its own.

    Raises:
        PoolError, UnsupportedError: as `Beside.open`; or two have one name, or a task's.
    """
    found = [Beside.open(path, pool) for path in paths]
    taken = {COMMON, *(task.name for task in pool.tasks)}
    for path, each in zip(paths, found, strict=True):
        if each.name in taken:
            raise UnsupportedError(
                f"'{path}' is called '{each.name}', and so is another network of this inspection",
                hint="name each model once",
            )
        taken.add(each.name)
    return found
