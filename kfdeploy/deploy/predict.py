"""Predicting: image files in, classes and probabilities out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.arrays import Images
from kfdeploy.data.folders import images_in
from kfdeploy.data.images import read_image, read_images
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.model import Model
from kfdeploy.errors import DataError
from kfdeploy.graph.known import KNOWN
from kfdeploy.manifest import ARTIFACT
from kfdeploy.targets import onnx
from kfdeploy.targets.base import Setup, run_in_batches
from kfdeploy.targets.device.pixels import readable
from kfdeploy.tasks.kinds.classes import shares
from kfdeploy.tasks.spec import ImageSpec


@dataclass(frozen=True)
class Prediction:
    """One image: its classes with their probabilities, the likeliest first."""

    path: Path
    classes: tuple[tuple[str, float], ...]
    known: float | None = None  # of an open-set model: below 0 it is none of these
    error: str = ""  # why it was not classified: it does not decode, or is not there

    def to_json(self) -> dict[str, Any]:
        """Return it as kits print it: `{"image", "classes": [{"class", "probability"}, …], "known"}`, or an `error`."""
        if self.error:
            return {"image": str(self.path), "error": self.error}
        own = {} if self.known is None else {"known": round(self.known, 6)}
        likely = [{"class": name, "probability": round(share, 6)} for name, share in self.classes]
        return {"image": str(self.path), "classes": likely, **own}


def predict(model: str | Path, images: Sequence[str | Path], *, top: int = 3, threads: int = 1) -> list[Prediction]:
    """Classify image files (or every image of a folder) with an artifact, an assembly or a student.

    An image that does not decode has an `error`, and the others are classified all the same.

    Probabilities are the softmax over the model's classes: conditional on "one of these", which a model assembled with
    `open_set` judges too.

    Raises:
        PoolError: there is no such model, or it is not whole.
        DataError: a folder has no images.
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
            pixels, broken = _read(piece, opened.image)
            good = [path for path in piece if path not in broken]
            known: dict[Path, Prediction] = {path: Prediction(path, (), error=why) for path, why in broken.items()}
            outputs = run_in_batches(session, pixels, batch) if good else {"logits": np.zeros((0, 1), np.float32)}
            margins = outputs.get(KNOWN)
            for i, (path, row) in enumerate(zip(good, shares(outputs["logits"]), strict=True)):
                order = np.argsort(-row, kind="stable")[:top]
                best = tuple((opened.classes[j], float(row[j])) for j in order)
                known[path] = Prediction(path, best, None if margins is None else float(margins[i]))
            found += [known[path] for path in piece]
    return found


def _read(paths: Sequence[Path], image: ImageSpec) -> tuple[Images, dict[Path, str]]:
    """Return the images that decode (N, H, W, C), and of the others why they do not."""
    try:
        return read_images(paths, image), {}
    except DataError:
        broken, good = {}, []
        for path in paths:
            try:
                good.append(read_image(path, image))
            except DataError as error:
                broken[path] = str(error)
        return np.stack(good) if good else np.zeros((0, *image.shape), np.uint8), broken


def _expand(path: Path) -> list[Path]:
    if path.is_dir():
        found, _ = images_in(path)
        if not found:
            raise DataError(f"the folder '{path}' has no images", hint=f"name files ending in {', '.join(readable())}")
        return found
    return [path]
