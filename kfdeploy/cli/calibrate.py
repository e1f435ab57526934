"""`kfdeploy calibrate`: the ranges of activations that int8 needs, kept in the pool."""

from pathlib import Path

import typer

from kfdeploy.cli.console import WAIT, say


def command(
    paths: list[str] | None = typer.Argument(None, metavar="[PATH]…", help="Pools, students, teachers. Default: pool."),
    images: int = typer.Option(512, min=1, help="How many validation images to observe."),
    data: Path | None = typer.Option(None, help="A folder with train/<class>/ in place of the pool's own data."),
    wait: bool = WAIT,
) -> None:
    """Observe activations on validation images, module by module (factorize and distil do so themselves)."""
    from kfdeploy.deploy.calibrate import calibrate

    for path in paths or ["pool"]:
        count = calibrate(path, images=images, data=data, wait=wait, report=say)
        say(f"{path}: ranges of {count} validation images")
    say("next:  kfdeploy assemble --tasks …, then kfdeploy export --precision int8")
