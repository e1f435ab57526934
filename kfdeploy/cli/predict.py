"""`kfdeploy predict`: classes and probabilities for image files."""

from pathlib import Path

import typer

from kfdeploy.cli.console import say
from kfdeploy.shown import plain, without_secrets


def command(
    images: list[Path] = typer.Argument(..., metavar="IMAGE…", help="Image files, or folders of them."),
    model: Path = typer.Option(Path("assembly"), help="An assembly, a student or an artifact."),
    top: int = typer.Option(3, min=1, help="How many classes to print."),
    threads: int = typer.Option(1, min=1, help="Threads of the runtime."),
    json: bool = typer.Option(False, "--json", help="One JSON object a line."),
) -> None:
    """Print the likeliest classes of images, given that each shows one of the model's; or none of these. Of a model
    with several fields, each of them has its answer.

    Ends with status 1 where an image could not be read; the others are printed all the same.
    """
    import json as library

    from kfdeploy.deploy.predict import predict

    broken = 0
    for found in predict(model, images, top=top, threads=threads):
        broken += bool(found.error)
        if json:
            say(library.dumps(found.to_json(), ensure_ascii=False))
        elif found.error:
            say(f"{found.path}: not classified")
            typer.echo(f"error: {plain(without_secrets(found.error))}", err=True)
        else:
            say(f"{found.path}: {found}")
    if broken:
        raise typer.Exit(1)
