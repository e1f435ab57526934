"""`kfdeploy inspect`: are a pool's factors factors?"""

from pathlib import Path

import typer

from kfdeploy.cli.console import FORCE, POOL, say


def command(
    pool: str = typer.Argument("pool", metavar=f"[{POOL}]", help="The pool."),
    data: Path | None = typer.Option(None, help="A folder with train/ and test/ in place of the pool's own data."),
    subsets: int = typer.Option(100, min=1, help="How many random subsets the calibration error is of."),
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

    picture = plot or (json.with_suffix(".png") if json is not None else Path("inspection.png"))
    for place in (json, plot):  # before minutes of probing, not after
        if place is not None:
            check_place(place, force=force)
    found = inspect(pool, data=data, subsets=subsets)
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
