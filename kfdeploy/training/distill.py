"""Distillation: a recipe's full students, or a student for just some tasks, in the form of an assembly."""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfdeploy.arrays import Arrays
from kfdeploy.deploy.model import Model
from kfdeploy.errors import KfdeployError, RecipeError, nearest
from kfdeploy.files import file_name, sha256
from kfdeploy.outputs import check_output
from kfdeploy.places import shipped_recipe
from kfdeploy.tasks.spec import TaskSpec, choose, fields_of, together
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.learners.classifier import ClassifierLearner
from kfdeploy.training.loop.learner import Fitted
from kfdeploy.training.loop.progress import Progress, is_main
from kfdeploy.training.loop.resume import same_recipe, sweep, unfinished
from kfdeploy.training.nets.build import check_images, describe
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.nets.weights import start_from
from kfdeploy.training.recipe.recipe import Recipe, changed_keys, completed
from kfdeploy.training.recipe.sections import Groups, Student
from kfdeploy.training.writing.classifier import TEACHER, WEIGHTS, write_classifier
from kfdeploy.training.writing.rehearsal import rehearse_classifier

if TYPE_CHECKING:
    from kfdeploy.pool.pool import Pool
    from kfdeploy.training.nets.teacher import Teacher


def distill(
    recipe: Recipe,
    *,
    students: Sequence[str] = (),
    tasks: Sequence[str] = (),
    separate: bool = False,
    pool: str | Path | None = None,
    out: Path = Path("students"),
    force: bool = False,
    resume: bool = False,
    wait: bool = False,
    report: Progress | None = None,
) -> dict[Path, Fitted | None]:
    """Distil the recipe's students (or only the named ones) into `out/<name>`, each an assembly's twin.

    With `tasks`, each is distilled for just those tasks' classes, on their images alone, into
    `out/<name>-<task>-<task>…`. With `separate`, one network is distilled for each task, its classes against all
    others, and they stand side by side in one graph: `out/<name>-separate-<task>…`. A teacher that the recipe trains is
    taken from `pool` where that has the same. With `resume`, a student that is already there is checked and left
    (None).

    Raises:
        RecipeError: no student has that name, or the tasks have one class in all, or `separate` and only one task.
        OutputError: a student is already there.
        TaskError: a task is not the recipe's.
    """
    named = _named(recipe, students)
    experiment = _with_tasks(Experiment(recipe, report), pool, needed=bool(tasks) or separate)
    chosen = together(choose(experiment.tasks, tasks, f"recipe '{recipe.name}'")) if tasks else experiment.tasks
    suffix = "-separate" if separate else ""
    suffix += "".join(f"-{file_name(task.name)}" for task in chosen) if tasks else ""
    wanted = {out / f"{s.name}{suffix}": s for s in named}
    _check(chosen, wanted, separate=separate, resume=resume, force=force)
    _rehearse(experiment, chosen, wanted)
    done: dict[Path, Fitted | None] = {}
    taught: tuple[Teacher, dict[str, Any]] | None = None
    for folder, student in wanted.items():
        alone = recipe.model_copy(update={"students": [student]})
        if resume and folder.exists():
            finished = Model.open(folder)
            same_recipe(finished.recipe, alone, f"'{folder}' was made with another recipe")
            finished.check()
            sweep(folder)
            done[folder] = None
            continue
        with unfinished(folder, alone, experiment.record, force=force, resume=resume, wait=wait) as work:
            own = work / "train" / "teacher"
            if taught is None:
                grouping = experiment.grouping
                experiment, taught = _taught(experiment, pool, own, resume)
                chosen = experiment.tasks if grouping else chosen
            if separate:
                from kfdeploy.training.separate import distill_separately

                done[folder] = distill_separately(experiment, taught, student, chosen, work, folder.name, resume=resume)
            else:
                done[folder] = _distill(experiment.only(chosen), taught, student, work, folder.name, resume)
            if is_main():
                shutil.rmtree(own, ignore_errors=True)
    return done


def _with_tasks(experiment: Experiment, pool: str | Path | None, *, needed: bool) -> Experiment:
    """Return the experiment with the tasks of the pool, where the teacher's confusions made them there.

    Raises:
        RecipeError: they are `needed`, and there is no pool that has them.
        PoolError, StoreError: the pool that was named cannot be opened.
    """
    if not experiment.grouping:
        return experiment
    assert isinstance(experiment.recipe.tasks, Groups)
    from kfdeploy.pool.pool import Pool

    found = None if pool is None else Pool.open(pool)
    if found is not None and found.recipe.get("tasks") == experiment.recipe.tasks.model_dump():
        return experiment.given(found.tasks)
    if needed:
        raise RecipeError(
            f"the tasks of recipe '{experiment.recipe.name}' are made by `kfdeploy factorize`, from the teacher's "
            "confusions" + ("" if found is None else f", and the pool '{found.where}' is another recipe's"),
            hint="name the pool that it wrote: --pool",
        )
    return experiment


def _rehearse(experiment: Experiment, tasks: Sequence[TaskSpec], wanted: Mapping[Path, Student]) -> None:
    """Find out that the whole line works, before an image is decoded."""
    experiment.check_teacher()
    _ = experiment.fabric  # a device that is not there is missed now
    part = experiment.only(tasks)
    for folder, student in wanted.items():
        net, _ = _student(part, student)
        check_images(net, experiment.image, f"student '{student.name}', {describe(student.net)},")
        experiment.report.phase(f"rehearsing: an untrained '{student.name}' is written and read")
        rehearse_classifier(part, net, folder.name, folder)


