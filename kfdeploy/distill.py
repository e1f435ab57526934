"""Distillation: a recipe's full students, or a student for just some tasks, in the form of an assembly."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy import objectives
from kfdeploy.errors import RecipeError, nearest
from kfdeploy.experiment import TEACHER, WEIGHTS, Experiment, unfinished, write_classifier
from kfdeploy.files import check_output, file_name
from kfdeploy.model import Model
from kfdeploy.nets import Classifier, describe
from kfdeploy.pool import choose
from kfdeploy.progress import Progress
from kfdeploy.recipe import Recipe
from kfdeploy.sections import SoftTargets, Student
from kfdeploy.spec import TaskSpec
from kfdeploy.train import Fitted, Learner, Term, fit

if TYPE_CHECKING:
    from kfdeploy.nets.teacher import Teacher


class ClassifierLearner(Learner):
    """Cross-entropy, and soft targets where there is a teacher: (1 − w) CE + w T² KL (Hinton et al. 2015)."""

    def __init__(
        self, net: nn.Module, teacher: "Teacher | None" = None, soft: SoftTargets | None = None, smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.net = net
        # Held in a tuple: not a part of the learner, so neither trained, nor saved with it, nor put into train().
        self.teacher = (teacher,)
        self.soft, self.smoothing = soft or SoftTargets(), smoothing

    def forward(self, images: Tensor, labels: Tensor, step: int) -> dict[str, Term]:
        """Return `sup`, and `kt` where there is a teacher."""
        logits = self.net(images)[0]
        with torch.autocast(images.device.type, enabled=False):
            sup = F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)
        teacher = self.teacher[0]
        if teacher is None:
            return {"sup": Term(1.0, sup)}
        target = teacher(images)[0]
        with torch.autocast(images.device.type, enabled=False):
            kt = objectives.soft_targets(logits, target, self.soft.temperature)
        return {"sup": Term(1 - self.soft.weight, sup), "kt": Term(self.soft.weight, kt)}

    def evaluate(self, images: Tensor) -> Tensor:
        """Return logits (N, C)."""
        logits: Tensor = self.net(images)[0]
        return logits


def distill(
    recipe: Recipe,
    *,
    students: Sequence[str] = (),
    tasks: Sequence[str] = (),
    pool: Path | None = None,
    out: Path = Path("students"),
    force: bool = False,
    resume: bool = False,
    report: Progress | None = None,
) -> dict[Path, Fitted | None]:
    """Distil the recipe's students (or only the named ones) into `out/<name>`, each an assembly's twin.

    With `tasks`, each is distilled for just those tasks' classes, on their images alone, into
    `out/<name>-<task>-<task>…`. A teacher that the recipe trains is taken from `pool` where that has it. With
    `resume`, a student that is already there is checked and left (None).

    Raises:
        RecipeError: no student has that name.
        OutputError: a student is already there.
        TaskError: a task is not the recipe's.
    """
    known = [student.name for student in recipe.students]
    for name in students:
        if name not in known:
            raise RecipeError(
                f"recipe '{recipe.name}' has no student '{name}'", allowed=known, hint=nearest(name, known)
            )
    if not known:
        raise RecipeError(f"recipe '{recipe.name}' has no students", hint="add a section [[students]] to it")
    experiment = Experiment(recipe, report)
    chosen = choose(experiment.tasks, tasks, f"recipe '{recipe.name}'") if tasks else experiment.tasks
    suffix = "".join(f"-{file_name(task.name)}" for task in chosen) if tasks else ""
    wanted = {out / f"{s.name}{suffix}": s for s in recipe.students if s.name in (students or known)}
    for folder in wanted:  # before hours of training, not after
        if not (resume and folder.exists()):
            check_output(folder, force=force)
    done: dict[Path, Fitted | None] = {}
    for folder, student in wanted.items():
        if resume and folder.exists():
            Model.open(folder).check()
            done[folder] = None
        else:
            with unfinished(folder, recipe, force=force, resume=resume) as work:
                done[folder] = _distill(experiment, student, chosen, work, folder.name, pool, resume)
    return done


def _distill(
    whole: Experiment,
    student: Student,
    tasks: Sequence[TaskSpec],
    work: Path,
    name: str,
    pool: Path | None,
    resume: bool,
) -> Fitted:
    recipe = whole.recipe
    weights = None if pool is None else pool / TEACHER / WEIGHTS
    teacher, about = whole.teacher(work / "train" / "teacher", resume=resume, known=weights)
    experiment = whole.only(tasks)
    teacher = whole.slice_teacher(teacher, experiment.classes)
    experiment.seed()
    net = Classifier(student.net, experiment.image, len(experiment.classes))
    learner = ClassifierLearner(net, teacher, student.soft, recipe.train.label_smoothing)
    fitted = fit(
        learner,
        experiment.loader(experiment.train, recipe.train.batch),
        experiment.validation,
        recipe.train,
        fabric=experiment.fabric,
        folder=work / "train",
        title=name,
        resume=resume,
        tensorboard=recipe.run.tensorboard,
        report=experiment.report,
    )
    shutil.rmtree(work / "train" / "teacher", ignore_errors=True)
    write_classifier(
        work,
        net,
        "student",
        name,
        experiment,
        {"teacher": about, "net": describe(student.net), "training": experiment.training(recipe.train, fitted)},
    )
    return fitted
