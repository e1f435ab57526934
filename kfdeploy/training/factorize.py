"""Factorization: a recipe's teacher becomes a pool (Yang et al., ECCV 2022, Eq. 3 and 6–12)."""

from pathlib import Path

from kfdeploy.errors import ComposeError, ParityError
from kfdeploy.files import check_output
from kfdeploy.pool.pool import Pool
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.learners.factor import FactorLearner
from kfdeploy.training.loop.learner import Fitted
from kfdeploy.training.loop.progress import Progress, is_main
from kfdeploy.training.loop.resume import same_recipe, sweep, unfinished
from kfdeploy.training.nets.build import check_images, describe
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.recipe.nets import Timm
from kfdeploy.training.recipe.recipe import Recipe
from kfdeploy.training.writing.classifier import TEACHER, write_classifier
from kfdeploy.training.writing.pool import graphs_of, write_pool


def factorize(
    recipe: Recipe,
    out: str | Path = "pool",
    *,
    force: bool = False,
    resume: bool = False,
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
    # Made once before anything is trained, so that what does not fit is refused now and not after an hour.
    net = FactorNet(recipe.ckn, recipe.tsn, experiment.image, experiment.tasks)
    check_images(net, experiment.image, f"the CKN {describe(recipe.ckn)} with TSNs {describe(recipe.tsn.net)}")
    if isinstance(recipe.ckn, Timm):
        graphs_of(net.eval(), recipe, experiment.image)
    with unfinished(out, recipe, force=force, resume=resume) as work:
        teacher, about = experiment.teacher(work / TEACHER, resume=resume)
        experiment.seed()
        net = FactorNet(recipe.ckn, recipe.tsn, experiment.image, experiment.tasks)
        learner = FactorLearner(net, teacher.channels, recipe.objective, recipe.seed, recipe.train.label_smoothing)
        fitted = experiment.fit(learner, work / "train", "factors", recipe.train, teacher=teacher, resume=resume)
        if not is_main():
            return fitted
        try:  # a pool does not need it: it is there to be compared with
            write_classifier(work / TEACHER, teacher, "teacher", "teacher", experiment, {"teacher": about})
        except (ComposeError, ParityError) as error:
            experiment.report.note(f"the teacher is left out of benchmarks: {error}")
        write_pool(work, learner, experiment, about, fitted)
    return fitted
