"""Growing a pool: one more task, its TSN and head alone, while everything that is there stays as it is, to the byte."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kfdeploy.data.imageset import ImageSet
from kfdeploy.data.splits import load
from kfdeploy.errors import DataError, PoolError, TaskError, TeacherError, nearest
from kfdeploy.files import file_name
from kfdeploy.manifest import POOL, TRAINING
from kfdeploy.outputs import check_output
from kfdeploy.places import shipped_data
from kfdeploy.pool.pool import Pool
from kfdeploy.pool.remote.locate import local_folder
from kfdeploy.tasks.spec import CLASS, TaskSpec, class_names, field_fault, fields_of
from kfdeploy.training.grow.images import Known, known_images, one_field, split_new, together, union
from kfdeploy.training.grow.write import write_grown
from kfdeploy.training.learners.added import AddedTask, Frozen
from kfdeploy.training.loop.devices import make_fabric
from kfdeploy.training.loop.fit import Trainer
from kfdeploy.training.loop.learner import Fitted
from kfdeploy.training.loop.loader import make_loader
from kfdeploy.training.loop.progress import Progress, is_main
from kfdeploy.training.loop.replay import Live
from kfdeploy.training.loop.resume import sweep, unfinished
from kfdeploy.training.loop.trial import as_set
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.nets.teacher import Teacher, pretrained
from kfdeploy.training.recipe.recipe import Recipe, apply_settings, parse_recipe
from kfdeploy.training.writing.classifier import TEACHER, WEIGHTS


def add_task(
    pool: Pool | str | Path,
    name: str,
    *,
    data: str | Path,
    classes: Sequence[str] = (),
    instead_of: Sequence[str] = (),
    field: str = "",
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    force: bool = False,
    resume: bool = False,
    wait: bool = False,
    report: Progress | None = None,
) -> Fitted:
    """Train one TSN and head for `classes`, and write the pool with it to `out` (default: in the pool's place).

    `data` is a folder with `train/<class>/`; `classes` are by default those in it that the pool does not know. The
    classes of the pool are what the new ones are told from: their images are those the pool was made with, or lie in
    `data` too. `instead_of` are classes that the new ones divide more finely: their images and logits are left out of
    training. `settings` change the pool's recipe, such as `train.epochs=4`. Every file of every other task stays
    byte-identical.

    Where `data` has several labels an image, the task is the `field` of them (default: the one called as the task),
    which the pool does not have yet: it is told from nothing, and needs no images but its own.

    Raises:
        TaskError: the task is already there, or a class of it is, or none is new; or a class is to be added to a field
            of several.
        DataError: a class has no images, or none of the pool's classes has.
        PoolError: the pool is not whole, or cannot be written to.
        OutputError: `out` is there and `force` is not set.
        TrainingError, Interrupted: see `kfdeploy.training.loop.fit.Trainer.fit`.
    """
    # Long because everything that can be refused is refused before the first step.
    pool = pool if isinstance(pool, Pool) else Pool.open(local_folder(pool, "adding a task"))
    report = report or Progress()
    pool.check([name for name in pool.files if not name.startswith(TRAINING)])
    place = pool.path if out is None else Path(out)
    if out is not None:
        check_output(place, force=force)
    recipe = parse_recipe(apply_settings(pool.recipe, settings), str(pool.path / POOL))
    fresh, field = one_field(load(pool.data, "train", pool.image, data), field, name)
    if field not in (name, CLASS):
        report.note(f"task '{name}' is the field '{field}' of the data")
    alone = _stands_alone(pool, field)
    task = _new_task(pool, name, field, fresh.classes, classes, instead_of)
    rest = class_names(pool.tasks)
    kept = [] if alone else [i for i, c in enumerate(rest) if c not in instead_of]
    names = [rest[i] for i in kept]
    known, beside, mine = _images(pool, fresh, task, names, recipe.data.validation, report)
    train, validation = (mine.train, mine.validation) if alone else together([*known, *beside], mine, names)
    if alone:  # with nothing to be coupled with
        recipe = recipe.model_copy(update={"objective": recipe.objective.model_copy(update={"coupling": "joint"})})
    fabric = make_fabric(recipe.run)
    learner = _learner(pool, recipe, task, kept)
    teacher = None if alone else _teacher(pool, recipe, [*names, *task.classes], report)
    teach = None if teacher is None else Live(teacher.to(fabric.device), as_set(fabric))
    # What the work is begun from: the recipe alone would not tell two tasks apart.
    about = recipe.model_copy(update={"name": f"{recipe.name}-add-{file_name(name)[:40]}"})
    log = f"train/added-{file_name(name)}"
    seen = union([train, validation], train.classes)
    made_from = seen.record(np.arange(len(train), len(seen)))
    with unfinished(place, about, made_from, force=force, resume=resume, replace=True, log=log, wait=wait) as work:
        loader = make_loader(
            train, recipe.train.batch, recipe.augment, recipe.seed, fabric.device, recipe.data.stream_above_mb,
            recipe.data.workers,
        )  # fmt: skip
        _require_same(pool)
        trainer = Trainer(recipe.train, recipe.run, fabric, work / log, name, teach, report)
        fitted = trainer.fit(learner, loader, validation, resume=resume)
        if is_main():
            extra = {
                "data": shipped_data({"source": "folder", "root": str(data)}, made_from.about()["sha256"]),
                "instead_of": list(instead_of),
                "teacher": teacher is not None,
                "images": made_from.about(),
                "training": {"epochs": recipe.train.epochs, "images": len(train), "terms": fitted.log[-1]},
            }
            write_grown(work, pool, learner.cpu().float().eval(), recipe, task, known, [*beside, mine], extra)
    sweep(place)
    return fitted


def _require_same(pool: Pool) -> None:
    """Refuse a pool that another process has changed since it was opened; it is held by now.

    Raises:
        PoolError: as above.
    """
    if Pool.open(pool.path).sha256 != pool.sha256:
        raise PoolError(f"'{pool.path}' was changed by another process meanwhile", hint="try again")


def _learner(pool: Pool, recipe: Recipe, task: TaskSpec, kept: Sequence[int]) -> AddedTask:
    frozen = Frozen(pool, torch.get_num_threads())
    torch.manual_seed(recipe.seed)
    net = FactorNet(recipe.ckn, recipe.tsn, pool.image, [task])
    return AddedTask(net, frozen, kept, recipe.objective, recipe.seed)


def _images(
    pool: Pool, fresh: ImageSet, task: TaskSpec, names: Sequence[str], share: float, report: Progress
) -> tuple[list[Known], list[Known], Known]:
    """Return the images that the pool was made with, those of its classes in the new folder, and the new task's."""
    known = known_images(pool, report)
    # Classes of the pool that lie in the new folder, where their own data are gone.
    lost = [c for c in names if c in fresh.classes and not any(c in each.classes for each in known)]
    return known, [split_new(fresh, lost, share)] if lost else [], split_new(fresh, task.classes, share)


def _stands_alone(pool: Pool, field: str) -> bool:
    """Return whether the pool lacks the new task's field, so that the task is told from none of its tasks.

    Raises:
        TaskError: it has it among others.
    """
    fields = fields_of(pool.tasks)
    if field in fields and fields.keys() != {CLASS}:
        raise TaskError(
            f"the field '{field}' is in pool '{pool.where}', beside others, and classes are not added to a field of "
            "several yet",
            hint="add a field that it lacks, or factorize again with these classes",
        )
    return field not in fields


def _new_task(
    pool: Pool, name: str, field: str, there: Sequence[str], classes: Sequence[str], instead_of: Sequence[str]
) -> TaskSpec:
    owner = {c: task.name for task in pool.tasks if task.field == field for c in task.classes}
    if why := field_fault(field):
        raise TaskError(f"{why}", hint="call the column otherwise")
    if not name.strip():
        raise TaskError("the task has no name", hint="--add-task fish")
    if name in {task.name for task in pool.tasks}:
        raise TaskError(
            f"task '{name}' is already in pool '{pool.where}'", hint="kfdeploy pool remove, or another name"
        )
    for each in instead_of:
        if each not in owner:
            raise TaskError(
                f"--instead-of names '{each}', which pool '{pool.where}' does not have",
                allowed=owner, hint=nearest(each, list(owner)),
            )  # fmt: skip
    chosen = list(classes) or [c for c in there if c not in owner]
    if not chosen:
        raise TaskError(f"every class in the data is one of pool '{pool.where}' already: {', '.join(there)}")
    for i, each in enumerate(chosen):
        if each not in there:
            raise DataError(f"the data have no class '{each}'", allowed=there, hint=nearest(each, there))
        if each in owner:
            raise TaskError(
                f"class '{each}' is task '{owner[each]}' of pool '{pool.where}' already",
                hint="give a finer class a name of its own",
            )
        if each in chosen[:i]:
            raise TaskError(f"class '{each}' is named twice", hint="name each class once")
    return TaskSpec(name, tuple(chosen), field=field)


def _teacher(pool: Pool, recipe: Recipe, classes: Sequence[str], report: Progress) -> Teacher | None:
    """Return the pool's teacher where it is at hand and knows all of these classes."""
    config = recipe.teacher
    if (config.source == "train" or config.net is None) and not config.classes:
        report.note("the teacher knows the pool's own classes alone: labels are used")
        return None
    weights = pool.path / TEACHER / WEIGHTS
    if weights.is_file() and config.net is not None:
        config = config.model_copy(update={"source": f"file:{weights}"})
    elif weights.is_file() and config.source.startswith("timm:"):
        config = config.model_copy(update={"weights": str(weights)})  # it is asked for once, and not downloaded again
    try:
        everything = [] if config.classes else list(load(pool.data, "train", pool.image).classes)
        return pretrained(config, pool.image, everything, classes)
    except (DataError, TeacherError) as error:
        report.note(f"the teacher is left out, and labels are used: {error}")
        return None
