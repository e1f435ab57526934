"""`kfdeploy benchmark`: which of these goes onto the device?"""

from pathlib import Path

import typer

from kfdeploy.cli.console import FORCE, say


def command(
    artifacts: list[Path] | None = typer.Argument(None, metavar="[ARTIFACT]…", help="Default: all in artifacts/."),
    scenario: list[str] = typer.Option(
        ["single-stream", "offline"], "--scenario", metavar="NAME…", help="single-stream, offline."
    ),
    threads: list[int] = typer.Option([1], "--threads", min=1, metavar="N…", help="Threads of the runtime."),
    batch: int = typer.Option(32, min=1, help="Images at a time in the offline scenario."),
    quick: bool = typer.Option(False, "--quick", help="A look, too short for numbers to be quoted."),
    data: Path | None = typer.Option(None, help="A folder with test/<class>/ in place of the models' own data."),
    json: Path | None = typer.Option(None, help="Where every number goes."),
    plot: Path | None = typer.Option(None, help="Where the picture goes. Default: beside --json, else benchmark.png."),
    force: bool = FORCE,
) -> None:
    """Measure artifacts in alternating rounds of fresh processes: latency, throughput, accuracy, size."""
    import sys

    from rich.console import Console

    from kfdeploy import report
    from kfdeploy.benchmark import benchmark
    from kfdeploy.errors import MissingDependencyError
    from kfdeploy.files import check_place, dump_line_json, write_file
    from kfdeploy.pool import split_words

    picture = plot or (json.with_suffix(".png") if json is not None else Path("benchmark.png"))
    for place in (json, plot):  # before minutes of measuring, not after
        if place is not None:
            check_place(place, force=force)
    result = benchmark(
        artifacts or [],
        scenarios=split_words(scenario),
        threads=threads,
        batch=batch,
        quick=quick,
        data=data,
        report=say if sys.stdout.isatty() else lambda _: None,
    )
    if json is not None:
        write_file(json, dump_line_json(result))
    # A terminal has its own width; a file or a pipe gets whole lines.
    Console(width=None if sys.stdout.isatty() else 160).print(report.table(result))
    for sentence in report.sentences(result):
        say(sentence)
    if json is not None:
        say(f"wrote {json}")
    try:
        report.plot(result, picture)
        say(f"wrote {picture}")
    except MissingDependencyError as error:
        if plot is not None:
            raise
        say(f"no picture: {error}  ({error.hint})")
