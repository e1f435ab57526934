"""`kfdeploy recipes`: list, show or copy the shipped recipes, and every key that one may have."""

from pathlib import Path

import typer

from kfdeploy.cli.console import FORCE, say
from kfdeploy.cli.words import VerbsGroup, WordsCommand

app = typer.Typer(cls=VerbsGroup, help="List, show or copy the shipped recipes.", no_args_is_help=True)


@app.command("list", cls=WordsCommand)
def list_recipes() -> None:
    """Print each shipped recipe with its first line."""
    from kfdeploy.training.recipe.recipe import shipped

    for name, path in shipped().items():
        say(f"{name:<16} {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")


@app.command("show", cls=WordsCommand)
def show(name: str = typer.Argument(..., help="A shipped name.")) -> None:
    """Print a recipe."""
    from kfdeploy.training.recipe.recipe import recipe_text

    say(recipe_text(name).rstrip())


@app.command("keys", cls=WordsCommand)
def keys() -> None:
    """Print every key that a recipe may have, with its type and default (Markdown)."""
    from kfdeploy.training.recipe.reference import reference

    say(reference().rstrip())


@app.command("copy", cls=WordsCommand)
def copy(
    name: str = typer.Argument(..., help="A shipped name."),
    out: Path | None = typer.Argument(None, help="Where to. Default: <name>.toml here."),
    force: bool = FORCE,
) -> None:
    """Copy a recipe, to be changed."""
    from kfdeploy.outputs import check_place
    from kfdeploy.training.recipe.recipe import recipe_text
    from kfdeploy.writing import write_file

    text = recipe_text(name)
    place = out or Path(f"{name}.toml")
    place = place / f"{name}.toml" if place.is_dir() else place
    check_place(place, force=force)
    write_file(place, text)
    say(f"wrote {place}")
    say(f"next:  kfdeploy factorize {place}")
