"""`kfdeploy factorize`: a recipe's teacher becomes a pool."""

import shlex
from pathlib import Path

import typer

from kfdeploy.cli.console import (
    COMPILE,
    DEVICE,
    DEVICES,
    FORCE,
    PRECISION,
    REPLAY,
    RESUME,
    SET,
    TENSORBOARD,
    THREADS,
    WAIT,
    TrainingProgress,
    run_settings,
    say,
    start_processes,
    tasks_text,
)
from kfdeploy.cli.words import task_words
from kfdeploy.training.loop.progress import is_main


def command(
    recipe: str = typer.Argument("", metavar="[RECIPE]", help="A file, or a shipped name. Default: digits."),
    out: Path | None = typer.Option(None, help="Where the pool goes. Default: pool, or the pool that grows."),
    pool: str = typer.Option("pool", metavar="POOL", help="With --add-task: the pool that grows."),
    add_task: str = typer.Option(
        "", "--add-task", metavar="NAME", help="Add one task to a pool; nothing else changes."
    ),
    data: Path | None = typer.Option(None, help="With --add-task: a folder with train/<class>/."),
    classes: list[str] = typer.Option(
        [], "--classes", metavar="CLASS…", help="Of the new task. Default: all new ones."
    ),
    field: str = typer.Option(
        "", "--field", metavar="FIELD", help="Of the new task, where the folder has attributes.csv. Default: its name."
    ),
    instead_of: list[str] = typer.Option(
        [], "--instead-of", metavar="CLASS…", help="Classes of the pool that the new ones divide more finely."
    ),
    settings: list[str] = SET,
    device: str = DEVICE,
    devices: int | None = DEVICES,
    precision: str = PRECISION,
    threads: int | None = THREADS,
    compile: bool = COMPILE,
    replay: str = REPLAY,
    tensorboard: bool = TENSORBOARD,
    resume: bool = RESUME,
    force: bool = FORCE,
    wait: bool = WAIT,
) -> None:
    """Factorize a teacher into a pool: one common network, and one small network per task."""
    # Long by its options alone: each is a line of its own in --help.
    from kfdeploy.errors import UnsupportedError, require_training
    from kfdeploy.pool.remote.locate import local_folder
    from kfdeploy.training.recipe.recipe import DEFAULT, load_recipe

    asked = ("--data", data), ("--classes", classes), ("--instead-of", instead_of), ("--field", field)
    for name, given in asked:
        if given and not add_task:
            raise UnsupportedError(f"{name} has no meaning without --add-task", hint="--add-task NAME, or a recipe")
    require_training("factorizing")
    if not recipe and not add_task:
        say(f"no recipe was named: taking the embedded default, '{DEFAULT}'")
    options = run_settings(
        device=device, devices=devices, precision=precision, threads=threads, compile=compile, replay=replay,
        tensorboard=tensorboard,
    )  # fmt: skip
    if add_task:
        if recipe:
            raise UnsupportedError(f"--add-task takes the pool's recipe, not '{recipe}'", hint="change it with --set")
        if data is None:
            raise UnsupportedError("--add-task needs --data, a folder with train/<class>/", hint="--data DIR")
        settings = [*settings, *options]
        _add(
            add_task, local_folder(pool, "adding a task"), out, data, classes, instead_of, field, settings,
            force=force, resume=resume, wait=wait,
        )  # fmt: skip
        return
    out = out or Path("pool")
    loaded = load_recipe(recipe or DEFAULT, [*settings, *options])
    finished = resume and out.exists()
    if started := start_processes(loaded.run):
        raise typer.Exit(started - 1)
    from kfdeploy.training.factorize import factorize

    fitted = factorize(loaded, out, force=force, resume=resume, wait=wait, report=TrainingProgress())
    if not is_main():
        return
    if finished:
        say(f"'{out}' is finished, and every file of it is as it should be")
    else:
        _say(out, fitted.seconds)


def _say(out: Path, seconds: float) -> None:
    """Say what a new pool is worth."""
    from kfdeploy.pool.pool import Pool
    from kfdeploy.targets.device.watch import peak_mib
    from kfdeploy.tasks.worth import subset_accuracy

    opened = Pool.open(out)
    accuracy = subset_accuracy(opened.evidence(), opened.tasks)
    teacher = opened.teacher["accuracy"]
    seen = " (a published teacher may have seen these images)" if opened.teacher["seen_validation"] else ""
    say(f"teacher: {100 * teacher['validation']:.2f} % on validation{seen}, {100 * teacher['test']:.2f} % on test")
    say(
        f"pool:    {100 * accuracy.value:.2f} % on {accuracy.images} validation images, {len(opened.tasks)} tasks: "
        f"{tasks_text([task.name for task in opened.tasks])}"
    )
    peak = peak_mib()
    memory = "" if peak is None else f", with {peak * 2**20 / 1e9:.1f} GB of memory at most"
    say(f"trained in {seconds:.0f} s{memory}; log: {out / 'train' / 'log.csv'}")
    say(f"wrote {out}")
    named = [opened.tasks[0].name, *([opened.tasks[-1].name] if len(opened.tasks) > 1 else [])]
    where = [] if out == Path("pool") else ["--pool", str(out)]
    say(f"next:  {shlex.join(['kfdeploy', 'assemble', *task_words(named), *where])}")


def _add(
    name: str, pool: Path, out: Path | None, data: Path, classes: list[str], instead_of: list[str], field: str,
    settings: list[str], *, force: bool, resume: bool, wait: bool,
) -> None:  # fmt: skip
    """Add a task to a pool, and say what it is worth."""
    from kfdeploy.manifest import POOL
    from kfdeploy.pool.pool import Pool
    from kfdeploy.tasks.worth import known_accuracy
    from kfdeploy.training.recipe.recipe import apply_settings, parse_recipe

    changed = parse_recipe(apply_settings(Pool.open(pool).recipe, settings), str(pool / POOL))
    if started := start_processes(changed.run):
        raise typer.Exit(started - 1)
    from kfdeploy.training.grow.add_task import add_task

    fitted = add_task(
        pool, name, data=data, classes=classes, instead_of=instead_of, field=field, out=out, settings=settings,
        force=force, resume=resume, wait=wait, report=TrainingProgress(),
    )  # fmt: skip
    if not is_main():
        return
    place = out or pool
    grown = Pool.open(place)
    entry, about = grown.entries[-1], grown.added[-1]
    taught = "the teacher and labels" if about["teacher"] else "labels"
    say(f"task:    {name}, {len(entry['classes'])} classes, learned from {taught} in {fitted.seconds:.0f} s")
    beside = [task for task in grown.tasks if not set(task.classes) & set(about["instead_of"])]
    evidence = grown.evidence(beside)
    if accuracy := known_accuracy(evidence, beside):
        say(f"pool:    {100 * accuracy.value:.2f} % on {accuracy.images} validation images, {len(beside)} tasks")
    else:
        say("pool:    what the new task is worth beside all others cannot be known: their images are gone")
    size = grown.files[entry["file"]]["bytes"]
    say(f"size:    {size:,} bytes; every file of the other tasks is what it was")
    say(f"wrote {place}")
    where = [] if place == Path("pool") else ["--pool", str(place)]
    say(f"next:  {shlex.join(['kfdeploy', 'assemble', *task_words([grown.tasks[0].name, name]), *where])}")
