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
    from kfdeploy.pool.designs import Design
    from kfdeploy.pool.plan import Bools, Choice, Subsets
    from kfdeploy.pool.pool import Pool
    from kfdeploy.tasks.evidence import Evidence
    from kfdeploy.tasks.spec import TaskSpec


_MOST_ROWS = 20  # of a table of confusions, which has as many columns: more are not read off a terminal


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
    from kfdeploy.pool.designs import choose_design
    from kfdeploy.pool.plan import Subsets, check_count
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
        f"choose:     {' '.join(names)}  ({len(names)} tasks, {_share(subsets, found)}{cost}"
        f"{'' if found.all else '; tasks were left out one by one, not all subsets looked at'})"
    )
    say(f"next:  {shlex.join(['kfdeploy', 'assemble', '--pool', pool.where, *task_words(names)])}")


def _share(subsets: "Subsets", found: "Choice") -> str:
    mean = f"{100 * found.accuracy:.2f} %"
    if len(subsets.parts) == 1:
        return mean
    return f"{mean} on average over its fields, {100 * found.least:.2f} % in the least of them"


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
    each = _by_field(subsets, masks)
    rows = [
        {
            "tasks": [name for name, there in zip(subsets.names, mask, strict=True) if there],
            "accuracy": None if math.isnan(accuracy) else accuracy,
            "images": count,
        }
        | ({"fields": fields} if fields else {})
        | ({"ms": round(known.of(sum(mask)), 5)} if known else {})
        for mask, accuracy, count, fields in zip(
            masks.tolist(), accuracies.tolist(), images.tolist(), each, strict=True
        )
    ]
    lacking = sum(row["accuracy"] is None for row in rows)
    if out is None:
        for row in rows:
            value = row["accuracy"]
            ms = f"  {row['ms']:8.3f} ms" if known else ""
            told = f"{100 * value:6.2f} %" if value is not None else "not known"
            fields = row.get("fields")
            least = f"  least {100 * min(fields.values()):6.2f} %" if fields and value is not None else ""
            say(f"  {told:>9}  of {row['images']:5} images{least}{ms}  {shlex.join(row['tasks'])}")
    elif out.suffix == ".csv":
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        names = list(subsets.parts) if len(subsets.parts) > 1 else []
        own = [cell(f"accuracy of {name}") for name in names]
        writer.writerow(["tasks", "size", "accuracy", "images", *own, *(["ms"] if known else [])])
        for row in rows:
            value = "" if row["accuracy"] is None else row["accuracy"]
            cells = [cell(shlex.join(row["tasks"])), len(row["tasks"]), value, row["images"]]
            cells += ["" if row["fields"].get(name) is None else row["fields"][name] for name in names]
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


def _by_field(subsets: "Subsets", masks: "Bools") -> list[dict[str, float | None]]:
    """Return what each subset is worth in each field of its tasks; nothing where there is one field alone."""
    if len(subsets.parts) == 1:
        return [{}] * len(masks)
    values = subsets.each(masks)[0].T.tolist()
    there = [masks[:, part.tasks].any(1).tolist() for part in subsets.parts.values()]
    return [
        {
            name: None if math.isnan(value) else value
            for name, value, some in zip(subsets.parts, row, chosen, strict=True) if some
        }
        for row, chosen in zip(values, zip(*there, strict=True), strict=True)
    ]  # fmt: skip


def _subset(pool: "Pool", tasks: list[str], students: "list[Model]") -> None:
    """Print what some tasks are worth together: the assembly, and each student masked to them."""
    from kfdeploy.tasks.evidence import masked
    from kfdeploy.tasks.spec import class_names, fields_of, together
    from kfdeploy.tasks.worth import require_known, subset_accuracy

    chosen = together(pool.choose(tasks))
    classes = class_names(chosen)
    evidence = pool.evidence(chosen)
    if all(len(columns) == 1 for columns in fields_of(chosen).values()):
        says = "one class leaves" if len(classes) == 1 else "each of them is one class of its field, which leaves"
        say(f"{', '.join(classes)}: {says} nothing to tell apart")
        return
    require_known(evidence, chosen, pool.where)
    count = subset_accuracy(evidence, chosen).images
    say(f"tasks:      {', '.join(task.name for task in chosen)}  ({count} validation images of these classes)")
    able = [model for model in students if set(classes) <= set(model.classes)]
    theirs = [(model.name, masked(model.evidence(), model.classes, classes)) for model in able]
    _say_worth("assembly", evidence, chosen, ", exactly")
    for name, own in theirs:
        _say_worth(name, own, chosen, " masked to them")
    if advice := _advice(pool, chosen, evidence, able):
        say(f"advice:     {advice}")
    _strangers(evidence, theirs, chosen)
    _confusion("the assembly", evidence, chosen)
    for name, own in theirs:
        _confusion(f"{name}, masked to them", own, chosen)


