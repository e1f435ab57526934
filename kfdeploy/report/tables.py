"""The report's tables: each is said once, and written as HTML, Markdown or CSV."""

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kfdeploy.report import sentences as report
from kfdeploy.report.words import (
    MISSING,
    NONE,
    Row,
    doubts,
    esc,
    field_names,
    fields,
    figures,
    flat,
    how,
    latency,
    listed,
    model,
    number,
    share,
)
from kfdeploy.shown import cell, lines

if TYPE_CHECKING:
    from rich.table import Table as Terminal

_FIRST = ("kind", "name", "target", "precision", "scenario", "threads", "batch", "accuracy", "latency_ms.p50")


@dataclass(frozen=True)
class Table:
    """A caption, a header, and rows of text, of which the first `words` columns are words and the others numbers."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1

    def html(self) -> str:
        """Return the table in a box of its own that scrolls sideways; nothing for a table without rows."""
        if not self.rows:
            return ""
        head = "".join(f'<th scope="col"{self._kind(i)}>{esc(name)}</th>' for i, name in enumerate(self.head))
        body = "".join(f"<tr>{''.join(self._cell(i, cell) for i, cell in enumerate(row))}</tr>\n" for row in self.rows)
        return (
            f'<div class="wide" tabindex="0" role="region" aria-label="{esc(self.caption)}"><table>'
            f"<caption><span>{esc(self.caption)}</span></caption>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n"
        )

    def _cell(self, i: int, cell: str) -> str:
        if i == 0:
            return f'<th scope="row">{esc(cell)}</th>'
        return f"<td{self._kind(i)}>{esc(cell)}</td>"

    def _kind(self, i: int) -> str:
        if self.head[i] == "note":
            return ' class="note"'
        return "" if i < self.words else ' class="n"'

    def terminal(self) -> "Terminal":
        """Return the table for a terminal."""
        from rich.markup import escape
        from rich.table import Table as Terminal

        out = Terminal(title=self.caption)
        for i, name in enumerate(self.head):
            out.add_column(name, justify="left" if i < self.words else "right", overflow="fold")
        for row in self.rows:
            out.add_row(*(escape(lines(each)) for each in row))  # a task's name may look like markup
        return out

    def markdown(self) -> str:
        """Return the table as Markdown; nothing for a table without rows."""
        if not self.rows:
            return ""
        rows = [list(self.head), ["--:" if self._kind(i) == ' class="n"' else "---" for i in range(len(self.head))]]
        rows += [[plain(each) for each in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def plain(text: str) -> str:
    """Return text that neither ends a cell of Markdown nor becomes markup."""
    return re.sub(r"([|<>`*_\\]|(?<=\])\()", r"\\\1", " ".join(lines(text).split()))


def overview(result: Mapping[str, Any]) -> Table:
    """Return everything that a row is compared by, for a terminal or a file."""
    rows = [row for row in listed(result, "rows") if isinstance(row, dict)]
    columns: dict[str, Callable[[Row], str]] = {
        **_machine(rows),
        "model": model,
        "tasks": _tasks,
        "target": how,
        "scenario": lambda row: str(row.get("scenario") or NONE),
        **_NUMBERS,
        "accuracy": lambda row: share(row.get("accuracy")) if row.get("accuracy") is not None else "not measured",
        **_fields(rows),
        "kB": lambda row: figures(row["bytes"] / 1000, 0),
        "parameters": lambda row: figures(number(row.get("parameters")), 0),
        "trained on": report.training,
    }
    title = "benchmark (a quick look)" if result.get("quick") else "benchmark"
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    return Table(title, list(columns), cells, words=list(columns).index("batch"))


def _machine(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Return the column of machines, where results of several were merged."""
    return {"machine": lambda row: str(row.get("machine") or NONE)} if report.merged(rows) else {}


def _fields(rows: Sequence[Row]) -> dict[str, Callable[[Row], str]]:
    """Return a column for each field, where there are several: `accuracy` is their mean."""

    def told(name: str) -> Callable[[Row], str]:
        return lambda row: share(fields(row)[name]["accuracy"]) if name in fields(row) else NONE

    return {f"in {name}": told(name) for name in field_names(rows)}


def results(rows: Sequence[Row]) -> Table:
    """Return what was measured, a row each; a row that could not be measured says why."""
    columns: dict[str, Callable[[Row], str]] = {
        **_machine(rows),
        "model": model,
        **({"tasks": _tasks} if len({_tasks(row) for row in rows}) > 1 else {}),
        "target": how,
        "scenario": lambda row: str(row.get("scenario") or NONE),
        **_NUMBERS,
        "accuracy": lambda row: share(row.get("accuracy")),
        **_fields(rows),
    }
    named = list(columns).index("batch")
    if any(doubts(row) for row in rows):
        columns["note"] = lambda row: "; ".join(doubts(row))
    return Table(
        "Latency, throughput and accuracy of every row",
        list(columns),
        [[cell(row) for cell in columns.values()] for row in rows],
        words=named,
    )