def _named(recipe: Recipe, students: Sequence[str]) -> list[Student]:
    """Return the recipe's students of these names, or all of them."""
    known = [student.name for student in recipe.students]
    for name in students:
        if name not in known:
            raise RecipeError(
                f"recipe '{recipe.name}' has no student '{name}'", allowed=known, hint=nearest(name, known)
            )
    if not known:
        raise RecipeError(f"recipe '{recipe.name}' has no students", hint="add a section [[students]] to it")
    return [student for student in recipe.students if student.name in (students or known)]


def _check(chosen: Sequence[TaskSpec], wanted: Iterable[Path], *, separate: bool, resume: bool, force: bool) -> None:
    """Refuse tasks with nothing to tell apart, and a place that is taken: before hours of training, not after."""
    fields = fields_of(chosen)
    if lone := next((field for field, columns in fields.items() if len(columns) < 2), None):
        task = next(task for task in chosen if task.field == lone)
        among = f" among those of '{lone}'" if len(fields) > 1 else ""
        raise RecipeError(
            f"the task '{task.name}' is one class: a student for it alone{among} has nothing to tell apart",
            hint="name more tasks" + (f" of the field '{lone}', or leave this one out" if among else ""),
        )
    if separate and len(chosen) < 2:
        raise RecipeError(f"there is one task, '{chosen[0].name}': nothing to separate", hint="leave --separate out")
    for folder in wanted:
        if not (resume and folder.exists()):
            check_output(folder, force=force)


def _taught(
    experiment: Experiment, pool: str | Path | None, own: Path, resume: bool
) -> "tuple[Experiment, tuple[Teacher, dict[str, Any]]]":
    """Return the teacher and what is known of it, and the experiment with the tasks that it makes, if it is to."""
    recipe = experiment.recipe
    same = _same_teacher(pool, recipe, experiment)
    seen = None if same is None else same.teacher.get("accuracy")
    teacher, about = experiment.teacher(own, resume=resume, known=_known_teacher(same, recipe), accuracy=seen)
    experiment, teacher = experiment.grouped(teacher, own / "tasks.json")
    return experiment, (teacher, about)


def _same_teacher(pool: str | Path | None, recipe: Recipe, experiment: Experiment) -> "Pool | None":
    """Return a pool whose teacher is the one that this recipe has, on the same images; a trained one's is told of."""
    if pool is None:
        return None
    from kfdeploy.pool.pool import Pool

    trained = recipe.teacher.source == "train"
    try:
        found = Pool.open(pool)
    except KfdeployError:
        if trained:
            raise
        return None  # its teacher comes from elsewhere, and is measured again
    before = shipped_recipe(completed(found.recipe))
    matters = ("data", "image", "tasks", "teacher", *(("augment", "seed") if trained else ()))
    after = shipped_recipe(recipe.model_dump())
    keys = changed_keys({key: before.get(key) for key in matters}, {key: after[key] for key in matters})
    different = [key for key in keys if key not in ("data.root", "data.workers", "teacher.min_accuracy")]
    if found.images.get("sha256") not in (None, experiment.record.about()["sha256"]):
        different.append("the images")  # it may have been trained on what is held back here
    kind, _, name = recipe.teacher.source.partition(":")
    file = name if kind in ("file", "onnx") else recipe.teacher.weights
    if file and found.teacher.get("sha256") not in (None, sha256(Path(file))):  # of the same name alone
        different.append("the teacher's file")
    if different and trained:
        experiment.report.note(
            f"the teacher of '{found.where}' is another recipe's ({', '.join(different)} differ): training this "
            "recipe's own"
        )
    return None if different else found


def _known_teacher(pool: "Pool | None", recipe: Recipe) -> Arrays | None:
    """Return the weights of a pool's trained teacher."""
    name = (TEACHER / WEIGHTS).as_posix()
    return pool.tensors(name) if pool is not None and recipe.teacher.source == "train" and pool.has(name) else None


def _student(experiment: Experiment, student: Student) -> tuple[Classifier, dict[str, Any]]:
    """Return an untrained student, and what weights it begins from."""
    net = Classifier(student.net, experiment.image, len(experiment.classes))
    told = f"student '{student.name}', {describe(student.net)},"
    return net, start_from(net.backbone, student.net, experiment.image.channels, told)


def _distill(
    experiment: Experiment,
    taught: "tuple[Teacher, dict[str, Any]]",
    student: Student,
    work: Path,
    name: str,
    resume: bool,
) -> Fitted:
    recipe = experiment.recipe
    teacher, about = taught
    experiment.seed()
    net, weights = _student(experiment, student)
    part = experiment.slice_teacher(teacher)
    learner = ClassifierLearner(net, student.soft, recipe.train.label_smoothing, experiment.losses(part))
    # A plain student (no soft targets) needs no teacher's forward pass.
    asked = part if student.soft.weight else None
    fitted = experiment.fit(learner, work / "train", name, recipe.train, teacher=asked, resume=resume)
    if not is_main():
        return fitted
    fields = {
        "teacher": about,
        "net": describe(student.net),
        **({"weights": weights} if weights else {}),
        "training": experiment.training(recipe.train, fitted),
        "recipe": recipe.model_copy(update={"students": [student]}).model_dump(),
    }
    write_classifier(work, net, "student", name, experiment, fields)
    return fitted
