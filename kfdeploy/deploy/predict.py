"""Predicting: image files in, classes and probabilities out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.arrays import Arrays, Images
from kfdeploy.data.folders import images_in
from kfdeploy.data.images import read_image, read_images
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.model import Model
from kfdeploy.errors import DataError
from kfdeploy.graph.known import known_beside
from kfdeploy.manifest import ARTIFACT
from kfdeploy.targets import onnx
from kfdeploy.targets.base import Setup, run_in_batches
from kfdeploy.targets.device.pixels import readable
from kfdeploy.tasks.kinds.classes import shares
from kfdeploy.tasks.spec import CLASS, ImageSpec, TaskSpec


@dataclass(frozen=True)
class Answer:
    """What a model says of one field: classes with their probabilities, the likeliest first."""

    classes: tuple[tuple[str, float], ...]
    known: float | None = None  # of an open-set model: below 0 it is none of these

    def to_json(self) -> dict[str, Any]:
        """Return it as kits print it: `{"classes": [{"class", "probability"}, …], "known"}`."""
        own = {} if self.known is None else {"known": round(self.known, 6)}
        return {"classes": [{"class": name, "probability": round(share, 6)} for name, share in self.classes], **own}

    def __str__(self) -> str:
        likely = ", ".join(f"{name} {100 * share:.1f} %" for name, share in self.classes)
        return f"none of these (else {likely})" if self.known is not None and self.known < 0 else likely


@dataclass(frozen=True)
class Prediction:
    """One image: an answer for each field of the model."""

    path: Path
    answers: Mapping[str, Answer]
    error: str = ""  # why it was not classified: it does not decode, or is not there

    @property
    def classes(self) -> tuple[tuple[str, float], ...]:
        """The classes of its only field, or of its first one, with their probabilities."""
        return next((answer.classes for answer in self.answers.values()), ())

    @property
    def known(self) -> float | None:
        """Whether it is of these tasks at all, by its only field, or its first one; see `Answer`."""
        return next((answer.known for answer in self.answers.values()), None)

    def to_json(self) -> dict[str, Any]:
        """Return it as kits print it: `{"image"}` and the answer; of other fields than `class` `answers` by field.

        Or an `error` in their place.
        """
        if self.error:
            return {"image": str(self.path), "error": self.error}
        each = {field: answer.to_json() for field, answer in self.answers.items()}
        return {"image": str(self.path), **(each[CLASS] if list(each) == [CLASS] else {"answers": each})}

    def __str__(self) -> str:
        if list(self.answers) == [CLASS]:
            return str(self.answers[CLASS])
        return "; ".join(f"{field}: {answer}" for field, answer in self.answers.items())


def predict(model: str | Path, images: Sequence[str | Path], *, top: int = 3, threads: int = 1) -> list[Prediction]:
    """Classify image files (or every image of a folder) with an artifact, an assembly or a student, field by field.

    An image that does not decode has an `error`, and the others are classified all the same.

    Probabilities are the softmax over the model's classes of a field: conditional on "one of these", which a model
    assembled with `open_set` judges too.

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
            known: dict[Path, Prediction] = {path: Prediction(path, {}, why) for path, why in broken.items()}
            if good:
                answers = _answers(run_in_batches(session, pixels, batch), opened.tasks, top)
                known |= {path: Prediction(path, answer) for path, answer in zip(good, answers, strict=True)}
            found += [known[path] for path in piece]
    return found


def _answers(outputs: Arrays, tasks: Sequence[TaskSpec], top: int) -> list[dict[str, Answer]]:
    """Return of each image its answers by field, from a model's outputs (N, ·)."""
    each: dict[str, list[Answer]] = {}
    for task in tasks:
        if task.field not in each:
            names = [name for other in tasks if other.field == task.field for name in other.classes]
            margins = outputs.get(known_beside(task.output))
            each[task.field] = [
                Answer(
                    tuple((names[j], float(row[j])) for j in np.argsort(-row, kind="stable")[:top]),
                    None if margins is None else float(margins[i]),
                )
                for i, row in enumerate(shares(outputs[task.output]))
            ]
    return [dict(zip(each, answers, strict=True)) for answers in zip(*each.values(), strict=True)]


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
