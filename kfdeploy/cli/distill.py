"""`kfdeploy distill`: the full students, or one for just some tasks."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kfdeploy.cli.console import (
    COMPILE,
    DEVICE,
    DEVICES,
    FORCE,
    POOL,
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
)
from kfdeploy.training.loop.progress import is_main

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kfdeploy.training.loop.learner import Fitted


def command(
    recipe: str = typer.Argument("", metavar="[RECIPE]", help="A file, or a shipped name. Default: the pool's recipe."),
    students: list[str] = typer.Option([], "--student", metavar="NAME…", help="Only these of the recipe's students."),
    tasks: list[str] = typer.Option([], "--tasks", metavar="TASK…", help="Distil for just these tasks."),
    separate: bool = typer.Option(False, "--separate", help="One network a task, against all others, side by side."),
    pool: str = typer.Option("pool", metavar=POOL, help="A pool whose recipe and teacher to use."),
    out: Path = typer.Option(Path("students"), help="Where the students go, a folder each."),
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
    """Distil full students, the alternative to an assembly; one for just some tasks, or one a task, if asked."""
    # Long by its options alone: each is a line of its own in --help.
    from kfdeploy.errors import require_training
    from kfdeploy.manifest import POOL
    from kfdeploy.pool.pool import Pool
    from kfdeploy.pool.remote.locate import locate
    from kfdeploy.training.recipe.recipe import DEFAULT, apply_settings, load_recipe, parse_recipe

    options = run_settings(
        device=device, devices=devices, precision=precision, threads=threads, compile=compile, replay=replay,
        tensorboard=tensorboard,
    )  # fmt: skip
    chosen = [*settings, *options]
    place = locate(pool)
    has_pool = isinstance(place, str) or (place / POOL).is_file()
    require_training("distilling")
    if not recipe and has_pool:
        opened = Pool.open(pool)
        say(f"no recipe was named: taking that of '{opened.where}'")
        loaded = parse_recipe(apply_settings(opened.recipe, chosen), f"{opened.where}/{POOL}")
    else:
        if not recipe:
            say(f"no recipe was named: taking the embedded default, '{DEFAULT}'")
        loaded = load_recipe(recipe or DEFAULT, chosen)
    if started := start_processes(loaded.run):
        raise typer.Exit(started - 1)
    from kfdeploy.training.distill import distill

    done = distill(
        loaded,
        students=students,
        tasks=tasks,
        separate=separate,
        pool=place if has_pool else None,
        out=out,
        force=force,
        wait=wait,
        resume=resume,
        report=TrainingProgress(),
    )
    if is_main():
        _say(done)


def _say(done: "Mapping[Path, Fitted | None]") -> None:
    """Say what each student is worth."""
    from kfdeploy.deploy.model import Model

    for folder, fitted in done.items():
        found = Model.open(folder)
        if fitted is None:
            say(f"'{folder}' is finished, and every file of it is as it should be")
            continue
        say(
            f"{folder.name}: {100 * found.accuracy['validation']:.2f} % on {found.accuracy['images']} validation "
            f"images, {found.parameters:,} parameters, trained in {fitted.seconds:.0f} s"
        )
        say(f"wrote {folder}")
    say("next:  kfdeploy export --target onnx")
