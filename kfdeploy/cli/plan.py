"""`kfdeploy plan`: what a subset will be worth before it is built, and which subset a budget allows."""

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kfdeploy.cli.console import FORCE, POOL, say
from kfdeploy.cli.words import task_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kfdeploy.deploy.model import Model
    from kfdeploy.measuring.costs import Costs
    from kfdeploy.pool.plan import Design, Subsets
    from kfdeploy.pool.pool import Pool
    from kfdeploy.tasks.evidence import Evidence
    from kfdeploy.tasks.spec import TaskSpec


def command(
    tasks: list[str] = typer.Option([], "--tasks", metavar="TASK…", help="Tell what these are worth together."),
    pool: str = typer.Option("pool", metavar=POOL, help="The pool to plan for."),
    student: list[Path] = typer.Option([], "--student", metavar="STUDENT…", help="Default: all in students/."),
    size: int | None = typer.Option(None, min=1, help="Choose the most accurate subset of so many tasks."),
    budget_ms: float | None = typer.Option(
        None, min=0, help="Choose as many tasks as fit, single-stream; with --tasks, the design that does."
    ),
    min_accuracy: float | None = typer.Option(
        None, min=0, max=1, help="Choose as many tasks as reach this share; with --tasks, the design that does."
    ),
    target: str = typer.Option("", help="The target that the costs must be of. Default: whichever they are of."),
    costs: Path = typer.Option(Path("costs.json"), help="What kfdeploy benchmark --profile has measured."),
    every: bool = typer.Option(False, "--all", help="Tell every subset of the pool, or of --tasks."),
    out: Path | None = typer.Option(None, metavar="FILE.csv|.json", help="With --all: write them there."),
    force: bool = FORCE,
) -> None:
    """Plan without building or running anything: exact validation accuracies, from stored logits."""
    # Long by its options alone: each is a line of its own in --help.
    from kfdeploy.deploy.model import Model
    from kfdeploy.errors import UnsupportedError
    from kfdeploy.measuring.costs import read_costs
    from kfdeploy.pool.plan import Subsets, check_count, choose_design
    from kfdeploy.pool.pool import Pool

    _check_out(every, out, force)
    opened = Pool.open(pool)
    known = read_costs(costs, opened) if budget_ms is not None or target or costs.is_file() else None
    if target and known is not None and known.target != target:
        raise UnsupportedError(
            f"'{costs}' holds the costs of {known.target}, and --target is '{target}'",
            hint=f"kfdeploy benchmark --profile {target}.json --target {target}, then --costs {target}.json",
        )
    paths = student or [path for path in sorted(Path("students").glob("*")) if (path / "assembly.json").is_file()]
    students = [Model.open(path) for path in paths]
    for model in students:
        if model.parts is not None:
            raise UnsupportedError(
                f"'{model.path}' is an assembly: it has no validation logits of its own, as its pool has them",
                hint="--student names a student or a teacher; --tasks say what an assembly is worth",
            )
        model.check()
    if every:
        check_count(len(opened.choose(tasks) if tasks else opened.entries))  # before all of it is read
        _every(Subsets.of_pool(opened, opened.choose(tasks) if tasks else None), opened, known, out)
    elif tasks:
        _subset(opened, tasks, students)
    if tasks and not every and (budget_ms is not None or min_accuracy is not None):
        if size is not None:
            raise UnsupportedError("--size chooses tasks, and --tasks names them", hint="leave one of them out")
        found_design = choose_design(_designs(opened, tasks, students, known), budget_ms=budget_ms,
                                     min_accuracy=min_accuracy)  # fmt: skip
        say(f"choose:     {found_design}")
    elif size is not None or budget_ms is not None or min_accuracy is not None:
        _choose(opened, known, size, budget_ms, min_accuracy)
    elif not tasks and not every and known is None:
        raise UnsupportedError(
            "there is nothing to plan", hint="kfdeploy plan --tasks cat dog, --size 3, --min-accuracy 0.9 or --all"
        )
    if known is not None:
        _say_costs(known)


