"""The benchmark's picture, by matplotlib."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfdeploy.errors import unloaded
from kfdeploy.measuring.result import scores
from kfdeploy.writing import write_file


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw accuracy over single-stream latency as a PNG, a panel for each subset of tasks that models were scored on.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    measured = [row for row in result["rows"] if "reason" not in row and scores(row)]
    rows = [row for row in measured if row["scenario"] == "single-stream"] or measured
    subjects = list(dict.fromkeys(subject for row in rows for subject in scores(row))) or [()]
    across = min(2, len(subjects))
    down = -(-len(subjects) // across)
    figure = new_figure(7.5 if across == 1 else 11.0, 4.6 if down == 1 else 3.8 * down, 150)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    targets = sorted({(row["target"], row["threads"]) for row in rows})
    for axes, subject in zip(panels, subjects, strict=False):
        _panel(axes, subject, [row for row in rows if subject in scores(row)], targets)
        quick = " (a quick look)" if result["quick"] else ""
        axes.set_title(_title(subject) + quick, fontsize=10)
    for axes in panels[len(subjects) :]:
        axes.set_visible(False)
    save_figure(figure, path)


def _panel(
    axes: Any, subject: tuple[str, ...], rows: Sequence[dict[str, Any]], targets: Sequence[tuple[str, int]]
) -> None:
    shapes = {"assembly": "o", "student": "s", "teacher": "^"}
    for i, (target, threads) in enumerate(targets):
        here = [row for row in rows if (row["target"], row["threads"]) == (target, threads)]
        for row in here:
            x, y = row["latency_ms"]["p50"], 100 * scores(row)[subject]["accuracy"]
            axes.plot([x], [y], shapes.get(row["kind"], "D"), color=f"C{i}", markersize=9, alpha=0.85)
            axes.hlines(y, x, row["latency_ms"]["p90"], color=f"C{i}", alpha=0.5)
            axes.annotate(row["name"], (x, y), textcoords="offset points", xytext=(7, 6 if i % 2 else -12), fontsize=8)
        if here:
            axes.plot([], [], "o", color=f"C{i}", label=f"{target}, {threads} thread{'s' if threads > 1 else ''}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plain)
    axes.xaxis.set_minor_formatter(_plain)
    axes.tick_params(axis="x", which="both", labelsize=8)
    axes.set_xlabel("single-stream latency, ms (mark: p50, line to p90)")
    several = any("fields" in scores(row)[subject] for row in rows)
    axes.set_ylabel("test accuracy, mean of the fields, %" if several else "test accuracy, %")
    axes.margins(x=0.15, y=0.2)
    axes.grid(alpha=0.25)
    if rows:
        axes.legend(fontsize=8)


_SIGN = "kfdeploy"  # in the PNG: a picture that has it may be replaced by a newer one


def new_figure(width: float, height: float, dpi: int) -> Any:
    """Return an empty matplotlib figure, in inches, that needs no display.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        absent = "the plot needs matplotlib, which is not installed"
        raise unloaded(error, "matplotlib", absent, 'pip install "kfdeploy[plot]"') from None
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": _SIGN})
    write_file(path, picture.getvalue())


def is_ours(path: Path) -> bool:
    """Return whether a file is a picture that `save_figure` wrote, by what it says of itself."""
    try:
        with path.open("rb") as stream:
            return f"Software\0{_SIGN}".encode() in stream.read(4096)
    except OSError:
        return False


def _plain(value: float, _: object = None) -> str:
    return f"{value:.3g}"


def _title(tasks: Sequence[str]) -> str:
    return ", ".join(tasks) if len(tasks) <= 5 else f"{len(tasks)} tasks"
