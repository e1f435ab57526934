"""`kfdeploy plan`: what a subset will be worth before it is built, and which subset a budget allows."""

import shlex
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kfdeploy.cli.console import POOL, say

if TYPE_CHECKING:
    from kfdeploy.model import Model
    from kfdeploy.pool import Pool


def command(
    tasks: list[str] = typer.Option([], "--tasks", metavar="TASK…", help="Tell what these are worth together."),
    pool: str = typer.Option("pool", metavar=POOL, help="The pool to plan for."),
    student: list[Path] = typer.Option([], "--student", metavar="STUDENT…", help="Default: all in students/."),
    size: int | None = typer.Option(None, min=1, help="Choose the most accurate subset of so many tasks."),
    budget_ms: float | None = typer.Option(None, min=0, help="Choose as many tasks as fit, single-stream."),
    min_accuracy: float | None = typer.Option(None, min=0, max=1, help="Choose as many tasks as reach this share."),
    costs: Path = typer.Option(Path("costs.json"), help="What kfdeploy benchmark --profile has measured."),
) -> None:
    """Plan without building or running anything: exact validation accuracies, from stored logits."""
    from kfdeploy.costs import read_costs
    from kfdeploy.errors import UnsupportedError
    from kfdeploy.model import Model
    from kfdeploy.plan import Subsets, choose_subset
    from kfdeploy.pool import Pool

    opened = Pool.open(pool)
    known = read_costs(costs, opened) if budget_ms is not None or costs.is_file() else None
    paths = student or [path for path in sorted(Path("students").glob("*")) if (path / "assembly.json").is_file()]
    students = [Model.open(path) for path in paths]
    if tasks:
        _subset(opened, tasks, students)
    if size is not None or budget_ms is not None or min_accuracy is not None:
        subsets = Subsets.of(opened.evidence(), opened.tasks)
        found = choose_subset(subsets, size=size, within=None if budget_ms is None or known is None else
                              known.within(budget_ms), min_accuracy=min_accuracy)  # fmt: skip
        names = [subsets.names[i] for i in found.tasks]
        cost = f", about {known.of(len(names)):.3f} ms ± {100 * known.error:.0f} %" if known else ""
        say(
            f"choose:     {' '.join(names)}  ({len(names)} tasks, {100 * found.accuracy:.2f} %{cost}"
            f"{'' if found.all else '; tasks were left out one by one, not all subsets looked at'})"
        )
        say(f"next:  kfdeploy assemble --pool {opened.where} --tasks {' '.join(shlex.quote(name) for name in names)}")
    elif not tasks and known is None:
        raise UnsupportedError(
            "there is nothing to plan", hint="kfdeploy plan --tasks cat dog, --size 3 or --min-accuracy 0.9"
        )
    if known is not None:
        say(
            f"costs:      {known.common_ms:.3f} ms + {known.task_ms:.3f} ms a task, {known.target} {known.precision}, "
            f"{known.threads} thread (off by at most {100 * known.error:.0f} % where it was measured)"
            + (", from a quick look" if known.quick else "")
        )
        for name in known.students:
            even = known.even(name)
            say(f"break-even: {name} takes {known.students[name]:.3f} ms, as much as {even:.1f} tasks")


def _subset(pool: "Pool", tasks: list[str], students: "list[Model]") -> None:
    """Print what some tasks are worth together: the assembly, and each student masked to them."""
    from kfdeploy.openset import separation
    from kfdeploy.plan import calibration_error, confusion, masked, subset_accuracy
    from kfdeploy.spec import class_names

    chosen = pool.choose(tasks)
    classes = class_names(chosen)
    evidence = pool.evidence(chosen)
    accuracy = subset_accuracy(evidence, classes)
    if len(classes) == 1:
        say(f"{classes[0]}: one class leaves nothing to tell apart")
        return
    say(
        f"tasks:      {', '.join(task.name for task in chosen)}  ({accuracy.images} validation images of these classes)"
    )
    say(
        f"assembly:   {100 * accuracy.value:.2f} %, exactly; "
        f"calibration error {calibration_error(evidence, classes):.3f}"
    )
    for model in students:
        if set(classes) <= set(model.classes):
            theirs = masked(model.evidence(), model.classes, classes)
            value = subset_accuracy(theirs, classes).value
            say(
                f"{model.name + ':':11} {100 * value:.2f} % masked to them; "
                f"calibration error {calibration_error(theirs, classes):.3f}"
            )
    told = separation(evidence, classes)
    if not isnan(told["score"]):
        line = f"strangers:  --open-set tells them with AUROC {told['score']:.3f}"
        for model in students:
            if set(classes) <= set(model.classes):
                other = separation(masked(model.evidence(), model.classes, classes), classes)
                line += f"; {model.name} {other['softmax']:.3f} by softmax, {other['score']:.3f} by the same score"
        say(line)
    width = max(len(name) for name in classes)
    say("confusion of the assembly, each row a class:")
    for name, row in zip(classes, confusion(evidence, classes), strict=True):
        say(f"  {name:{width}}  " + " ".join(f"{count:5}" for count in row))