def _choose(
    pool: "Pool", known: "Costs | None", size: int | None, budget_ms: float | None, min_accuracy: float | None
) -> None:
    """Choose a subset of a pool's tasks, and say what it is worth."""
    from kfdeploy.errors import TaskError
    from kfdeploy.pool.plan import Subsets, choose_subset

    within = None if budget_ms is None or known is None else known.within(budget_ms)
    if within == 0 and known is not None:
        raise TaskError(
            f"not one task fits into {budget_ms:g} ms; the nearest is one task, which takes about {known.of(1):.3f} ms",
            hint=f"--budget-ms {math.ceil(known.of(1) * 1000) / 1000:g}",
        )
    subsets = Subsets.of_pool(pool)
    found = choose_subset(subsets, size=size, within=within, min_accuracy=min_accuracy)
    names = [subsets.names[i] for i in found.tasks]
    cost = f", about {known.of(len(names)):.3f} ms ± {100 * known.error:.0f} %" if known else ""
    say(
        f"choose:     {' '.join(names)}  ({len(names)} tasks, {100 * found.accuracy:.2f} %{cost}"
        f"{'' if found.all else '; tasks were left out one by one, not all subsets looked at'})"
    )
    say(f"next:  {shlex.join(['kfdeploy', 'assemble', '--pool', pool.where, *task_words(names)])}")


def _say_costs(known: "Costs") -> None:
    say(
        f"costs:      {known.common_ms:.3f} ms + {known.task_ms:.3f} ms a task, {known.target} {known.precision}, "
        f"{known.threads} thread (off by at most {100 * known.error:.0f} % where it was measured)"
        + (", from a quick look" if known.quick else "")
    )
    for name in known.students:
        even = known.even(name)
        say(f"break-even: {name} takes {known.students[name]:.3f} ms, as much as {even:.1f} tasks")


def _check_out(every: bool, out: Path | None, force: bool) -> None:
    from kfdeploy.errors import UnsupportedError
    from kfdeploy.outputs import check_place

    if out is None:
        return
    if not every:
        raise UnsupportedError(f"--out {out} is for --all, and that was not asked for", hint="kfdeploy plan --all")
    if out.suffix not in (".csv", ".json"):
        raise UnsupportedError(f"--out is '{out}'", allowed=("a .csv file", "a .json file"), hint="--out subsets.csv")
    check_place(out, force=force)


def _every(subsets: "Subsets", pool: "Pool", known: "Costs | None", out: Path | None) -> None:
    """Print every subset's accuracy and expected milliseconds, or write them to a file."""
    import csv
    import io

    from kfdeploy.files import dump_line_json
    from kfdeploy.manifest import stamp
    from kfdeploy.shown import cell
    from kfdeploy.writing import write_file

    masks, accuracies, images = subsets.every()
    rows = [
        {
            "tasks": [name for name, there in zip(subsets.names, mask, strict=True) if there],
            "accuracy": None if math.isnan(accuracy) else accuracy,
            "images": count,
        }
        | ({"ms": round(known.of(sum(mask)), 5)} if known else {})
        for mask, accuracy, count in zip(masks.tolist(), accuracies.tolist(), images.tolist(), strict=True)
    ]
    lacking = sum(row["accuracy"] is None for row in rows)
    if out is None:
        for row in rows:
            value = row["accuracy"]
            ms = f"  {row['ms']:8.3f} ms" if known else ""
            told = f"{100 * value:6.2f} %" if value is not None else "not known"
            say(f"  {told:>9}  of {row['images']:5} images{ms}  {shlex.join(row['tasks'])}")
    elif out.suffix == ".csv":
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["tasks", "size", "accuracy", "images", *(["ms"] if known else [])])
        for row in rows:
            value = "" if row["accuracy"] is None else row["accuracy"]
            cells = [cell(shlex.join(row["tasks"])), len(row["tasks"]), value, row["images"]]
            writer.writerow([*cells, row["ms"]] if known else cells)
        write_file(out, table.getvalue())
    else:
        about = stamp("subsets") | {"pool": pool.sha256, "rows": rows}
        write_file(out, dump_line_json(about))
    say(
        f"subsets:    {len(rows):,} of {len(subsets.names)} tasks, exactly, on validation images"
        + (f"; {lacking:,} are not known, for want of images with their tasks' logits" if lacking else "")
    )
    if out is not None:
        say(f"wrote {out}")


