"""A benchmark's result as JSON: read, and held to what it must have."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfdeploy.errors import PoolError
from kfdeploy.manifest import SCHEMAS
from kfdeploy.reading import parse_json, read_named
from kfdeploy.schema import listing, number, record, text, whole


def read_result(path: Path) -> dict[str, Any]:
    """Read a benchmark's JSON.

    Raises:
        PoolError: it is not there, not JSON, or of another schema or kind.
    """
    hint = "kfdeploy benchmark --json <file>"
    data = read_named(path, f"there is no result at '{path}'", hint)
    result = parse_json(data, str(path), hint=hint, constants=True)
    seen = (result.get("schema"), result.get("kind")) if isinstance(result, dict) else (None, type(result).__name__)
    if seen != (_SCHEMA, "benchmark"):
        raise PoolError(
            f"'{path}' has schema {seen[0]!r} and kind {seen[1]!r}, not {_SCHEMA} and 'benchmark'",
            hint="name a file that kfdeploy benchmark --json wrote",
        )
    return upgraded(result)


_SCHEMA = SCHEMAS["benchmark"]
NUMBER = (int, float)
_RESULT = {"quick": bool, "protocol": dict, "machine": dict, "rows": list, "comparisons": list}
_MACHINE = {"cpu": str, "cores": int, "os": str, "python": str, "versions": dict}
_ROW = {"kind": str, "name": str, "tasks": list, "target": str, "precision": str, "threads": int, "batch": int,
        "scenario": str, "images": int, "bytes": int, "parameters": int, "sha256": str,
        "accuracy": (int, float, type(None))}  # fmt: skip
_COMPARISON = {"a": str, "b": str, "target": str, "precision": str, "threads": int, "scenario": str,
               "p50_ratio": NUMBER, "interval": list, "accuracy_difference": NUMBER,
               "accuracy_interval": list}  # fmt: skip


def scores(row: Mapping[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return a row's accuracy and images for each subject (some tasks' names) that it was scored on."""
    return {tuple(found["tasks"]): found for found in row.get("accuracies", ())}


