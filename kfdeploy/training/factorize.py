"""Factorization: a recipe's teacher becomes a pool (Yang et al., ECCV 2022, Eq. 3 and 6–12)."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfdeploy.errors import first_line
from kfdeploy.outputs import check_output
from kfdeploy.pool.pool import Pool
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.learners.factor import FactorLearner
from kfdeploy.training.loop.learner import Fitted
from kfdeploy.training.loop.progress import Progress, is_main
from kfdeploy.training.loop.resume import same_recipe, sweep, unfinished
from kfdeploy.training.nets.build import check_images, describe
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.nets.teacher import Teacher
from kfdeploy.training.nets.weights import start_from
from kfdeploy.training.recipe.recipe import Recipe
from kfdeploy.training.writing.classifier import TEACHER, write_classifier
from kfdeploy.training.writing.pool import write_pool
from kfdeploy.training.writing.rehearsal import rehearse_pool


def factorize(
    recipe: Recipe,
    out: str | Path = "pool",
    *,
    force: bool = False,
    resume: bool = False,
    wait: bool = False,
    report: Progress | None = None,
) -> Fitted:
    """Factorize the recipe's teacher into a pool at `out`.

    With `resume`, an interrupted run goes on from its checkpoint, a finished pool is checked and left.

    Raises:
        RecipeError, DataError, TeacherError, DeviceError: what was asked for does not fit.
        TrainingError: a term is not finite, or the checkpoint is of another recipe.
        Interrupted: Ctrl-C.
        OutputError: `out` is there and neither `force` nor `resume` is set.
    """
    out = Path(out)
    if resume and out.exists():
        pool = Pool.open(out)
        same_recipe(pool.recipe, recipe, f"'{out}' was made with another recipe")
        pool.check()
        sweep(out)
        return Fitted()
    check_output(out, force=force)
    experiment = Experiment(recipe, report)
    _advise(recipe, experiment)
    weights = _rehearse(recipe, experiment, out)
    with unfinished(out, recipe, experiment.record, force=force, resume=resume, wait=wait) as work:
        teacher, about = experiment.teacher(work / TEACHER, resume=resume)
        experiment, teacher = experiment.grouped(teacher, work / "train" / "tasks.json")
        experiment.seed()
        net = FactorNet(recipe.ckn, recipe.tsn, experiment.image, experiment.tasks)
        start_from(net.ckn, recipe.ckn, experiment.image.channels, f"the CKN {describe(recipe.ckn)}")
        learner = _learner(net, teacher.channels, recipe, experiment, teacher)
        fitted = experiment.fit(learner, work / "train", "factors", recipe.train, teacher=teacher, resume=resume)
        if not is_main():
            return fitted
        experiment.report.phase("writing the pool: exporting, proving, observing ranges")
        _write_teacher(work, teacher, experiment, about)
        write_pool(work, learner, experiment, about, fitted, weights)
    return fitted


def _rehearse(recipe: Recipe, experiment: Experiment, out: Path) -> dict[str, Any]:
    """Find out that the whole line works, before an image is decoded; return what the common network begins from."""
    told = f"the CKN {describe(recipe.ckn)}"
    net = FactorNet(recipe.ckn, recipe.tsn, experiment.image, experiment.tasks)
    weights = start_from(net.ckn, recipe.ckn, experiment.image.channels, told)
    channels = experiment.check_teacher()
    check_images(net, experiment.image, f"{told} with TSNs {describe(recipe.tsn.net)}")
    learner = _learner(net, channels, recipe, experiment)
    _ = experiment.fabric  # a device that is not there is missed now
    experiment.report.phase("rehearsing: untrained networks become a pool")
    rehearse_pool(experiment, learner, out)  # in every process: none waits longer than its patience for another
    return weights


def _learner(
    net: FactorNet, channels: Sequence[int], recipe: Recipe, experiment: Experiment, teacher: Teacher | None = None
) -> FactorLearner:
    fields = experiment.losses(teacher, coupled=True)
    return FactorLearner(net, channels, recipe.objective, recipe.seed, recipe.train.label_smoothing, fields)


def _advise(recipe: Recipe, experiment: Experiment) -> None:
    """Say what is known beforehand: an assembly holds the whole common network, and task networks besides."""
    for student in recipe.students:
        alike = [net.model_dump(exclude={"weights", "pretrained"}) for net in (student.net, recipe.ckn)]
        if alike[0] == alike[1]:
            experiment.report.note(
                f"the common network is as large as the student '{student.name}': no assembly will be faster than it; "
                "half its width was 2.1 times as fast where it was measured, at 0.6 points less"
            )


def _write_teacher(work: Path, teacher: Teacher, experiment: Experiment, about: dict[str, Any]) -> None:
    """Write the teacher beside the pool, which does not need it: it is there to be compared with."""
    try:
        write_classifier(work / TEACHER, teacher, "teacher", "teacher", experiment, {"teacher": about})
    except Exception as error:  # whatever it is, the pool is worth more
        shutil.rmtree(work / TEACHER, ignore_errors=True)
        experiment.report.note(f"the teacher is left out of benchmarks: {first_line(error)}")
