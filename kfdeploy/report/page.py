"""The report for people: one HTML file from a benchmark's JSON, that needs no network; and the same as Markdown."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfdeploy.errors import DataError, UsageError, require
from kfdeploy.manifest import read_manifest
from kfdeploy.measuring import result as measured
from kfdeploy.outputs import check_place
from kfdeploy.report import charts, curves, factors, tables, words
from kfdeploy.report import sentences as report
from kfdeploy.report.picture import plot
from kfdeploy.report.words import Row, esc
from kfdeploy.version import __version__
from kfdeploy.writing import write_file

_PARTS = Path(__file__).parent
_KINDS = ("assembly", "student", "teacher")  # that `plot` has a mark for
# Pieces of the file that have a section of their own.
_SHOWN = {"schema", "kind", "quick", "answer", "answers", "rows", "comparisons", "machine", "machines", "protocol",
          "break_even"}  # fmt: skip


def read_result(path: str | Path) -> dict[str, Any]:
    """Read what `kfdeploy benchmark --json` wrote.

    Raises:
        PoolError: the file is missing or not JSON, or of another schema or kind.
        DataError: it has no rows.
    """

    result = measured.read_result(Path(path))
    if not _rows(result):
        raise DataError(
            f"'{path}' has no rows, so there is nothing to report", hint="kfdeploy benchmark --json benchmark.json"
        )
    return result


def read_inspection(path: str | Path) -> dict[str, Any]:
    """Read what `kfdeploy inspect --json` wrote.

    Raises:
        PoolError: the file is missing or not JSON, or of another schema or kind.
    """
    return read_manifest(Path(path), "inspection", "kfdeploy inspect --json inspect.json")


def write_report(
    result: Mapping[str, Any],
    out: str | Path = "report.html",
    *,
    inspection: Mapping[str, Any] | None = None,
    markdown_to: str | Path | None = None,
    png: str | Path | None = None,
    force: bool = False,
) -> list[Path]:
    """Write the HTML page, and the Markdown and the picture where they are asked for; return what was written.

    Raises:
        UsageError: two of them have one place.
        OutputError: a place is taken, or cannot be written to.
        MissingDependencyError: the picture needs matplotlib.
        DataError: there is nothing to draw in the picture.
    """
    places = [Path(place) for place in (out, markdown_to, png) if place is not None]
    if len({place.absolute() for place in places}) < len(places):
        raise UsageError(f"two of the files to write are '{places[-1]}'", hint="name each differently")
    for place in places:
        check_place(place, force=force)
    picture = _picture(result) if png is not None else {}
    write_file(Path(out), page(result, inspection))
    if markdown_to is not None:
        write_file(Path(markdown_to), markdown(result))
    if png is not None:
        plot(picture, Path(png))
    return places


def page(result: Mapping[str, Any], inspection: Mapping[str, Any] | None = None) -> str:
    """Return a benchmark, and an inspection where there is one, as one HTML page that loads nothing.

    Every text that comes from them is escaped. What a row lacks is left out or said to be not available.
    """
    result = measured.upgraded(result)
    script, style = ((_PARTS / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    only = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()  # no other script may run
    rows = _rows(result)
    sections = [section for section in _sections(result, rows, inspection) if section[2]]
    links = "".join(f'<li><a href="#{name}">{esc(title)}</a></li>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{esc(title)}</h2>\n{html}</section>\n' for name, title, html in sections)
    title = f"Benchmark: {words.tasks(rows) or 'no tasks named'}"
    quick = '<p class="quick" role="note"><strong>A quick look</strong>: too short for its numbers to be quoted.</p>\n'
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'sha256-{only}'">
<link rel="icon" href="data:,">
<title>{esc(title)}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{esc(title)}</h1>
<p class="what">{esc(_circumstances(result, rows))}</p>
{quick if result.get("quick") else ""}<p class="answer">{esc(words.answer(result))}</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
</header>
<main>
{body}</main>
<footer>Written by kfdeploy {esc(__version__)}. This file loads nothing from anywhere.</footer>
<div id="tip" role="tooltip" hidden></div>
<script>{script}</script>
</body>
</html>
"""
    return text.encode("utf-8", "replace").decode()  # JSON may hold half a character


def markdown(result: Mapping[str, Any]) -> str:
    """Return the tables and the sentences as Markdown."""
    result = measured.upgraded(result)
    rows = _rows(result)
    parts = [
        tables.plain(words.answer(result)) + "\n",
        "".join(f"- {tables.plain(sentence)}\n" for sentence in words.answers(result)),
        tables.results(rows).markdown(),
        tables.costs(rows).markdown(),
        tables.plain(_circumstances(result, rows)) + "\n",
        "".join(f"- {tables.plain(sentence)}\n" for sentence in words.sentences(result)),
    ]
    return "\n".join(part for part in parts if part).encode("utf-8", "replace").decode()


def _rows(result: Mapping[str, Any]) -> list[Row]:
    return [row for row in words.listed(result, "rows") if isinstance(row, dict)]


