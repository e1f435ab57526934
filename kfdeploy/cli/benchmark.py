"""`kfdeploy benchmark`: which of these goes onto the device?"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kfdeploy.cli.console import FORCE, POOL, say

if TYPE_CHECKING:
    from collections.abc import Callable


def command(
    artifacts: list[Path] | None = typer.Argument(None, metavar="[ARTIFACT]…", help="Default: all in artifacts/."),
    scenario: list[str] = typer.Option(
        ["single-stream", "offline"], "--scenario", metavar="NAME…", help="single-stream, offline."
    ),
    threads: list[int] = typer.Option([1], "--threads", min=1, metavar="N…", help="Threads of the runtime."),
    batch: int = typer.Option(32, min=1, help="Images at a time in the offline scenario."),
    quick: bool = typer.Option(False, "--quick", help="A look, too short for numbers to be quoted."),
    data: Path | None = typer.Option(None, help="A folder with test/<class>/ in place of the models' own data."),
    max_ms: float | None = typer.Option(None, min=0, help="The winner takes at most so many milliseconds (p50)."),
    max_mb: float | None = typer.Option(None, min=0, help="The winner has at most so many megabytes."),
    min_accuracy: float | None = typer.Option(None, min=0, max=1, help="The winner is right in at least this share."),
    fail_if: list[str] = typer.Option(
        [], "--fail-if", metavar="GATE…", help='Exit with 3 where it holds, such as "p50_ratio > 1.0".'
    ),
    baseline: Path | None = typer.Option(None, help="An older --json: say what changed beyond the noise."),
    device: str | None = typer.Option(
        None, metavar="ssh://[user@]host[:port]", help="Measure there, with the artifacts' kits, and bring it back."
    ),
    python: str = typer.Option("python3", help="With --device: the Python there."),
    host: bool = typer.Option(False, "--host", help="With --device: name its host in the result, which else does not."),
    imported: list[Path] = typer.Option(
        [], "--import", metavar="JSON…", help="Add the results of other machines, such as a kit's bench.py --json."
    ),
    profile: Path | None = typer.Option(
        None, help="Measure what a pool's tasks cost here, for kfdeploy plan, and write it to this file."
    ),
    pool: str = typer.Option("pool", metavar=POOL, help="With --profile: the pool."),
    target: str = typer.Option("onnx", help="With --profile: the target whose costs are measured."),
    precision: str = typer.Option("fp32", help="With --profile: the precision."),
    json: Path | None = typer.Option(None, help="Where every number goes; an interrupted run goes on beside it."),
    plot: Path | None = typer.Option(None, help="Where the picture goes. Default: beside --json, else benchmark.png."),
    force: bool = FORCE,
) -> None:
    """Measure artifacts in alternating rounds of fresh processes: latency, throughput, accuracy, size."""
    # Long by its options alone: each is a line of its own in --help.
    from kfdeploy.errors import GateError
    from kfdeploy.files import dump_line_json
    from kfdeploy.measuring import gates
    from kfdeploy.measuring.result import read_result
    from kfdeploy.outputs import check_place
    from kfdeploy.tasks.spec import split_words
    from kfdeploy.writing import write_file

    if profile is not None:
        _profile(profile, pool, threads[0], quick, force, target, precision)
        return
    wanted = gates.parse(fail_if)  # arguments are checked before files
    past = read_result(baseline) if baseline is not None else None
    for place in (json, plot):  # before minutes of measuring, not after
        if place is not None:
            check_place(place, force=force)
    picture = plot or _default_picture(json, force)
    asked = {"scenarios": split_words(scenario), "threads": threads, "batch": batch, "quick": quick, "data": data}
    limits = {"max_ms": max_ms, "max_mb": max_mb, "min_accuracy": min_accuracy}
    if device is not None:
        result = _elsewhere(device, artifacts or [], json, asked | {"python": python, "host": host})
    else:
        result = _here(artifacts or [], json, asked | limits)
    if imported:
        result = _with(result, imported, limits)
    if json is not None:
        write_file(json, dump_line_json(result))
        _finished(json).unlink(missing_ok=True)
    _say(result)
    if past is not None:
        say("\n".join(gates.changes(result, past)) or "nothing changed beyond the noise since the baseline")
    if json is not None:
        say(f"wrote {json}")
    _draw(result, picture, wanted=plot is not None)
    if failed := gates.check(result, wanted):
        raise GateError("; ".join(failed))


def _finished(json: Path) -> Path:
    """Return the file where the rounds are kept that an interrupted run goes on from."""
    return json.with_name(f".{json.name}.rounds")


def _reporter() -> "Callable[[str], None]":
    return say if sys.stdout.isatty() else lambda _: None


def _here(artifacts: list[Path], json: Path | None, asked: dict[str, Any]) -> dict[str, Any]:
    from kfdeploy.measuring.benchmark import benchmark

    return benchmark(artifacts, finished=None if json is None else _finished(json), report=_reporter(), **asked)


def _elsewhere(device: str, artifacts: list[Path], json: Path | None, asked: dict[str, Any]) -> dict[str, Any]:
    """Measure on a device; where it is lost, the rows that were finished go to `json`."""
    from kfdeploy.deploy.here import find_artifacts
    from kfdeploy.errors import RemoteError
    from kfdeploy.files import dump_line_json
    from kfdeploy.measuring.remote import benchmark_on
    from kfdeploy.writing import write_file

    try:
        return benchmark_on(device, find_artifacts(artifacts), report=_reporter(), **asked)
    except RemoteError as error:
        if error.result is not None and json is not None:
            write_file(json, dump_line_json(error.result))
            say(f"the rows finished before it are in {json}")
        raise


def _with(result: dict[str, Any], imported: list[Path], limits: dict[str, float | None]) -> dict[str, Any]:
    """Return a result with those of other machines, answered anew."""
    from kfdeploy.measuring.answer import answer
    from kfdeploy.measuring.machines import import_result

    whole = import_result(result, imported)
    return whole | answer(whole, **limits)


def _say(result: dict[str, Any]) -> None:
    from rich.console import Console

    from kfdeploy.report.sentences import sentences
    from kfdeploy.report.tables import overview

    # A terminal has its own width; a file or a pipe gets whole lines.
    Console(width=None if sys.stdout.isatty() else 160).print(overview(result).terminal())
    for sentence in sentences(result):
        say(sentence)
    for found in result.get("answers", ()):
        say(found["sentence"])
    for note in result.get("notes", []):
        say(note)


def _default_picture(json: Path | None, force: bool) -> Path:
    """Return where the picture goes that was not asked for by name, and refuse one that is the user's own.

    Raises:
        OutputError: as above.
    """
    from kfdeploy.errors import OutputError
    from kfdeploy.outputs import check_place
    from kfdeploy.report.picture import is_ours

    picture = json.with_suffix(".png") if json is not None else Path("benchmark.png")
    if picture.exists() and not force and not is_ours(picture):
        raise OutputError(
            f"'{picture}' is already there, and is no picture of a benchmark", hint="name another place with --plot"
        )
    check_place(picture, force=True)
    return picture


def _draw(result: dict[str, Any], picture: Path, *, wanted: bool) -> None:
    """Draw the picture; where it was not asked for by name, it may be missing."""
    from kfdeploy.errors import MissingDependencyError
    from kfdeploy.report.picture import plot as draw

    try:
        draw(result, picture)
        say(f"wrote {picture}")
    except MissingDependencyError as error:
        if wanted:
            raise
        say(f"no picture: {error}  ({error.hint})")


def _profile(place: Path, pool: str, threads: int, quick: bool, force: bool, target: str, precision: str) -> None:
    """Measure the costs of a pool's tasks, and of the students here."""
    from kfdeploy.measuring.costs import profile, write_costs
    from kfdeploy.outputs import check_place

    check_place(place, force=force)
    students = [path for path in sorted(Path("students").glob("*")) if (path / "assembly.json").is_file()]
    costs = profile(
        pool, students=students, target=target, precision=precision, threads=threads, quick=quick, report=_reporter()
    )
    write_costs(place, costs)
    say(f"{costs.common_ms:.3f} ms + {costs.task_ms:.3f} ms a task, off by at most {100 * costs.error:.0f} %")
    say(f"wrote {place}")
    say("next:  kfdeploy plan --budget-ms …")
