"""What every training starts from: data and their split, the teacher (measured), and a folder to resume in."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from kfdeploy.data import ImageSet, load_split, stratified
from kfdeploy.data.loader import Loader, make_loader
from kfdeploy.devices import make_fabric, world
from kfdeploy.errors import OutputError, TeacherError, TrainingError
from kfdeploy.files import (
    CHECKPOINTS,
    SCHEMA,
    check_output,
    commit,
    dump_json,
    partial,
    place_errors,
    save_tensors,
    sha256,
    write_file,
)
from kfdeploy.neighbours import SPLIT_SEED
from kfdeploy.nets import Classifier
from kfdeploy.nets.teacher import Teacher, class_columns, fill, pretrained, read_weights
from kfdeploy.pool import Evidence, versions
from kfdeploy.progress import Progress, is_main
from kfdeploy.recipe import Recipe, changed_keys
from kfdeploy.replay import Live, Replay, views_folder
from kfdeploy.sections import Train
from kfdeploy.spec import TaskSpec, class_names
from kfdeploy.train import Fitted, Learner, fit

TEACHER = Path("train") / "teacher"  # in a pool: the teacher, in the form of an assembly, and its weights
WEIGHTS = "state.safetensors"
_NOTED = "recipe.json"  # in an unfinished folder: what it is being made from
LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")


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
        self.data_classes = whole.classes
        self.tasks = recipe.task_specs(whole.classes)
        self.classes = class_names(self.tasks)  # the columns of every logit here
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
        """The test split; its images are decoded when they are read."""
        return load_split(self.recipe.data.source, self.recipe.data.root, "test", self.image).only(self.classes)

    def loader(self, data: ImageSet, batch: int) -> Loader:
        """Return a loader with the recipe's augmentation and seed."""
        return make_loader(
            data, batch, self.recipe.augment, self.recipe.seed, self.fabric.device, self.recipe.data.stream_above_mb
        )

    def fit(
        self, learner: Learner, folder: Path, title: str, config: Train, *, teacher: Teacher | None = None, resume: bool
    ) -> Fitted:
        """Train a learner on the experiment's images, in place; see `kfdeploy.train.fit`."""
        return fit(
            learner,
            self.loader(self.train, config.batch),
            self.validation,
            config,
            self.recipe.run,
            fabric=self.fabric,
            folder=folder,
            title=title,
            teach=None if teacher is None else self._teach(teacher),
            resume=resume,
            report=self.report,
        )

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

    def teacher(self, folder: Path, *, resume: bool, known: Path | None = None) -> tuple[Teacher, dict[str, Any]]:
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

    def _trained(self, folder: Path, resume: bool, known: Path | None) -> Teacher:
        from kfdeploy.distill import ClassifierLearner

        config = self.recipe.teacher
        assert config.net is not None  # the recipe's own validator has checked both
        assert config.train is not None
        self.seed()
        net = Classifier(config.net, self.image, len(self.classes))
        if known is not None and known.is_file():
            fill(net, read_weights(known), str(known))
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
        found = [teacher(images.to(self.fabric.device))[0].argmax(1).cpu().numpy() for images in self._batches(data)]
        return float((np.concatenate(found) == data.labels).mean())

    def golden(self, count: int = 16) -> np.ndarray[Any, Any]:
        """Return the indices of the golden samples: validation images spread over the classes."""
        order = np.argsort(self.validation.labels, kind="stable")
        return np.sort(order[np.linspace(0, len(order) - 1, min(count, len(order))).astype(np.int64)])

    @torch.no_grad()
    def evidence(self, logits: Callable[[Tensor], Tensor]) -> dict[str, np.ndarray[Any, Any]]:
        """Return golden images and logits, validation logits, labels (indices of `classes`) and rows.

        `logits` maps uint8 (N, H, W, C) on the CPU to (N, C).
        """
        values = torch.cat([logits(images) for images in self._batches(self.validation)]).float().numpy()
        golden = self.golden()
        return {
            "golden.images": self.validation.load(golden),
            "golden.logits": values[golden],
            "validation.labels": self.validation.labels,
            "validation.rows": self.validation.rows,
            "validation.logits": values,
        }

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

    @staticmethod
    def _batches(data: ImageSet, size: int = 512) -> Iterator[Tensor]:
        for start in range(0, len(data), size):
            yield torch.from_numpy(data.load(slice(start, start + size)))


