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
    TrainingProgress,
    run_settings,
    say,
    start_processes,
    tasks_text,
)
from kfdeploy.progress import is_main


def command(
    recipe: str = typer.Argument("", metavar="[RECIPE]", help="A file, or a shipped name. Default: digits."),
    out: Path = typer.Option(Path("pool"), help="Where the pool goes."),
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
) -> None:
    """Factorize a teacher into a pool: one common network, and one small network per task."""
    from kfdeploy.errors import require_training
    from kfdeploy.pool import Pool
    from kfdeploy.recipe import DEFAULT, load_recipe

    require_training("factorizing")
    if not recipe:
        say(f"no recipe was named: taking the embedded default, '{DEFAULT}'")
    options = run_settings(
        device=device, devices=devices, precision=precision, threads=threads, compile=compile, replay=replay,
        tensorboard=tensorboard,
    )  # fmt: skip
    loaded = load_recipe(recipe or DEFAULT, [*settings, *options])
    finished = resume and out.exists()
    if started := start_processes(loaded.run):
        raise typer.Exit(started - 1)
    from kfdeploy.factorize import factorize

    fitted = factorize(loaded, out, force=force, resume=resume, report=TrainingProgress())
    if not is_main():
        return
    pool = Pool.open(out)
    if finished:
        say(f"'{out}' is finished, and every file of it is as it should be")
        return
    from kfdeploy.plan import subset_accuracy
    from kfdeploy.spec import class_names

    accuracy = subset_accuracy(pool.evidence(), class_names(pool.tasks))
    teacher = pool.manifest["teacher"]["accuracy"]
    seen = " (a published teacher may have seen these images)" if pool.manifest["teacher"]["seen_validation"] else ""
    say(f"teacher: {100 * teacher['validation']:.2f} % on validation{seen}, {100 * teacher['test']:.2f} % on test")
    say(
        f"pool:    {100 * accuracy.value:.2f} % on {accuracy.images} validation images, {len(pool.tasks)} tasks: "
        f"{tasks_text([task.name for task in pool.tasks])}"
    )
    say(f"trained in {fitted.seconds:.0f} s; log: {out / 'train' / 'log.csv'}")
    say(f"wrote {out}")
    named = [pool.tasks[0].name, *([pool.tasks[-1].name] if len(pool.tasks) > 1 else [])]
    where = [] if out == Path("pool") else ["--pool", str(out)]
    say(f"next:  {shlex.join(['kfdeploy', 'assemble', '--tasks', *named, *where])}")
