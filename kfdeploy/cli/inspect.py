"""`kfdeploy inspect`: are a pool's factors factors?"""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kfdeploy.cli.console import FORCE, POOL, say

if TYPE_CHECKING:
    from kfdeploy.measuring.factors.inspect import Disentangled


def command(
    pool: str = typer.Argument("pool", metavar=f"[{POOL}]", help="The pool."),
    data: Path | None = typer.Option(None, help="A folder with train/ and test/ in place of the pool's own data."),
    subsets: int = typer.Option(100, min=1, help="How many random subsets the calibration error is of."),
    beside: list[Path] = typer.Option([], metavar="MODEL…", help="Students and teachers to compare the factors with."),
    disentanglement: bool = typer.Option(
        False, "--disentanglement", help="MIG, SAP, DCI and FactorVAE, of a pool of several fields."
    ),
    codes: list[str] = typer.Option([], metavar="tasks|each|common…", help="Of which codes. Default: all three."),
    trees: str = typer.Option("", metavar="forest|gbt", help="What DCI is by; gbt takes a hundred times as long."),
    json: Path | None = typer.Option(None, help="Where every number goes."),
    plot: Path | None = typer.Option(None, help="Where the picture goes. Default: beside --json, else inspection.png."),
    force: bool = FORCE,
) -> None:
    """Say how alike the factors are (CKA), what each knows (linear probes), and how well subsets are calibrated."""
    from kfdeploy.errors import MissingDependencyError
    from kfdeploy.files import dump_line_json
    from kfdeploy.measuring.factors.inspect import inspect
    from kfdeploy.outputs import check_place
    from kfdeploy.report.factors import plot as draw
    from kfdeploy.report.factors import sentences
    from kfdeploy.writing import write_file

    asked = _asked(disentanglement, codes, trees)
    picture = plot or (json.with_suffix(".png") if json is not None else Path("inspection.png"))
    for place in (json, plot):  # before minutes of probing, not after
        if place is not None:
            check_place(place, force=force)
    found = inspect(pool, data=data, subsets=subsets, disentanglement=asked, beside=beside, note=say)
    for line in sentences(found):
        say(line)
    if json is not None:
        write_file(json, dump_line_json(found))
        say(f"wrote {json}")
    try:
        draw(found, picture)
        say(f"wrote {picture}")
    except MissingDependencyError as error:
        if plot is not None:
            raise
        say(f"no picture: {error}  ({error.hint})")


def _asked(wanted: bool, codes: list[str], trees: str) -> "Disentangled | None":
    """Return what to measure disentanglement on, or None where that was not asked for."""
    from typing import cast

    from kfdeploy.errors import UnsupportedError
    from kfdeploy.measuring.factors.codes import CODES, check_codes
    from kfdeploy.measuring.factors.disentanglement import Trees, check_trees
    from kfdeploy.measuring.factors.inspect import Disentangled
    from kfdeploy.tasks.spec import split_words

    names, by = tuple(split_words(codes)), trees or "forest"
    check_codes(names)
    check_trees(by)
    if not wanted and (names or trees):
        raise UnsupportedError(
            f"{'--codes' if names else '--trees'} is for --disentanglement, and that was not asked for",
            hint="kfdeploy inspect --disentanglement",
        )
    return Disentangled(names or CODES, cast("Trees", by)) if wanted else None
