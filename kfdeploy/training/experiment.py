"""What every training starts from: data and their split, the teacher (measured), and a folder to resume in."""

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from kfdeploy.arrays import Arrays, Floats, Labels
from kfdeploy.data.content import Record
from kfdeploy.data.folders import numbered
from kfdeploy.data.imageset import ImageSet
from kfdeploy.data.sources import OPEN_ENDED, has_test, load_split
from kfdeploy.data.splits import SPLIT_SEED, spread
from kfdeploy.errors import DataError, RecipeError, TeacherError
from kfdeploy.files import dump_json, sha256
from kfdeploy.tasks.grouping import confusions, group_classes
from kfdeploy.tasks.spec import CLASS, TaskSpec, class_names, fields_of
from kfdeploy.tasks.spec import columns as names_columns
from kfdeploy.training.learners.classifier import ClassifierLearner
from kfdeploy.training.learners.fields import Coupling, field_losses
from kfdeploy.training.loop.devices import has_bf16, make_fabric, precision_of
from kfdeploy.training.loop.fit import Trainer
from kfdeploy.training.loop.learner import Fitted, Learner
from kfdeploy.training.loop.loader import Loader, make_loader
from kfdeploy.training.loop.processes import world
from kfdeploy.training.loop.progress import Progress, is_main
from kfdeploy.training.loop.replay import Live, Replay, views_folder
from kfdeploy.training.loop.trial import as_set
from kfdeploy.training.nets.answers import class_columns
from kfdeploy.training.nets.build import check_images, describe
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.nets.teacher import Teacher, fill, pretrained
from kfdeploy.training.nets.weights import start_from
from kfdeploy.training.recipe.named import noted_tasks
from kfdeploy.training.recipe.recipe import Recipe
from kfdeploy.training.recipe.sections import Groups, Train
from kfdeploy.writing import write_file

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Experiment:
    """A recipe with its data found and its tasks resolved; images are decoded, and the device opened, when asked for.

    Raises:
        DataError, RecipeError: see `load_split` and `Recipe.task_specs`.
    """

    def __init__(self, recipe: Recipe, report: Progress | None = None) -> None:
        self.recipe = recipe
        self.report = report or Progress()
        self.image = recipe.image.spec()
        plain = self._load("train", {})
        self.folders = plain.classes  # what the classes are called where they lie
        self._whole = plain.called(recipe.data.names, all_there=True)
        if self._whole.note:
            self.report.note(self._whole.note)
        self.data_classes = self._whole.classes  # columns, where there are several fields
        self.tasks = recipe.task_specs(self.data_classes, self._whole.fields, self._whole.ignored)
        self.classes = class_names(self.tasks)  # the columns of every logit here
        self.everything = self.classes  # those of the teacher, also where only some of its tasks are chosen
        self.grouping = isinstance(recipe.tasks, Groups)  # the teacher is to say yet what the tasks are
        _ = self.test  # that it is there is known before anything is decoded or trained
        self._whole.load(spread(len(self._whole), 2))  # so is whether images have the size, or are resized to it
        # Split before classes are chosen or permuted: recipes on the same data then have the same validation images.
        self._split = self._whole.parted(recipe.data.validation, SPLIT_SEED, self.classes)

    @cached_property
    def fabric(self) -> "Fabric":
        """The device, opened when it is asked for: what is wrong with a recipe is said before that.

        Raises:
            DeviceError: see `make_fabric`.
        """
        # The published code's t has no spread: its parameters get no gradient.
        return make_fabric(self.recipe.run, unused=self.recipe.objective.variant == "reference")

    @cached_property
    def record(self) -> Record:
        """What this is made from: every image's name, size, content and class, and whether it is held back."""
        self.report.phase(f"reading {len(self._whole):,} images, to know them by their content")
        self._whole = self._whole.identified()
        return self._whole.record(self._split[1])

    @cached_property
    def train(self) -> ImageSet:
        """The images to train on, of the recipe's classes; decoded where they fit into memory and are seen whole."""
        _ = self.record
        return self._decoded(self._split[0], "training", in_memory=not self.recipe.augment.resized_crop)

    @cached_property
    def validation(self) -> ImageSet:
        """The images held back, of the recipe's classes; decoded where they fit into memory."""
        _ = self.record
        return self._decoded(self._split[1], "validation", in_memory=True)

    def _decoded(self, rows: Labels, what: str, *, in_memory: bool) -> ImageSet:
        chosen = self._whole.take(rows).only(self.classes)
        if not in_memory or self._whole.megabytes > self.recipe.data.stream_above_mb:
            return chosen
        if chosen.images is None:
            self.report.phase(f"decoding {len(chosen):,} {what} images")
        return chosen.in_memory()

    @cached_property
    def test(self) -> ImageSet:
        """The test split; its images are decoded when they are read.

        Raises:
            DataError: it is not there, or lacks a class.
        """
        about, found = self.recipe.data, self._load("test", self.recipe.data.names)
        if lost := [name for name in self.classes if name not in found.classes]:
            raise DataError(
                f"the test split of '{about.root or about.source}' has no class '{lost[0]}', and the train split has",
                allowed=found.classes,
                hint="put a share of its train images there, leave the class out with data.ignore, or move the test "
                "folder away and --set data.test=0.1, which takes a share of the train images of every class",
            )
        return found.only(self.classes)

    def _load(self, split: str, names: str | dict[str, str]) -> ImageSet:
        data = self.recipe.data
        open_ended = data.source in OPEN_ENDED and bool(data.root)
        if data.test and not (open_ended and not has_test(data.source, data.root)):
            raise DataError(
                f"data.test takes a share of the train images for testing, and '{data.root or data.source}' has a test "
                "split of its own",
                hint="set data.test to 0, or move the test split away",
            )
        asked = data.asked(self.recipe.fields_named())
        return load_split(
            data.source, data.root, split, self.image, names=names, test=data.test, download=True, asked=asked
        )

    def loader(self, data: ImageSet, batch: int) -> Loader:
        """Return a loader with the recipe's augmentation and seed."""
        return make_loader(
            data, batch, self.recipe.augment, self.recipe.seed, self.fabric.device, self.recipe.data.stream_above_mb,
            self.recipe.data.workers,
        )  # fmt: skip

    def fit(
        self, learner: Learner, folder: Path, title: str, config: Train, *, teacher: Teacher | None = None, resume: bool
    ) -> Fitted:
        """Train a learner on the experiment's images, in place; see `kfdeploy.training.loop.fit.Trainer.fit`."""
        teach = None if teacher is None else self._teach(teacher)
        trainer = Trainer(config, self.recipe.run, self.fabric, folder, title, teach, self.report)
        return trainer.fit(learner, self.loader(self.train, config.batch), self.validation, resume=resume)

    def _teach(self, teacher: Teacher) -> Live | Replay:
        run, augment = self.recipe.run, self.recipe.augment
        live = Live(teacher, as_set(self.fabric))
        if not run.replay:
            return live
        seed = self.recipe.seed if augment.seed is None else augment.seed
        precision = "bf16-mixed" if has_bf16(self.fabric) else "32-true"
        folder = views_folder(Path(run.replay), teacher, self.image, augment, seed, precision)
        return Replay(live, folder, self.train)

    def seed(self) -> None:
        """Seed torch's global generator, which initialises networks."""
        torch.manual_seed(self.recipe.seed)

    def teacher(
        self, folder: Path, *, resume: bool, known: Arrays | None = None, accuracy: dict[str, float] | None = None
    ) -> tuple[Teacher, dict[str, Any]]:
        """Return the teacher on its device and what is known of it: source, hash of a file, measured accuracy.

        A teacher that the recipe trains is trained in `folder`, or taken from `known` (a finished one's weights).
        Its `accuracy` on validation and test is measured where it is not known either.

        Raises:
            TeacherError: it does not fit, or its accuracy is below the recipe's `min_accuracy`.
        """
        config = self.recipe.teacher
        kind, _, name = config.source.partition(":")
        about: dict[str, Any] = {"source": kind, "min_accuracy": config.min_accuracy}
        if kind == "train":
            teacher = self._trained(folder, resume, known)
            if config.net is not None and config.net.weights:
                about["weights"] = Path(config.net.weights).name
        else:
            teacher = self.published
            about["name"] = Path(name).name
        if file := name if kind in ("file", "onnx") else config.weights:
            about["sha256"] = sha256(Path(file))
        if config.args:
            about["args"] = dict(config.args)
        teacher.to(self.fabric.device).to(memory_format=torch.channels_last)
        teacher = self._as_trained(teacher)
        if accuracy is None:
            count = len(self.validation) + len(self.test)
            self.report.phase(f"measuring the teacher on {count:,} images")
            both = {"validation": self.validation, "test": self.test}
            each = {name: self.accuracies(teacher, data) for name, data in both.items()}
            accuracy = {name: sum(found.values()) / len(found) for name, found in each.items()}
            if self.several:
                taught = self.taught(teacher)
                about["accuracies"] = {f: {name: own[f] for name, own in each.items() if f in own} for f in taught}
        if self.several:
            about["fields"] = self.taught(teacher)
        told = {f" in '{f}'": min(own.values()) for f, own in about.get("accuracies", {}).items() if own}
        where, least = min((told or {"": min(accuracy.values())}).items(), key=lambda found: found[1])
        if least < config.min_accuracy:
            raise TeacherError(
                f"the teacher's accuracy{where} is {least:.4f} (validation {accuracy['validation']:.4f}, "
                f"test {accuracy['test']:.4f}), and the recipe asks for at least {config.min_accuracy:.4f}",
                hint="check teacher.classes, image.mean and image.std, or lower teacher.min_accuracy",
            )
        return teacher, about | {"accuracy": accuracy, "seen_validation": config.source != "train"}

    @cached_property
    def published(self) -> Teacher:
        """The teacher that the recipe takes from elsewhere, on the CPU, run on two black images.

        Raises:
            TeacherError: it cannot be had, or does not fit.
        """
        aliases = dict(zip(self.data_classes, self.folders, strict=True))
        teacher = pretrained(
            self.recipe.teacher, self.image, self.data_classes, self.classes, aliases, self._whole.fields
        )
        check_images(teacher, self.image, f"the teacher '{self.recipe.teacher.source}'")
        return teacher

    def check_teacher(self) -> tuple[int, ...]:
        """Find out that the teacher can be had and takes the images, before one is decoded.

        Returns its stages' channels.

        Raises:
            TeacherError, RecipeError: it cannot, or does not.
        """
        config = self.recipe.teacher
        if config.source != "train":
            taught = self.taught(self.published)
            if lost := [field for field in fields_of(self.tasks) if field not in taught]:
                if not self.recipe.objective.lambda_sup:
                    raise RecipeError(
                        f"the teacher does not answer '{lost[0]}', and objective.lambda_sup is 0: there is nothing to "
                        "learn it from",
                        hint="give lambda_sup a weight, leave the field's tasks out, or say in teacher.classes that it "
                        "is answered",
                    )
                self.report.note(f"the teacher does not answer {', '.join(lost)}: learned from labels alone")
            return self.published.channels
        assert config.net is not None  # the recipe's own validator has checked it
        net = Classifier(config.net, self.image, len(self.classes))
        check_images(net, self.image, f"the teacher {describe(config.net)}")
        start_from(net.backbone, config.net, self.image.channels, f"the teacher {describe(config.net)}")
        return net.backbone.channels

    def _as_trained(self, teacher: Teacher) -> Teacher:
        """Return a published teacher with its columns in the order that it was trained in, of numbers or of letters.

        Folders called 0, 1, 2, …, 10 stand in the order of numbers here, and for many a tool that trained a teacher in
        that of letters: 0, 1, 10, 2.
        """
        config, names = self.recipe.teacher, self.data_classes
        if config.source == "train" or config.classes or not numbered(names) or sorted(names) == list(names):
            return teacher
        other = Teacher(teacher.net, class_columns([(name,) for name in sorted(names)], self.classes), teacher.channels)
        other.to(self.fabric.device).to(memory_format=torch.channels_last)
        before, after = (self.accuracy(which, self.validation) for which in (teacher, other))
        if after <= before:
            self.report.note(
                "the classes are numbers, and the teacher's columns are taken in their order (0, 1, 2, …, 10): it is "
                f"right in {100 * before:.1f} % of the validation images, and by letters (0, 1, 10, …) in "
                f"{100 * after:.1f} %"
            )
            return teacher
        self.report.note(
            "the teacher's columns are taken in the order of letters (0, 1, 10, …), not of numbers (0, 1, 2, …): it "
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
        start_from(net.backbone, config.net, self.image.channels, f"the teacher {describe(config.net)}")
        if known is not None:
            fill(net, {name: torch.from_numpy(value) for name, value in known.items()}, "the pool's teacher")
        else:
            learner = ClassifierLearner(net, smoothing=config.train.label_smoothing, fields=self.losses())
            self.fit(learner, folder, "teacher", config.train, resume=resume)
        return Teacher(net, range(len(self.classes)), net.backbone.channels)

    def slice_teacher(self, teacher: Teacher) -> Teacher:
        """Return the teacher of all the recipe's classes with only the columns of this experiment's."""
        columns = teacher.columns[names_columns(self.everything, self.classes)].tolist()
        return Teacher(teacher.net, columns, teacher.channels).to(self.fabric.device)

    @torch.no_grad()
    def accuracy(self, teacher: Teacher, data: ImageSet) -> float:
        """Return the teacher's accuracy on a set, in float32; of several fields the mean of those that it answers."""
        each = self.accuracies(teacher, data).values()
        return sum(each) / len(each)

    @torch.no_grad()
    def accuracies(self, teacher: Teacher, data: ImageSet) -> dict[str, float]:
        """Return the teacher's accuracy on a set of each field that it answers and some image has, in float32."""
        taught = self.taught(teacher)
        counts = data.right(self.logits(teacher, data)).items()
        found = {field: right / known for field, (right, known) in counts if field in taught and known}
        if not found:
            raise DataError(f"no image has a label in {', '.join(taught)}, to measure the teacher by")
        return found

    @property
    def several(self) -> bool:
        """Whether something else than the class is known of an image."""
        return fields_of(self.tasks).keys() != {CLASS}

    def taught(self, teacher: Teacher) -> list[str]:
        """Return the fields that the teacher answers."""
        return [field for field, columns in fields_of(self.tasks).items() if all(teacher.knows[c] for c in columns)]

    @property
    def couplings(self) -> dict[str, Coupling]:
        """How the tasks of each field are coupled."""
        own = self.recipe.data.fields
        default = self.recipe.objective.coupling
        return {field: (own[field].coupling if field in own else None) or default for field in fields_of(self.tasks)}

    def losses(self, teacher: Teacher | None = None, *, coupled: bool = False) -> nn.ModuleList | None:
        """Return the losses of each field, or None where the class is all that is known of an image.

        With a `teacher` its answers are in them, for the fields that it knows; where they are not `coupled` as the
        recipe has it, the tasks of a field share one softmax.
        """
        if not self.several:
            return None
        fields = fields_of(self.tasks)
        taught = list(fields) if teacher is None else self.taught(teacher)
        return field_losses(self.tasks, self.couplings if coupled else {}, self.recipe.weights(), taught)

    def logits(self, teacher: Teacher, data: ImageSet) -> Floats:  # → (N, C)
        """Return what the teacher answers on a set, in float32."""
        batches = (torch.from_numpy(images).to(self.fabric.device) for images in data.batches())
        return np.concatenate([teacher(images)[0].float().cpu().numpy() for images in batches])

    def only(self, tasks: Sequence[TaskSpec]) -> "Experiment":
        """Return the same experiment on the images and classes of just these tasks."""
        part = copy.copy(self)
        part.tasks, part.classes = tuple(tasks), class_names(tasks)
        for name in ("train", "validation", "test"):
            if name in self.__dict__:  # decoded already
                part.__dict__[name] = self.__dict__[name].only(part.classes)
        return part

    def grouped(self, teacher: Teacher, noted: Path) -> "tuple[Experiment, Teacher]":
        """Return the experiment with the tasks that the teacher's confusions make, where the recipe asks for that.

        They are put on record in the file `noted`, and taken from there where it is.
        """
        if not self.grouping:
            return self, teacher
        assert isinstance(self.recipe.tasks, Groups)
        if noted.is_file():
            tasks = noted_tasks(noted)
        else:
            self.report.phase("asking the teacher which classes it confuses")
            logits = torch.from_numpy(self.logits(teacher, self.validation))
            confused = confusions(torch.softmax(logits, 1).numpy(), self.validation.labels)
            tasks = group_classes(confused, self.classes, self.recipe.tasks.group)
            if is_main():
                write_file(noted, dump_json([task.to_json() for task in tasks]))
        self.report.note("the tasks: " + "; ".join(f"{task.name} ({', '.join(task.classes)})" for task in tasks))
        return self.given(tasks), self.only(tasks).slice_teacher(teacher)

    def given(self, tasks: Sequence[TaskSpec]) -> "Experiment":
        """Return the experiment with tasks that a teacher's confusions have made of all its classes."""
        part = self.only(tasks)
        part.everything, part.grouping = part.classes, False
        return part

    def training(self, config: Train, fitted: Fitted) -> dict[str, Any]:
        """Return the circumstances of a training and its last row of the log; its times are in `timing.csv`."""
        return {
            "epochs": config.epochs,
            "images": len(self.train),
            "device": self.fabric.device.type,
            "precision": precision_of(self.fabric),
            "threads": torch.get_num_threads(),
            "processes": world(),
            "terms": fitted.log[-1] if fitted.log else {},
            "seed": self.recipe.seed,
        }
