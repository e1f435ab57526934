"""Predicting: image files in, classes and probabilities out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kfdeploy.data.folders import images_in
from kfdeploy.data.images import read_images
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.model import Model
from kfdeploy.errors import DataError
from kfdeploy.graph.known import KNOWN
from kfdeploy.manifest import ARTIFACT
from kfdeploy.targets import onnx
from kfdeploy.targets.base import Setup, run_in_batches
from kfdeploy.targets.device.pixels import readable
from kfdeploy.tasks.kinds.classes import shares


@dataclass(frozen=True)
class Prediction:
    """One image: its classes with their probabilities, the likeliest first."""

    path: Path
    classes: tuple[tuple[str, float], ...]
    known: float | None = None  # of an open-set model: below 0 it is none of these


def predict(model: str | Path, images: Sequence[str | Path], *, top: int = 3, threads: int = 1) -> list[Prediction]:
    """Classify image files (or every image of a folder) with an artifact, an assembly or a student.

    Probabilities are the softmax over the model's classes: conditional on "one of these", which a model assembled with
    `open_set` judges too.

    Raises:
        PoolError: there is no such model, or it is not whole.
        DataError: there is no such image, or it does not decode.
    """
    root = Path(model)
    paths = [path for name in images for path in _expand(Path(name))]
    if (root / ARTIFACT).is_file():
        opened: Artifact | Model = Artifact.open(root)
        opened.check()
        session, batch = opened.session(Setup(threads=threads)), opened.batch  # type: ignore[union-attr]
    else:
        opened = Model.open(root)
        opened.check()
        session, batch = onnx.open(opened.path, onnx.Options(), Setup(threads=threads)), 0
    found: list[Prediction] = []
    with session:
        for start in range(0, len(paths), 256):  # a folder may be larger than memory
            piece = paths[start : start + 256]
            outputs = run_in_batches(session, read_images(piece, opened.image), batch)
            margins = outputs.get(KNOWN)
            for i, (path, row) in enumerate(zip(piece, shares(outputs["logits"]), strict=True)):
                order = np.argsort(-row, kind="stable")[:top]
                best = tuple((opened.classes[j], float(row[j])) for j in order)
                found.append(Prediction(path, best, None if margins is None else float(margins[i])))
    return found


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        found, _ = images_in(path)
        if not found:
            raise DataError(f"the folder '{path}' has no images", hint=f"name files ending in {', '.join(readable())}")
        return found
    if not path.is_file():
        raise DataError(f"there is no image at '{path}'")
    return [path]
