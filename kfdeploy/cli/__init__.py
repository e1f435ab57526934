"""The command line: one module a verb, each of which parses, calls one function, and prints."""

import codecs
import io
import json
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
    rotate,
    sign,
    verify,
)
from kfdeploy.cli.words import VerbsGroup, WordsCommand
from kfdeploy.errors import KfdeployError, UsageError
from kfdeploy.shown import plain
from kfdeploy.training.loop.progress import is_main
from kfdeploy.version import __version__

app = typer.Typer(
    name="kfdeploy",
    cls=VerbsGroup,
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
    rotate,
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
    """Run the command line; errors of ours, and of the system, are printed with a hint, anything else is a bug."""
    codecs.register_error("kfdeploy.escaped", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that a terminal or a log lacks is no reason to stop
            stream.reconfigure(errors="kfdeploy.escaped")
    try:
        for word in sys.argv[1:]:
            if any("\ud800" <= letter <= "\udfff" for letter in word):
                shown = os.fsencode(word).decode("utf-8", "backslashreplace")
                raise UsageError(f"'{shown}' is no text in UTF-8", hint="rename the file, or type it again")
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where a reader that has gone is told apart, and not when Python ends
    except KfdeployError as error:
        _tell(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever read what is printed has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"'{str(error.filename)[:200]}'" if error.filename is not None else "the system says"
        _tell(KfdeployError(f"{where}: {error.strerror or error}", hint="choose another place, or mend its rights"))
        sys.exit(1)
    except MemoryError:
        _tell(KfdeployError("there is not enough memory for this", hint="free some, or ask for less at a time"))
        sys.exit(1)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Write letters that an encoding lacks as JSON has them, so that a line of JSON is still one."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


def _tell(error: KfdeployError) -> None:
    # Of several processes each has its own data, so each must speak; what is asked for is wrong in all alike.
    if is_main() or not isinstance(error, UsageError):
        who = "" if is_main() else f"process {int(os.environ['RANK']) + 1}: "
        print(f"{who}error: {plain(error)}", file=sys.stderr)
        if error.hint:
            print(f"hint:  {plain(error.hint)}", file=sys.stderr)
