"""`kfdeploy report`: a benchmark as a page to look at and to send around."""

from pathlib import Path

import typer

from kfdeploy.cli.console import FORCE, megabytes, say


def command(
    benchmark: Path = typer.Argument(
        Path("benchmark.json"), metavar="[FILE]", help="What `kfdeploy benchmark --json` wrote."
    ),
    inspection: Path | None = typer.Option(None, "--inspect", help="What `kfdeploy inspect --json` wrote."),
    out: Path = typer.Option(Path("report.html"), help="Where the page goes."),
    markdown: Path | None = typer.Option(None, help="Where the tables and sentences go, as Markdown."),
    png: Path | None = typer.Option(None, help="Where the picture goes."),
    force: bool = FORCE,
) -> None:
    """Write one HTML page that needs no network: plots, tables and every number of a benchmark."""
    from kfdeploy.errors import UsageError
    from kfdeploy.report.page import read_inspection, read_result, write_report
    from kfdeploy.report.words import answer

    sources = {path.absolute() for path in (benchmark, inspection) if path is not None}
    for place in (out, markdown, png):
        if place is not None and place.absolute() in sources:
            raise UsageError(f"'{place}' is read, so it cannot be written too", hint="choose another name")
    result = read_result(benchmark)
    found = read_inspection(inspection) if inspection is not None else None
    written = write_report(result, out, inspection=found, markdown_to=markdown, png=png, force=force)
    say(answer(result))
    for place in written:
        say(f"wrote {place} ({megabytes(place.stat().st_size)})")