class _Logits(nn.Module):
    """image → logits (N, C) alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)[0]
        return logits


def save_state(path: Path, net: nn.Module) -> None:
    """Write a network's weights and buffers."""
    state = {name: value.detach().cpu().numpy() for name, value in net.state_dict().items()}
    save_tensors(path, state, {"schema": SCHEMA, "kind": "state"})


def write_classifier(
    out: Path, net: nn.Module, kind: str, name: str, experiment: Experiment, fields: dict[str, Any]
) -> None:
    """Write a network image → (logits, …) as a student or a teacher, in the form of an assembly, with its weights."""
    from kfdeploy.calibrate import calibrate_model, sample
    from kfdeploy.graphs import export
    from kfdeploy.model import write_model

    net = net.cpu().float().eval()
    save_state(out / WEIGHTS, net.net if isinstance(net, Teacher) else net)
    only_logits = _Logits(net)
    arrays = experiment.evidence(only_logits)
    graph = export(only_logits, torch.zeros(2, *experiment.image.shape, dtype=torch.uint8), ["image"], ["logits"])
    evidence = Evidence(
        arrays["golden.images"],
        arrays["golden.logits"],
        tuple(experiment.classes[i] for i in arrays["validation.labels"]),
        arrays["validation.rows"],
        arrays["validation.logits"],
    )
    fields = fields | {"data": experiment.recipe.data.model_dump(), "versions": versions(*LIBRARIES)}
    write_model(out, graph.model, kind, name, experiment.image, experiment.tasks, evidence, fields)
    calibrate_model(out, sample(experiment.validation))


@contextmanager
def unfinished(out: Path, recipe: Recipe, *, force: bool, resume: bool, replace: bool = False) -> Iterator[Path]:
    """Give the folder beside `out` for training in; it becomes `out` when the block ends well.

    With `replace`, what is at `out` gives way to it, `force` or not.

    It stays for `--resume` when the block fails after a first checkpoint, and vanishes when it fails before.

    Raises:
        OutputError: `out` is there, or an unfinished run is and neither `resume` nor `force` was said.
        TrainingError: the run to resume had another recipe.
    """
    work = partial(out)
    if not is_main():  # one process writes: the others wait until the folder is there, and leave it alone
        dist.barrier()
        yield work
        return
    check_output(out, force=force or replace)
    noted = work / _NOTED
    begun = any(work.rglob(CHECKPOINTS))
    if begun and resume and noted.is_file():
        same_recipe(json.loads(noted.read_text(encoding="utf-8")), recipe, f"'{work}' was begun with another recipe")
    elif begun and not force:
        raise OutputError(f"'{work}' holds an unfinished run", hint="go on with --resume, or start afresh with --force")
    elif work.exists():
        shutil.rmtree(work)
    for torn in work.rglob(".*.partial"):  # what was being written when a run was killed
        torn.unlink()
    try:
        with place_errors(out, "free some space, then go on with --resume"):
            work.mkdir(parents=True, exist_ok=True)
            write_file(noted, dump_json(recipe.model_dump()))
            if world() > 1:
                dist.barrier()
            yield work
            commit(work, out)
    except BaseException:
        if not any(work.rglob(CHECKPOINTS)):
            shutil.rmtree(work, ignore_errors=True)
        raise
    # Only now: while the folder is not in its place, they are what it could be finished from.
    sweep(out)


def sweep(out: Path) -> None:
    """Remove from a finished folder what only an unfinished one needs; a run may have been killed before it did."""
    for spent in (out / _NOTED, *out.rglob(CHECKPOINTS)):
        spent.unlink(missing_ok=True)


# What may change between two sittings: where things are and what is logged, but nothing that is computed.
_MAY_CHANGE = (
    *(f"run.{key}" for key in ("tensorboard", "device", "devices", "threads", "replay", "checkpoint_minutes")),
    "data.root",
    "teacher.min_accuracy",
    "students",
)


def same_recipe(before: Mapping[str, Any], recipe: Recipe, what: str) -> None:
    """Refuse to go on with another recipe.

    Raises:
        TrainingError: with the keys that differ.
    """
    after = json.loads(json.dumps(recipe.model_dump()))
    if changed := [key for key in changed_keys(before, after) if key not in _MAY_CHANGE]:
        raise TrainingError(
            f"{what}; these keys differ: {', '.join(changed)}", hint="set them back, or start afresh with --force"
        )
