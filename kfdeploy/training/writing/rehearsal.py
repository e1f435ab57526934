"""The whole line once before the first step: untrained networks and two images become a pool, a student, a teacher.

What cannot be exported, folded, banked, observed, named or written is found in seconds, and not after hours.
"""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from kfdeploy.data.imageset import ImageSet
from kfdeploy.errors import ParityError
from kfdeploy.tasks.spec import CLASS, fields_of
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.learners.factor import FactorLearner
from kfdeploy.training.loop.learner import Fitted
from kfdeploy.training.writing.classifier import write_classifier
from kfdeploy.training.writing.pool import write_pool
from kfdeploy.writing import place_errors, place_of


def rehearse_pool(experiment: Experiment, learner: FactorLearner, out: Path) -> None:
    """Write a pool of untrained networks to a folder that vanishes, on the disk of `out`.

    Raises:
        KfdeployError: what writing the trained pool would raise, but for numbers that are off.
    """
    with _rehearsal(experiment, out) as (part, work):
        work.mkdir()
        write_pool(work, learner, part, {"accuracy": {"validation": 0.0, "test": 0.0}}, Fitted())


def rehearse_classifier(experiment: Experiment, net: nn.Module, name: str, out: Path) -> None:
    """Write an untrained student or teacher to a folder that vanishes, on the disk of `out`.

    Raises:
        KfdeployError: what writing the trained one would raise, but for numbers that are off.
    """
    with _rehearsal(experiment, out) as (part, work):
        write_classifier(work, net, "student", name, part, {})


@contextmanager
def _rehearsal(experiment: Experiment, out: Path) -> Iterator[tuple[Experiment, Path]]:
    # Untrained normalisation lets numbers grow without bounds; those of the trained network are proved later.
    with (
        place_errors(out, "choose another --out"),
        tempfile.TemporaryDirectory(dir=place_of(out), prefix=".kfdeploy-") as folder,
        suppress(ParityError),
    ):
        yield _small(experiment), Path(folder) / out.name


def _small(experiment: Experiment) -> Experiment:
    """Return the experiment with two images of noise in place of all."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (2, *experiment.image.shape), dtype=np.uint8)
    labels, fields = np.array([0, len(experiment.classes) - 1], dtype=np.int64), fields_of(experiment.tasks)
    owners: tuple[str, ...] = ()
    if fields.keys() != {CLASS}:
        labels = np.array([[columns[0] for columns in fields.values()], [columns[-1] for columns in fields.values()]])
        owners = tuple(task.field for task in experiment.tasks for _ in task.classes)
    few = ImageSet(experiment.classes, labels, np.arange(2), experiment.image, pixels, fields=owners)
    part = copy.copy(experiment)
    shown: dict[str, Any] = {"train": few, "validation": few, "test": few, "record": few.record([0, 1])}
    part.__dict__.update(shown)  # what would else be decoded when it is asked for
    return part