def each_of(about: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return what a row, a score or a comparison tells under a key: of each field where there are several.

    Without fields it is under the empty name.
    """
    return {found["field"]: found[key] for found in about.get("fields", ())} or {"": about[key]}


def upgraded(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a benchmark with its subjects as lists of tasks; version 0.1.0 and its kits joined them to one text."""
    rows, comparisons, answers = (result.get(name) for name in ("rows", "comparisons", "answers"))
    named = [row["tasks"] for row in rows if isinstance(row, dict) and _named(row)] if isinstance(rows, list) else []
    known = {", ".join(tasks): tasks for tasks in named}

    def row_of(row: Any) -> Any:
        scored = row.get("accuracies") if isinstance(row, dict) else None
        if not isinstance(scored, dict):
            return row
        each = [_of(known, name) | about for name, about in scored.items() if isinstance(about, dict)]
        return row | {"accuracies": each}

    def comparison_of(entry: Any) -> Any:
        if not isinstance(entry, dict) or "subject" not in entry:
            return entry
        return {key: value for key, value in entry.items() if key != "subject"} | _of(known, entry["subject"])

    found = dict(result)
    if isinstance(rows, list):
        found["rows"] = [row_of(row) for row in rows]
    if isinstance(comparisons, list):
        found["comparisons"] = [comparison_of(entry) for entry in comparisons]
    if isinstance(answers, Mapping):
        found["answers"] = [_of(known, name) | entry for name, entry in answers.items() if isinstance(entry, dict)]
    return found


def _named(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("tasks"), list) and all(isinstance(task, str) for task in row["tasks"])


def _of(known: Mapping[str, list[str]], text: object) -> dict[str, Any]:
    """Return the tasks that a joined text named: those of a row that joins to it, else what its commas part."""
    return {"tasks": list(known.get(str(text), str(text).split(", ")))}


def fault(result: Any) -> str:
    """Return in what way something is not a benchmark result, or an empty string."""
    if not isinstance(result, Mapping):
        return f"it is a {type(result).__name__}"
    if result.get("schema") != _SCHEMA:
        return f"it has schema {result.get('schema')!r}, and this version of kfdeploy reads schema {_SCHEMA}"
    if result.get("kind") != "benchmark":
        return f"it describes a '{result.get('kind')}' (allowed: benchmark)"
    if why := _lacks(result, _RESULT, "it"):
        return why
    machines = machines_of(result)
    found = [_lacks(about, _MACHINE, f"machine '{name}'") for name, about in machines.items()]
    found.append(_lacks(result["protocol"], {"rounds": int}, "its protocol"))
    for i, row in enumerate(result["rows"], 1):
        found.append(_lacks(row, _ROW, f"row {i}") or _row_fault(row, f"row {i}") or _fields_fault(row, f"row {i}"))
    for i, entry in enumerate(result["comparisons"], 1):
        found.append(_lacks(entry, _COMPARISON, f"comparison {i}") or _not_finite(entry, f"comparison {i}"))
        found.append(_compared_fault(entry, f"comparison {i}"))
    for entry in [] if any(found) else [*result["rows"], *result["comparisons"]]:
        if (name := entry.get("machine", "")) not in machines:
            found.append(f"a row is of machine '{name}', which is not among its machines")
    return next(filter(None, found), "")


def _lacks(value: Any, wanted: Mapping[str, Any], what: str) -> str:
    if not isinstance(value, Mapping):
        return f"{what} is a {type(value).__name__}"
    for name, kind in wanted.items():
        if name not in value:
            return f"{what} has no '{name}'"
        if not isinstance(value[name], kind):
            return f"{what} has {value[name]!r:.40} as '{name}'"
    return ""


def _row_fault(row: Mapping[str, Any], what: str) -> str:
    if row["accuracy"] is not None and not 0 <= row["accuracy"] <= 1:
        return f"{what} has {row['accuracy']!r:.40} as 'accuracy'"
    if not all(isinstance(task, str) for task in row["tasks"]):
        return f"{what} has {row['tasks']!r:.40} as 'tasks'"
    if "reason" in row:  # not measured, and it says why
        return ""
    if why := _lacks(row, {"latency_ms": dict, "throughput": NUMBER}, what):
        return why
    times = row["latency_ms"]
    if why := _lacks(times, {"p50": NUMBER, "p90": NUMBER}, f"{what}, latency_ms"):
        return why
    if not all(0 < value < math.inf for value in (times["p50"], times["p90"], row["throughput"])):
        return f"{what} has latencies that are not positive"
    if why := _SAMPLES(row.get("samples_ms", [])):
        return f"{what} has 'samples_ms' that {why.rpartition(chr(10))[2]}"
    return ""


_FIELDS = listing(record({"field": text(200), "accuracy": number(0, 1), "images": whole()}), 2, 1000)
_COMPARED = listing(
    record(
        {"field": text(200), "accuracy_difference": number(-1, 1), "accuracy_interval": listing(number(-1, 1), 2, 2)}
    ),
    2, 1000,
)  # fmt: skip


def _fields_fault(row: Mapping[str, Any], what: str) -> str:
    """Return in what way the fields of a row, or of what it was scored on, are not what they must be."""
    scored = [each for each in row.get("accuracies", ()) if isinstance(each, Mapping)]
    for about in (row, *scored):
        if "fields" in about and (why := _FIELDS(about["fields"])):
            return f"{what} has 'fields' that {why.rpartition(chr(10))[2]}"
    return ""


def _compared_fault(entry: Any, what: str) -> str:
    if isinstance(entry, Mapping) and "fields" in entry and (why := _COMPARED(entry["fields"])):
        return f"{what} has 'fields' that {why.rpartition(chr(10))[2]}"
    return ""


def _not_finite(entry: Mapping[str, Any], what: str) -> str:
    for name in ("p50_ratio", "accuracy_difference"):
        if not math.isfinite(entry[name]):
            return f"{what} has {entry[name]} as '{name}'"
    return ""


_SAMPLES = listing(listing(number(0), 1))


def machines_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the machines by the names that its rows use; a result of one machine does not name it."""
    if isinstance(result.get("machines"), dict):
        return dict(result["machines"])
    return {"": result["machine"] | ({"device": result["device"]} if "device" in result else {})}