def _subset(pool: "Pool", tasks: list[str], students: "list[Model]") -> None:
    """Print what some tasks are worth together: the assembly, and each student masked to them."""
    from kfdeploy.tasks.evidence import masked
    from kfdeploy.tasks.openset import separation
    from kfdeploy.tasks.spec import class_names
    from kfdeploy.tasks.worth import calibration_error, require_known, subset_accuracy

    chosen = pool.choose(tasks)
    classes = class_names(chosen)
    evidence = pool.evidence(chosen)
    accuracy = subset_accuracy(evidence, chosen)
    if len(classes) == 1:
        say(f"{classes[0]}: one class leaves nothing to tell apart")
        return
    require_known(evidence, chosen, pool.where)
    say(
        f"tasks:      {', '.join(task.name for task in chosen)}  ({accuracy.images} validation images of these classes)"
    )
    say(
        f"assembly:   {100 * accuracy.value:.2f} %, exactly; "
        f"calibration error {calibration_error(evidence, chosen):.3f}"
    )
    for model in students:
        if set(classes) <= set(model.classes):
            theirs = masked(model.evidence(), model.classes, classes)
            value = subset_accuracy(theirs, chosen).value
            say(
                f"{model.name + ':':11} {100 * value:.2f} % masked to them; "
                f"calibration error {calibration_error(theirs, chosen):.3f}"
            )
    if advice := _advice(pool, chosen, accuracy.value, students):
        say(f"advice:     {advice}")
    told = separation(evidence, chosen)
    if not math.isnan(told["score"]):
        line = f"strangers:  --open-set tells them with AUROC {told['score']:.3f}"
        for model in students:
            if set(classes) <= set(model.classes):
                other = separation(masked(model.evidence(), model.classes, classes), chosen)
                line += f"; {model.name} {other['softmax']:.3f} by softmax, {other['score']:.3f} by the same score"
        say(line)
    _confusion("the assembly", evidence, chosen)
    for model in students:
        if set(classes) <= set(model.classes):
            _confusion(f"{model.name}, masked to them", masked(model.evidence(), model.classes, classes), chosen)


def _advice(pool: "Pool", tasks: "Sequence[TaskSpec]", accuracy: float, students: "list[Model]") -> str:
    """Say whether a plain student of those at hand would do, by the multiplications of the graphs."""
    from kfdeploy.graph.cost import multiplications
    from kfdeploy.pool.plan import Candidate, plain_words
    from kfdeploy.tasks.evidence import masked
    from kfdeploy.tasks.spec import class_names
    from kfdeploy.tasks.worth import subset_accuracy

    classes = class_names(tasks)
    theirs = [
        Candidate(
            model.name,
            subset_accuracy(masked(model.evidence(), model.classes, classes), tasks).value,
            multiplications(model.load()),
        )
        for model in students
        if set(classes) <= set(model.classes)
    ]
    own = multiplications(pool.fused(tasks)[0]) if theirs else 0
    return plain_words(Candidate("the assembly", accuracy, own), theirs)


def _confusion(who: str, evidence: "Evidence", tasks: "Sequence[TaskSpec]") -> None:
    from kfdeploy.tasks.spec import class_names
    from kfdeploy.tasks.worth import confusions

    for field, table in confusions(evidence, tasks).items():
        names = class_names(task for task in tasks if task.field == field)
        width = max(len(name) for name in names)
        say(f"confusion of {who}, each row a class:")
        for name, row in zip(names, table, strict=True):
            say(f"  {name:{width}}  " + " ".join(f"{count:5}" for count in row))


def _designs(pool: "Pool", tasks: list[str], students: "list[Model]", known: "Costs | None") -> "list[Design]":
    """Return the assembly of these tasks, and every student that knows them, with what they are expected to take."""
    from kfdeploy.pool.plan import Design
    from kfdeploy.tasks.evidence import masked
    from kfdeploy.tasks.spec import class_names
    from kfdeploy.tasks.worth import require_known, subset_accuracy

    chosen = pool.choose(tasks)
    classes, evidence = class_names(chosen), pool.evidence(chosen)
    require_known(evidence, chosen, pool.where)
    ms = None if known is None else known.of(len(chosen))
    found = [Design("the assembly", ms, subset_accuracy(evidence, chosen).value)]
    for model in students:
        if set(classes) <= set(model.classes):
            theirs = masked(model.evidence(), model.classes, classes)
            cost = None if known is None else known.students.get(model.name)
            found.append(Design(f"student {model.name}", cost, subset_accuracy(theirs, chosen).value))
    return found