def _sections(
    result: Mapping[str, Any], rows: Sequence[Row], inspection: Mapping[str, Any] | None
) -> list[tuple[str, str, str]]:
    """Return every section's id, heading and HTML, which is empty where there is nothing to show."""
    return [
        ("pareto", "Accuracy over latency", _with(_PARETO, charts.pareto(rows))),
        ("results", "Results", _answers(result) + tables.results(rows).html() + _compared(result)),
        ("latency", "Latency, every sample", _with(_LATENCY, charts.distributions(rows))),
        ("accuracy", "Accuracy", charts.accuracies(rows) + _per_class(rows)),
        ("break-even", "Break-even", curves.break_even(result)),
        ("cost", "Size and cost", tables.costs(rows).html()),
        ("stages", "Stages", curves.stages(rows)),
        ("factors", "Are the factors factors?", factors.section(inspection or {})),
        ("environment", "Environment", _environment(result)),
        ("numbers", "Every number", _numbers(rows)),
    ]


_PARETO = (
    "Up and to the left is better. The dashed line is the front: no other model there is both as fast and as accurate. "
    "Point at a mark, or reach it with the Tab key, for its numbers."
)
_LATENCY = (
    "Each hill is a histogram of all samples, not thinned, on a logarithmic axis; where some are beyond its right edge "
    "the tooltip says how many. The thick line is p50, the dashed one p90; the dots are the medians of single rounds."
)


def _with(hint: str, html: str) -> str:
    return f'<p class="hint">{esc(hint)}</p>\n{html}' if html else ""


def _answers(result: Mapping[str, Any]) -> str:
    said = words.answers(result)
    return "<ul>" + "".join(f"<li>{esc(sentence)}</li>\n" for sentence in said) + "</ul>\n" if said else ""


def _compared(result: Mapping[str, Any]) -> str:
    said = words.sentences(result)
    if not said:
        return ""
    items = "".join(f"<li>{esc(sentence)}.</li>\n" for sentence in (each.rstrip(".") for each in said))
    return charts.ratios(result) + f"<details><summary>Each comparison in words</summary><ul>\n{items}</ul></details>\n"


def _per_class(rows: Sequence[Row]) -> str:
    told = {f"{words.model(row)}, {words.how(row)}": words.inner(row, "per_class") for row in rows}
    told = {name: shares for name, shares in told.items() if shares}
    names = list(dict.fromkeys(name for shares in told.values() for name in shares))
    cells = {name: [shares.get(each) for each in names] for name, shares in told.items()}
    return tables.heat("Accuracy per class", names, cells, low=None)


def _environment(result: Mapping[str, Any]) -> str:
    machine = {key: value for key, value in words.inner(result, "machine").items() if key != "versions"}
    versions = words.inner(words.inner(result, "machine"), "versions")
    rest = {key: value for key, value in result.items() if key not in _SHOWN}
    several = words.inner(result, "machines") if report.merged(_rows(result)) else {}
    found = (
        *((("Machine", machine), ("Versions", versions)) if not several else ()),
        *((f"Machine: {name}", about) for name, about in several.items() if isinstance(about, Mapping)),
        ("Protocol", words.inner(result, "protocol")),
        ("Also", rest),
    )
    html = "".join(tables.facts(caption, about).html() for caption, about in found)
    return f'<div class="facts">{html}</div>' if html else ""


def _numbers(rows: Sequence[Row]) -> str:
    return (
        tables.everything(rows).html()
        + '<p class="hint">Single samples are in the JSON; here is how many there are.</p>\n'
        + '<p class="js-only"><button type="button" id="copy">Copy as CSV</button> '
        + '<span id="copied" role="status"></span></p>\n'
        + "<details><summary>The same as CSV</summary>"
        + '<textarea id="csv" readonly rows="12" spellcheck="false" aria-label="every number as CSV">\n'
        + f"{esc(tables.comma_separated(rows))}</textarea></details>\n"
    )


def _circumstances(result: Mapping[str, Any], rows: Sequence[Row]) -> str:
    machine, protocol = words.inner(result, "machine"), words.inner(result, "protocol")
    models = len({words.model(row) for row in rows})
    images = next((count for row in rows if (count := words.number(row.get("images")))), None)
    parts = [
        f"{models} model{'s' if models != 1 else ''}, {len(rows)} row{'s' if len(rows) != 1 else ''}",
        f"accuracy on {images:,.0f} test images" if images else "",
        f"{protocol['rounds']} alternating rounds of fresh processes" if protocol.get("rounds") else "",
        f"{machine['cpu']}" + (f", {machine['cores']} cores" if machine.get("cores") else "")
        if machine.get("cpu")
        else "",
        str(machine.get("os", "")),
    ]
    return " · ".join(part for part in parts if part)


def _picture(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `plot` can draw: rows with a latency and an accuracy.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        DataError: there are none.
    """
    require("matplotlib", "plot", "the picture")
    rows = []
    for row in _rows(result):
        p50, accuracy = words.latency(row), words.number(row.get("accuracy"))
        if p50 is not None and accuracy is not None:
            blank = {"name": "unnamed", "target": "", "threads": 1, "scenario": "", "tasks": []}
            kind = row["kind"] if row.get("kind") in _KINDS else _KINDS[1]
            latency = {"p50": p50, "p90": words.latency(row, "p90") or p50}
            rows.append({**blank, **row, "kind": kind, "latency_ms": latency})
    if not rows:
        raise DataError("no row has both a latency and an accuracy, so there is no picture", hint="leave --png out")
    return {"quick": bool(result.get("quick")), "rows": rows}
