"""Reading a benchmark's JSON with care, and the words for what it says. Nothing in a row but its name is relied on."""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kfdeploy.report import sentences as report
from kfdeploy.shown import lines

Row = dict[str, Any]
NONE = "–"
MISSING = "not available here"
_SPOKEN = 3  # pairs of models that one sentence can hold


def esc(value: object) -> str:
    """Return text that can stand in HTML, inside an element or a quoted attribute; what does not print is spelt out."""
    return html.escape(lines(value), quote=True)


def number(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if math.isfinite(value) else None


def inner(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a mapping inside a mapping; an empty one where there is none."""
    found = row.get(key)
    return found if isinstance(found, Mapping) else {}


def listed(row: Mapping[str, Any], key: str) -> list[Any]:
    """Return a list inside a mapping; an empty one where there is none."""
    found = row.get(key)
    return found if isinstance(found, list) else []


def latency(row: Row, quantile: str = "p50") -> float | None:
    """Return a quantile of a row's latency in milliseconds, if it was measured."""
    found = number(inner(row, "latency_ms").get(quantile))
    return found if found is not None and found > 0 else None


def figures(value: float | None, digits: int = 3) -> str:
    """Return a number for people."""
    if value is None:
        return NONE
    return f"{value:,.{digits if abs(value) < 1000 else 0}f}"


def share(value: object) -> str:
    """Return a share as percent."""
    found = number(value)
    return NONE if found is None else f"{100 * found:.2f} %"


def model(row: Row) -> str:
    """Return what a row is about: its kind and its name."""
    kind, name = str(row.get("kind") or "other"), str(row.get("name") or "unnamed")
    return name if kind == name else f"{kind} {name}"


def how(row: Row) -> str:
    """Return the target and the precision that ran, and the provider where one is named."""
    return " ".join(str(row[key]) for key in ("target", "precision", "provider") if row.get(key)) or "unnamed target"


def setting(row: Row) -> str:
    """Return the scenario, the batch and the threads: rows of two settings never share a plot."""
    threads = number(row.get("threads"))
    parts = [
        str(row.get("scenario") or "unnamed scenario"),
        f"batch {row['batch']}" if row.get("batch") else "",
        f"{threads:g} thread{'s' if threads != 1 else ''}" if threads is not None else "",
        f"on {row['machine']}" if row.get("machine") else "",
    ]
    return ", ".join(part for part in parts if part)


def by_setting(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each setting."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(setting(row), []).append(row)
    return found


def subject(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tasks that a row, a score, or a comparison is about."""
    return tuple(map(str, listed(entry, "tasks")))


def by_subject(rows: Sequence[Row]) -> dict[tuple[str, ...], list[Row]]:
    """Return the rows that were scored on each subject (an assembly's tasks), with their accuracy on it."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        each = [score for score in listed(row, "accuracies") if isinstance(score, Mapping)]
        scored = {subject(score): score for score in each}
        if not scored and number(row.get("accuracy")) is not None:
            scored = {subject(row): row}
        for name, score in scored.items():
            if number(score.get("accuracy")) is not None:
                own = {"accuracy": score["accuracy"], "images": score.get("images"), "fields": listed(score, "fields")}
                found.setdefault(name, []).append({**row, **own})
    return found


def fields(entry: Mapping[str, Any], key: str = "accuracy") -> dict[str, Row]:
    """Return what a row, a score or a comparison tells of each field by its name, where there are several.

    A field without a number under `key` is left out.
    """
    each = [found for found in listed(entry, "fields") if isinstance(found, dict)]
    return {str(found["field"]): found for found in each if "field" in found and number(found.get(key)) is not None}


def field_names(rows: Sequence[Row]) -> list[str]:
    """Return the fields that any row tells of, in their order; none where there is but one."""
    return list(dict.fromkeys(name for row in rows for name in fields(row)))


def tasks(rows: Sequence[Row]) -> str:
    """Return the tasks that the rows are held to, or how many subsets of them there are."""
    found = dict.fromkeys(subject(row) for row in rows if row.get("tasks"))
    if len(found) > 1:
        return f"{len(found)} subsets of tasks"
    names = next(iter(found), ())
    return ", ".join(names) if len(names) <= 5 else f"{len(names)} tasks"


def doubts(row: Row) -> list[str]:
    """Return why a row has no numbers, or why they are to be doubted."""
    found = [str(row["reason"])] if row.get("reason") else []
    noise = [str(text) for text in listed(row, "noise")]
    if row.get("stable") is False and not noise:
        noise = ["the warm-up did not settle"]
    return found + noise


def about(row: Row) -> str:
    """Return a row's numbers, a line each, for a tooltip."""
    lines = [model(row), f"{how(row)}, {setting(row)}"]
    quantiles = [f"{name} {figures(latency(row, name))}" for name in ("p50", "p90", "p99") if latency(row, name)]
    if quantiles:
        lines.append(f"latency {', '.join(quantiles)} ms")
    if number(row.get("accuracy")) is not None:
        images = number(row.get("images"))
        each = fields(row)
        mean = f" on average over {len(each)} fields" if each else ""
        lines.append(f"accuracy {share(row['accuracy'])}{mean}" + (f" of {images:,.0f} images" if images else ""))
        lines += [f"  {name}: {share(found['accuracy'])}" for name, found in each.items()]
    if number(row.get("throughput")) is not None:
        lines.append(f"{row['throughput']:,.0f} images/s")
    size = [f"{row['bytes'] / 1000:,.0f} kB"] if number(row.get("bytes")) is not None else []
    size += [f"{row['parameters']:,} parameters"] if number(row.get("parameters")) is not None else []
    return "\n".join([*lines, *([", ".join(size)] if size else []), *doubts(row)])


def comparisons(result: Mapping[str, Any]) -> list[Row]:
    """Return the comparisons that are whole: those that `report.sentences` can put into words."""

    def pair(value: object) -> bool:
        return isinstance(value, list) and len(value) == 2 and all(number(each) is not None for each in value)

    return [
        {
            "target": "",
            "precision": "",
            "scenario": "",
            "threads": NONE,
            **entry,
            "fields": [
                each for each in fields(entry, "accuracy_difference").values() if pair(each.get("accuracy_interval"))
            ],
        }
        for entry in listed(result, "comparisons")
        if isinstance(entry, dict)
        and {"a", "b"} <= set(entry)
        and (number(entry.get("p50_ratio")) or 0) > 0
        and number(entry.get("accuracy_difference")) is not None
        and pair(entry.get("interval"))
        and min(entry["interval"]) > 0
        and pair(entry.get("accuracy_interval"))
    ]


def sentences(result: Mapping[str, Any]) -> list[str]:
    """Return each comparison as a sentence, in the words of `kfdeploy benchmark`; doubts stand in the table."""
    return report.sentences({"comparisons": comparisons(result), "rows": [], "quick": bool(result.get("quick"))})


def answer(result: Mapping[str, Any]) -> str:
    """Return what was found, in one sentence: the file's own where it names a winner, else one of its comparisons.

    As in `report.sentences`, "faster" is said only where the interval excludes 1.
    """
    given = result.get("answer")
    if isinstance(given, str) and given.strip():
        return given.strip()
    if won := answers(result, decided=True):
        return " ".join(won[:_SPOKEN]) + (f" And {len(won) - _SPOKEN} more, below." if len(won) > _SPOKEN else "")
    pairs: dict[tuple[tuple[str, ...], str, str], list[Row]] = {}
    for entry in comparisons(result):
        pairs.setdefault((subject(entry), str(entry["a"]), str(entry["b"])), []).append(entry)
    if not pairs:
        return "Nothing is compared here: that takes an assembly, and a student or a teacher, in the same setting."
    several = len({held for held, _, _ in pairs}) > 1
    spoken = [
        (f"for {', '.join(held)}, " if several else "") + _verdict(a, b, entries)
        for (held, a, b), entries in pairs.items()
    ]
    rest = len(spoken) - _SPOKEN
    more = f"; and {rest} more pair{'s' if rest > 1 else ''}, below" if rest > 0 else ""
    return "; ".join(spoken[:_SPOKEN]) + more + "."


def answers(result: Mapping[str, Any], *, decided: bool = False) -> list[str]:
    """Return the file's own answers, a sentence a subject; with `decided`, those under a constraint alone."""
    found = [entry for entry in listed(result, "answers") if isinstance(entry, Mapping) and "sentence" in entry]
    return [str(entry["sentence"]) for entry in found if inner(entry, "constraints") or not decided]


def _verdict(a: str, b: str, entries: list[Row]) -> str:
    count = len(entries)
    faster = [entry for entry in entries if entry["interval"][1] < 1]
    slower = [entry for entry in entries if entry["interval"][0] > 1]
    where = f" in all {count} settings" if count > 1 else ""
    ratios = [entry["p50_ratio"] for entry in entries]
    if len(faster) == count:
        speed = f"{a} is {_span([1 / ratio for ratio in ratios], '.2f')}× faster than {b}{where}"
    elif len(slower) == count:
        speed = f"{a} is {_span(ratios, '.2f')}× slower than {b}{where}"
    elif not faster and not slower:
        speed = f"{a} is neither faster nor slower than {b}{where}"
    else:
        counts = {"faster": len(faster), "slower": len(slower), "neither": count - len(faster) - len(slower)}
        said = ", ".join(f"{word} in {many}" for word, many in counts.items() if many)
        speed = f"against {b}, {a} is {said} of {count} settings"
    points = _span([100 * entry["accuracy_difference"] for entry in entries], "+.2f")
    low = 100 * min(entry["accuracy_interval"][0] for entry in entries)
    high = 100 * max(entry["accuracy_interval"][1] for entry in entries)
    each = [found for entry in entries for found in listed(entry, "fields")]
    worst = min(each, key=lambda found: float(found["accuracy_difference"]), default=None)
    said = f"{speed}, at {points} points of accuracy [{low:+.2f}, {high:+.2f}]"
    if worst is None:
        return said
    return f"{said} on average over its fields, {100 * worst['accuracy_difference']:+.2f} in {worst['field']}"


def _span(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}" if "+" in form else f"{low}–{high}"


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every scalar of a nested mapping under its dotted name; a list of scalars is one text."""
    for key, each in value.items():
        if isinstance(each, Mapping):
            yield from flat(each, f"{prefix}{key}.")
        elif isinstance(each, list):
            yield f"{prefix}{key}", "; ".join(map(str, each))
        else:
            yield f"{prefix}{key}", each
