"""The benchmark's picture, by matplotlib."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfdeploy.errors import MissingDependencyError
from kfdeploy.files import write_file


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw accuracy over single-stream latency as a PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    measured = [row for row in result["rows"] if "reason" not in row and row["accuracy"] is not None]
    rows = [row for row in measured if row["scenario"] == "single-stream"] or measured
    figure = new_figure(7.5, 4.6, 150)
    axes = figure.add_subplot()
    shapes = {"assembly": "o", "student": "s", "teacher": "^"}
    targets = sorted({(row["target"], row["threads"]) for row in rows})
    for i, (target, threads) in enumerate(targets):
        for row in [row for row in rows if (row["target"], row["threads"]) == (target, threads)]:
            x, y = row["latency_ms"]["p50"], 100 * row["accuracy"]
            axes.plot([x], [y], shapes.get(row["kind"], "D"), color=f"C{i}", markersize=9, alpha=0.85)
            axes.hlines(y, x, row["latency_ms"]["p90"], color=f"C{i}", alpha=0.5)
            axes.annotate(row["name"], (x, y), textcoords="offset points", xytext=(7, 6 if i % 2 else -12), fontsize=8)
        axes.plot([], [], "o", color=f"C{i}", label=f"{target}, {threads} thread{'s' if threads > 1 else ''}")
    tasks = rows[0]["tasks"] if rows else []
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(_plain)
    axes.xaxis.set_minor_formatter(_plain)
    axes.tick_params(axis="x", which="both", labelsize=8)
    axes.set_xlabel("single-stream latency, ms (mark: p50, line to p90)")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(_title(tasks) + (" (a quick look)" if result["quick"] else ""), fontsize=10)
    axes.margins(x=0.15, y=0.2)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    save_figure(figure, path)


def new_figure(width: float, height: float, dpi: int) -> Any:
    """Return an empty matplotlib figure, in inches, that needs no display.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError(
            "the plot needs matplotlib, which is not installed", hint='pip install "kfdeploy[plot]"'
        ) from None
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_file(path, picture.getvalue())


def _plain(value: float, _: object = None) -> str:
    return f"{value:.3g}"


def _title(tasks: Sequence[str]) -> str:
    return ", ".join(tasks) if len(tasks) <= 5 else f"{len(tasks)} tasks"