_NUMBERS: Mapping[str, Callable[[Row], str]] = {
    "batch": lambda row: str(row.get("batch") or NONE),
    "threads": lambda row: str(row.get("threads") or NONE),
    "p50 ms": lambda row: figures(latency(row)),
    "p90 ms": lambda row: figures(latency(row, "p90")),
    "images/s": lambda row: figures(number(row.get("throughput")), 0),
}


def _tasks(row: Row) -> str:
    names = listed(row, "tasks")
    return (", ".join(map(str, names)) if len(names) <= 3 else f"{len(names)} tasks") or NONE


def costs(rows: Sequence[Row]) -> Table:
    """Return size, memory, energy and starting times, of what any row tells."""

    def told(key: str, scale: float, digits: int) -> Callable[[Row], str]:
        def cell(row: Row) -> str:
            value = number(row.get(key))
            if value is None:
                return MISSING if key in row else NONE
            return figures(value * scale, digits)

        return cell

    columns: dict[str, Callable[[Row], str]] = {
        **_machine(rows),
        "model": model,
        "target": how,
        "scenario": lambda row: str(row.get("scenario") or NONE),
    }
    words = len(columns)
    if any(row.get("training") for row in rows):
        columns["trained on"] = report.training
    known = {
        "file, kB": ("bytes", 1e-3, 0),
        "parameters": ("parameters", 1, 0),
        "peak memory, MiB": ("peak_mib", 1, 1),
        "energy, mJ an image": ("joules", 1e3, 3),
        "loading, ms": ("load_ms", 1, 1),
        "first run, ms": ("first_ms", 1, 2),
    }
    columns |= {title: told(*key) for title, key in known.items() if any(key[0] in row for row in rows)}
    if any(row.get("joules_from") for row in rows):
        columns["energy is"] = lambda row: str(row.get("joules_from") or NONE)
    if any("mhz" in row for row in rows):
        columns["clock, MHz"] = _clock
    measured = [row for row in rows if latency(row) is not None]
    return Table(
        "Files, memory, energy and starting times",
        list(columns),
        [[cell(row) for cell in columns.values()] for row in measured],
        words,
    )


def _clock(row: Row) -> str:
    rates = [f"{rate:,.0f}" for rate in listed(row, "mhz") if number(rate) is not None]
    return "–".join(dict.fromkeys(rates)) or (MISSING if "mhz" in row else NONE)


def facts(caption: str, about: Mapping[str, Any]) -> Table:
    """Return names and values, a row each."""
    return Table(caption, ["what", "value"], [[name, _text(value)] for name, value in flat(about)], words=2)


def _text(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def raw(rows: Sequence[Row]) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the names and values of every number of every row; raw samples as how many there are."""
    found = []
    for row in rows:
        values = dict(flat({key: value for key, value in row.items() if key not in ("samples_ms", "fields")}))
        for name, about in fields(row).items():
            values |= {f"{key} in {name}": about[key] for key in ("accuracy", "images") if key in about}
        if "samples_ms" in row:
            rounds = listed(row, "samples_ms")
            values["samples"] = sum(len(each) if isinstance(each, list) else 1 for each in rounds)
        found.append(values)
    names = dict.fromkeys(name for values in found for name in values)
    return [*(name for name in _FIRST if name in names), *(name for name in names if name not in _FIRST)], found


def everything(rows: Sequence[Row]) -> Table:
    """Return every raw number."""
    names, values = raw(rows)
    text = [[_text(each[name]) if name in each else NONE for name in names] for each in values]
    return Table("Every number of every row", names, text, words=sum(name in names for name in _FIRST[:5]))


def comma_separated(rows: Sequence[Row]) -> str:
    """Return every raw number as CSV; what is not available is empty."""
    names, values = raw(rows)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([cell(name) for name in names])
    writer.writerows([cell(each.get(name, "")) for name in names] for each in values)
    return out.getvalue()


def heat(caption: str, columns: Sequence[object], rows: Mapping[str, Sequence[object]], low: float | None = 0.0) -> str:
    """Return shares as a table whose cells are tinted from `low` (None: the least there is) to the most there is."""
    known = [found for values in rows.values() for value in values if (found := number(value)) is not None]
    if not known:
        return ""
    least = min(known) if low is None else low
    spread = max(max(known) - least, 1e-9)
    lines = []
    for name, values in rows.items():
        cells = []
        for value in values:
            found = number(value)
            tint = 0.0 if found is None else min(1.0, max(0.0, (found - least) / spread))
            cells.append(f'<td style="--v:{tint:.2f}">{NONE if found is None else format(found, ".2f")}</td>')
        lines.append(f'<tr><th scope="row">{esc(name)}</th>{"".join(cells)}</tr>\n')
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in columns)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{esc(caption)}"><table class="heat">'
        f"<caption><span>{esc(caption)}</span></caption>\n<thead><tr><td></td>{head}</tr></thead>\n"
        f"<tbody>{''.join(lines)}</tbody></table></div>\n"
    )
