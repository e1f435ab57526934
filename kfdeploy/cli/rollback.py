"""`kfdeploy rollback`: the assembly before the last update, again."""

from pathlib import Path

import typer

from kfdeploy.cli.console import say, tasks_text


def command(
    assembly: Path = typer.Argument(Path("assembly"), help="The assembly to take back."),
) -> None:
    """Put back the assembly that the last `kfdeploy apply` replaced; every file of it is checked."""
    from kfdeploy.deploy.update.apply import rollback

    model = rollback(assembly)
    say(f"tasks:  {tasks_text([task.name for task in model.tasks])}")
    say(f"wrote {assembly}: it is the one before the last update again")
    say(
        "next:  kfdeploy apply UPDATE"
        + ("" if assembly == Path("assembly") else f" {assembly}")
        + "   (when it is mended)"
    )
