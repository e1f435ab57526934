"""What every training starts from: data and their split, the teacher (measured), and a folder to resume in."""

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kfdeploy.arrays import Arrays
from kfdeploy.data.imageset import ImageSet, stratified
from kfdeploy.data.sources import load_split
from kfdeploy.data.splits import SPLIT_SEED
from kfdeploy.errors import DataError, TeacherError
from kfdeploy.files import sha256
from kfdeploy.tasks.spec import TaskSpec, class_names
from kfdeploy.training.learners.classifier import ClassifierLearner
from kfdeploy.training.loop.devices import make_fabric
from kfdeploy.training.loop.fit import Trainer
from kfdeploy.training.loop.learner import Fitted, Learner
from kfdeploy.training.loop.loader import Loader, make_loader
from kfdeploy.training.loop.processes import world
from kfdeploy.training.loop.progress import Progress
from kfdeploy.training.loop.replay import Live, Replay, views_folder
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.nets.teacher import Teacher, class_columns, fill, pretrained
from kfdeploy.training.recipe.recipe import Recipe
from kfdeploy.training.recipe.sections import Train


class Experiment:
    """A recipe with its data decoded, its tasks resolved and its device opened.

    Raises:
        DataError, RecipeError, DeviceError: see `load_split`, `Recipe.task_specs` and `make_fabric`.
    """

    def __init__(self, recipe: Recipe, report: Progress | None = None) -> None:
        self.recipe = recipe
        self.report = report or Progress()
        # The published code's t has no spread: its parameters get no gradient.
        self.fabric = make_fabric(recipe.run, unused=recipe.objective.variant == "reference")
        self.image = recipe.image.spec()
        whole = load_split(recipe.data.source, recipe.data.root, "train", self.image)
        if whole.note:
            self.report.note(whole.note)
        self.data_classes = whole.classes
        self.tasks = recipe.task_specs(whole.classes)
        self.classes = class_names(self.tasks)  # the columns of every logit here
        _ = self.test  # that it is there is known before anything is decoded or trained
        # Split before classes are chosen or permuted: recipes on the same data then have the same validation images.
        train, validation = stratified(whole.labels, recipe.data.validation, SPLIT_SEED, whole.classes, self.classes)
        self.train = whole.take(train).only(self.classes)
        self.validation = whole.take(validation).only(self.classes)
        if whole.megabytes <= recipe.data.stream_above_mb:
            self.validation = self.validation.in_memory()
            if not recipe.augment.resized_crop:
                self.train = self.train.in_memory()

    @cached_property
    def test(self) -> ImageSet:
        """The test split; its images are decoded when they are read.

        Raises:
            DataError: it is not there, or lacks a class.
        """
        about = self.recipe.data
        found = load_split(about.source, about.root, "test", self.image)
        if lost := [name for name in self.classes if name not in found.classes]:
            raise DataError(
                f"the test split of '{about.root or about.source}' has no class '{lost[0]}', and the train split has",
                allowed=found.classes,
                hint="put a share of its train images there, or leave the class out with data.ignore",
            )
        return found.only(self.classes)

    def loader(self, data: ImageSet, batch: int) -> Loader:
        """Return a loader with the recipe's augmentation and seed."""
        return make_loader(
            data, batch, self.recipe.augment, self.recipe.seed, self.fabric.device, self.recipe.data.stream_above_mb
        )

    def fit(
        self, learner: Learner, folder: Path, title: str, config: Train, *, teacher: Teacher | None = None, resume: bool
    ) -> Fitted:
        """Train a learner on the experiment's images, in place; see `kfdeploy.training.loop.fit.Trainer.fit`."""
        teach = None if teacher is None else self._teach(teacher)
        trainer = Trainer(config, self.recipe.run, self.fabric, folder, title, teach, self.report)
        return trainer.fit(learner, self.loader(self.train, config.batch), self.validation, resume=resume)

    def _teach(self, teacher: Teacher) -> Live | Replay:
        run, augment = self.recipe.run, self.recipe.augment
        live = Live(teacher, self.fabric.autocast)
        if not run.replay:
            return live
        seed = self.recipe.seed if augment.seed is None else augment.seed
        precision = str(self.fabric._precision.precision)
        folder = views_folder(Path(run.replay), teacher, self.image, augment, seed, precision)
        return Replay(live, folder, self.train)

    def seed(self) -> None:
        """Seed torch's global generator, which initialises networks."""
        torch.manual_seed(self.recipe.seed)

    def teacher(self, folder: Path, *, resume: bool, known: Arrays | None = None) -> tuple[Teacher, dict[str, Any]]:
        """Return the teacher on its device and what is known of it: source, hash of a file, measured accuracy.

        A teacher that the recipe trains is trained in `folder`, or taken from `known` (a finished one's weights).

        Raises:
            TeacherError: it does not fit, or its accuracy is below the recipe's `min_accuracy`.
        """
        config = self.recipe.teacher
        about: dict[str, Any] = {"source": config.source.partition(":")[0], "min_accuracy": config.min_accuracy}
        if config.source == "train":
            teacher = self._trained(folder, resume, known)
        else:
            teacher = pretrained(config, self.image, self.data_classes, self.classes)
            about["name"] = Path(config.source.partition(":")[2]).name
        if config.source.startswith("file:"):
            about["sha256"] = sha256(Path(config.source.removeprefix("file:")))
        teacher.to(self.fabric.device).to(memory_format=torch.channels_last)
        teacher = self._in_natural_order(teacher)
        accuracy = {
            name: self.accuracy(teacher, data) for name, data in (("validation", self.validation), ("test", self.test))
        }
        if min(accuracy.values()) < config.min_accuracy:
            raise TeacherError(
                f"the teacher's accuracy is {min(accuracy.values()):.4f} (validation {accuracy['validation']:.4f}, "
                f"test {accuracy['test']:.4f}), and the recipe asks for at least {config.min_accuracy:.4f}",
                hint="check teacher.classes, image.mean and image.std, or lower teacher.min_accuracy",
            )
        return teacher, about | {"accuracy": accuracy, "seen_validation": config.source != "train"}

    def _in_natural_order(self, teacher: Teacher) -> Teacher:
        """Return a published teacher with its columns in the order of numbers, where that is what it was trained in.

        Folders called 0, 1, 10, 2 stand in the order of letters, and a teacher's columns often in that of numbers.
        """
        config, names = self.recipe.teacher, self.data_classes
        if config.source == "train" or config.classes or not all(name.isascii() and name.isdigit() for name in names):
            return teacher
        natural = sorted(names, key=int)
        if natural == list(names):
            return teacher
        other = Teacher(teacher.net, class_columns(natural, self.classes), teacher.channels)
        other.to(self.fabric.device).to(memory_format=torch.channels_last)
        before, after = (self.accuracy(which, self.validation) for which in (teacher, other))
        if after <= before:
            return teacher
        self.report.note(
            "the teacher's columns are taken in the order of numbers (0, 1, 2, …, 10), not of names (0, 1, 10, …): it "
            f"is right in {100 * after:.1f} % of the validation images, and else in {100 * before:.1f} %; to say it "
            "yourself, set teacher.classes"
        )
        return other

    def _trained(self, folder: Path, resume: bool, known: Arrays | None) -> Teacher:
        config = self.recipe.teacher
        assert config.net is not None  # the recipe's own validator has checked both
        assert config.train is not None
        self.seed()
        net = Classifier(config.net, self.image, len(self.classes))
        if known is not None:
            fill(net, {name: torch.from_numpy(value) for name, value in known.items()}, "the pool's teacher")
        else:
            learner = ClassifierLearner(net, smoothing=config.train.label_smoothing)
            self.fit(learner, folder, "teacher", config.train, resume=resume)
        return Teacher(net, range(len(self.classes)), net.backbone.channels)

    def slice_teacher(self, teacher: Teacher) -> Teacher:
        """Return the teacher of all the recipe's classes with only the columns of this experiment's."""
        everything = class_names(self.recipe.task_specs(self.data_classes))
        columns = teacher.columns[class_columns(everything, self.classes)].tolist()
        return Teacher(teacher.net, columns, teacher.channels).to(self.fabric.device)

    @torch.no_grad()
    def accuracy(self, teacher: Teacher, data: ImageSet) -> float:
        """Return the teacher's accuracy on a set, in float32."""
        batches = (torch.from_numpy(images).to(self.fabric.device) for images in data.batches(512))
        found = [teacher(images)[0].argmax(1).cpu().numpy() for images in batches]
        return float((np.concatenate(found) == data.labels).mean())

    def only(self, tasks: Sequence[TaskSpec]) -> "Experiment":
        """Return the same experiment on the images and classes of just these tasks."""
        part = copy.copy(self)
        part.tasks, part.classes = tuple(tasks), class_names(tuple(tasks))
        part.train, part.validation = self.train.only(part.classes), self.validation.only(part.classes)
        return part

    def training(self, config: Train, fitted: Fitted) -> dict[str, Any]:
        """Return the circumstances of a training and its last row of the log; its times are in `timing.csv`."""
        return {
            "epochs": config.epochs,
            "images": len(self.train),
            "device": self.fabric.device.type,
            "precision": self.fabric._precision.precision,
            "threads": torch.get_num_threads(),
            "processes": world(),
            "terms": fitted.log[-1] if fitted.log else {},
            "seed": self.recipe.seed,
        }
