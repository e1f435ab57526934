"""The shared rule for options of several values: they take the words up to the next one that begins with `-`."""

from typing import Any

from typer.core import TyperCommand


class WordsCommand(TyperCommand):
    """Rewrites `--tasks cat dog` as `--tasks cat --tasks dog` before parsing."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what `spread` makes of the arguments."""
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        return super().parse_args(ctx, spread(args, several))


def spread(args: list[str], several: set[str]) -> list[str]:
    """Repeat each option in `several` before each of its words."""
    out: list[str] = []
    current = ""
    for i, word in enumerate(args):
        if word == "--":
            return [*out, *args[i:]]
        if word.startswith("-") and len(word) > 1:
            current = word if word in several else ""
            # Kept where no word follows, so that the parser says what is missing.
            if not current or i + 1 == len(args) or args[i + 1].startswith("-"):
                out.append(word)
        elif current:
            out += [current, word]
        else:
            out.append(word)
    return out