def _say_worth(who: str, evidence: "Evidence", tasks: "Sequence[TaskSpec]", how: str) -> None:
    """Print what tasks are worth: of several fields each in its own, and the mean."""
    from kfdeploy.tasks.spec import class_names
    from kfdeploy.tasks.worth import accuracies, calibration_error, subset_accuracy

    each = accuracies(evidence, tasks)
    mean = f" on average over {len(each)} fields" if len(each) > 1 else ""
    apart = "," if mean and not how.startswith(",") else ""
    say(
        f"{who + ':':11} {100 * subset_accuracy(evidence, tasks).value:.2f} %{mean}{apart}{how}; "
        f"calibration error {calibration_error(evidence, tasks):.3f}"
    )
    for field, found in each.items() if mean else ():
        own = [task for task in tasks if task.field == field]
        lone = ", one class of its field, which is right always" if len(class_names(own)) == 1 else ""
        names = ", ".join(task.name for task in own)
        say(f"  {field + ':':9} {100 * found.value:.2f} % of {found.images} images, among {names}{lone}")


def _strangers(evidence: "Evidence", theirs: "list[tuple[str, Evidence]]", tasks: "Sequence[TaskSpec]") -> None:
    """Print how well images of classes that are left out are told, in each field that has such."""
    from kfdeploy.tasks.evidence import masked
    from kfdeploy.tasks.openset import separation
    from kfdeploy.tasks.spec import class_names, fields_of

    fields, classes = fields_of(tasks), class_names(tasks)
    for field in fields:
        own = [task for task in tasks if task.field == field]
        told = separation(masked(evidence, classes, class_names(own)), own)
        if math.isnan(told["score"]):
            continue
        line = f"strangers:  --open-set tells them with AUROC {told['score']:.3f}"
        line += f" in {field}" if len(fields) > 1 else ""
        for name, each in theirs:
            other = separation(masked(each, classes, class_names(own)), own)
            line += f"; {name} {other['softmax']:.3f} by softmax, {other['score']:.3f} by the same score"
        say(line)


def _each(evidence: "Evidence", tasks: "Sequence[TaskSpec]") -> tuple[float, ...]:
    """Return the accuracy in each field, where there are several."""
    from kfdeploy.tasks.worth import accuracies

    found = tuple(each.value for each in accuracies(evidence, tasks).values())
    return found if len(found) > 1 else ()


def _advice(pool: "Pool", tasks: "Sequence[TaskSpec]", evidence: "Evidence", students: "list[Model]") -> str:
    """Say whether a plain student of those at hand would do, by the multiplications of the graphs."""
    from kfdeploy.graph.cost import multiplications
    from kfdeploy.pool.designs import Candidate, plain_words
    from kfdeploy.tasks.evidence import masked
    from kfdeploy.tasks.spec import class_names
    from kfdeploy.tasks.worth import subset_accuracy

    def candidate(name: str, own: "Evidence", cost: int) -> Candidate:
        return Candidate(name, subset_accuracy(own, tasks).value, cost, _each(own, tasks))

    classes = class_names(tasks)
    theirs = [
        candidate(model.name, masked(model.evidence(), model.classes, classes), multiplications(model.load()))
        for model in students
    ]
    own = multiplications(pool.fused(tasks)[0]) if theirs else 0
    return plain_words(candidate("the assembly", evidence, own), theirs)


def _confusion(who: str, evidence: "Evidence", tasks: "Sequence[TaskSpec]") -> None:
    from kfdeploy.tasks.kinds.classes import worst_pairs
    from kfdeploy.tasks.worth import confusions

    tables = confusions(evidence, tasks)
    for field, table in tables.items():
        names = [name for task in tasks if task.field == field for name in task.classes]
        width = max(len(name) for name in names)
        where = f"confusion of {who}" + (f" in {field}" if len(tables) > 1 else "")
        if len(names) > _MOST_ROWS:
            say(f"{where}, of {len(names)} classes those most often taken for another:")
            for row, column in worst_pairs(table):
                say(f"  {names[row]:{width}}  {table[row, column]:5} of {table[row].sum()} for {names[column]}")
            continue
        say(f"{where}, each row a class:")
        for name, counts in zip(names, table, strict=True):
            say(f"  {name:{width}}  " + " ".join(f"{count:5}" for count in counts))


def _designs(pool: "Pool", tasks: list[str], students: "list[Model]", known: "Costs | None") -> "list[Design]":
    """Return the assembly of these tasks, and every student that knows them, with what they are expected to take."""
    from kfdeploy.pool.designs import Design
    from kfdeploy.tasks.evidence import masked
    from kfdeploy.tasks.spec import class_names, together
    from kfdeploy.tasks.worth import require_known, subset_accuracy

    chosen = together(pool.choose(tasks))
    classes, evidence = class_names(chosen), pool.evidence(chosen)
    require_known(evidence, chosen, pool.where)
    ms = None if known is None else known.of(len(chosen))
    found = [Design("the assembly", ms, subset_accuracy(evidence, chosen).value, _each(evidence, chosen))]
    for model in students:
        if set(classes) <= set(model.classes):
            theirs = masked(model.evidence(), model.classes, classes)
            cost = None if known is None else known.students.get(model.name)
            value = subset_accuracy(theirs, chosen).value
            found.append(Design(f"student {model.name}", cost, value, _each(theirs, chosen)))
    return found
