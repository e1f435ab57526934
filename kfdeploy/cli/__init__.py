"""The command line: one module a verb, each of which parses, calls one function, and prints."""

import io
import os
import sys

import typer

from kfdeploy.cli import (
    apply,
    assemble,
    benchmark,
    calibrate,
    demo,
    diff,
    distill,
    doctor,
    export,
    factorize,
    inspect,
    keygen,
    plan,
    pool,
    predict,
    recipes,
    report,
    rollback,
    sign,
    verify,
)
from kfdeploy.cli.words import WordsCommand
from kfdeploy.errors import KfdeployError, UsageError
from kfdeploy.training.loop.progress import is_main
from kfdeploy.version import __version__

app = typer.Typer(
    name="kfdeploy",
    help="Factorize one teacher into a pool of parts, assemble any subset of its tasks, export, prove and measure it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


for verb in (
    factorize,
    distill,
    calibrate,
    plan,
    assemble,
    export,
    verify,
    benchmark,
    report,
    predict,
    inspect,
    diff,
    keygen,
    sign,
    apply,
    rollback,
    doctor,
    demo,
):
    app.command(cls=WordsCommand)(verb.command)
    app.registered_commands[-1].name = verb.__name__.rpartition(".")[2]


app.add_typer(pool.app, name="pool")


app.add_typer(recipes.app, name="recipes")


def _version(asked: bool) -> None:
    if asked:
        print(f"kfdeploy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print it."),
) -> None:
    """Factorize one teacher into a pool of parts, assemble any subset of its tasks, export, prove and measure it."""


def main() -> None:
    """Run the command line; errors of ours are printed with their hint, anything else is a bug and shows itself."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that a terminal or a log lacks is no reason to stop
            stream.reconfigure(errors="replace")
    try:
        app()
    except KfdeployError as error:
        # Of several processes each has its own data, so each must speak; what is asked for is wrong in all alike.
        if is_main() or not isinstance(error, UsageError):
            who = "" if is_main() else f"process {int(os.environ['RANK']) + 1}: "
            print(f"{who}error: {error}", file=sys.stderr)
            if error.hint:
                print(f"hint:  {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
