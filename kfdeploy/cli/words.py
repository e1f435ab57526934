"""The shared rule for options of several values: they take the words up to the next one that begins with `-`."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from kfdeploy.shown import plain, without_secrets

_UsageError: Any = typer.BadParameter.__base__  # whichever click typer brings


class WordsCommand(TyperCommand):
    """Rewrites `--tasks cat dog` as `--tasks cat --tasks dog` before parsing."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what `spread` makes of the arguments."""
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        known = {name for option in self.get_params(ctx) for name in (*option.opts, *option.secondary_opts)}
        with _shown():
            return super().parse_args(ctx, spread(args, several, known))


class VerbsGroup(TyperGroup):
    """The verbs, of which one that is not there may be a URL in the wrong place."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the verb and what follows it."""
        with _shown():
            return super().resolve_command(ctx, args)


@contextmanager
def _shown() -> Iterator[None]:
    """Let errors of the parser, which repeat what was typed, be fit to be shown."""
    try:
        yield
    except _UsageError as error:
        error.message = plain(without_secrets(error.message))
        raise


def spread(args: list[str], several: set[str], known: Collection[str] = ()) -> list[str]:
    """Repeat each option in `several` before each of its words.

    A word with one dash that is no `known` option is a value: classes may be called -1.
    """

    def is_option(word: str) -> bool:
        return len(word) > 1 and (word.startswith("--") or (word.startswith("-") and (not known or word in known)))

    out: list[str] = []
    current = ""
    for i, word in enumerate(args):
        if word == "--":
            return [*out, *args[i:]]
        if is_option(word):
            current = word if word in several else ""
            # Kept where no word follows, so that the parser says what is missing.
            if not current or i + 1 == len(args) or is_option(args[i + 1]):
                out.append(word)
        elif current:
            out += [current, word]
        else:
            out.append(word)
    return out


def task_words(names: Sequence[str]) -> list[str]:
    """Return `--tasks` with these names as words of a command line that this module reads back as these names."""
    if any(name.startswith("-") and not name[1:2].isdigit() for name in names):
        return [f"--tasks={name}" for name in names]
    return ["--tasks", *names]
