"""Bringing the benchmarks of several machines into one result. Nothing is ever compared across machines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfdeploy.errors import PoolError
from kfdeploy.manifest import read_manifest
from kfdeploy.measuring.result import fault, machines_of, upgraded

Result = dict[str, Any]
_HINT = "name a file that `kfdeploy benchmark --json` or a kit's `bench.py --json` wrote"
# What tells two machines apart; load, versions and free memory change on one and the same.
_IDENTITY = ("device", "cpu", "cores", "memory_gb", "os")
_ACCURACY = ("accuracy", "accuracies", "fields", "images", "tasks")  # an accuracy is of these tasks and no others


def import_result(ours: Result | None, theirs: Result | Sequence[str | Path]) -> Result:
    """Return one benchmark result with the rows of `ours` and of `theirs`: a result, or files that hold one each.

    Every row gets `machine`, a key of `"machines"` (where the machines are described), with the `quick` and `versions`
    it was measured with. Of two rows of one file in one setting on one machine the newer is kept: by their `when`
    where both have one, else the one given later; two machines of the same make without a `device` cannot be told
    apart. An accuracy that is None is taken from a row of the very same file (`sha256`), together with its tasks, and
    `accuracy_from` names the machine. All else (`machine`, `protocol`, …) is of `ours`, else of the first of `theirs`.
    `"notes"` says in sentences what was replaced and filled in. Neither input is changed.

    Raises:
        PoolError: a file is missing, or holds no benchmark of this schema.
    """
    given = [] if ours is None else [(ours, "the result")]
    if isinstance(theirs, Mapping):
        given.append((theirs, "the imported result"))
    else:
        given += [(read_manifest(Path(path), "benchmark", _HINT), f"'{path}'") for path in theirs]
    if not given:
        raise PoolError("there is no benchmark to import", hint=_HINT)
    for result, name in given:
        if why := fault(result):
            raise PoolError(f"{name} is no benchmark: {why}", hint=_HINT)
    given = [(upgraded(result), name) for result, name in given]
    machines: dict[str, dict[str, Any]] = {}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    comparisons: dict[tuple[Any, ...], dict[str, Any]] = {}
    seen: list[dict[str, Any]] = []  # every row, the replaced ones too
    notes: list[str] = []
    for result, _ in given:
        names = {old: _place(about, machines) for old, about in machines_of(result).items()}
        notes += result.get("notes", [])
        for row in _rows(result, names):
            seen.append(row)
            key = tuple(row[name] for name in ("machine", "sha256", "scenario", "threads", "batch"))
            if key in rows and rows[key] != row:
                both = "reason" not in rows[key] and "reason" not in row
                row = _newer(rows[key], row)
                if both:
                    notes.append(f"{_described(row)} was measured twice: the newer is kept")
            rows[key] = row
        for entry in result["comparisons"]:
            entry = {**entry, "machine": names[entry.get("machine", "")]}
            kept = ("machine", "a", "b", "target", "precision", "threads", "scenario")
            tasks = tuple(entry.get("tasks", ()))
            comparisons[(*(entry.get(name) for name in kept), tasks)] = entry
    found = list(rows.values())
    notes += [note for row in found if (note := _fill(row, seen))]
    base = given[0][0]
    return {
        **{name: value for name, value in base.items() if name != "device"},
        "quick": any(result["quick"] for result, _ in given),
        "machines": machines,
        "rows": found,
        "comparisons": list(comparisons.values()),
        "notes": list(dict.fromkeys(notes)),
    }


def _place(about: dict[str, Any], machines: dict[str, dict[str, Any]]) -> str:
    """Return the name of a machine among `machines`, where it is entered if it is new."""
    for name, other in machines.items():
        if all(about.get(key) == other.get(key) for key in _IDENTITY):
            return name
    plain = str(about.get("device", "")).removeprefix("ssh://") or about["cpu"]
    name, count = plain, 1
    while name in machines:
        count += 1
        name = f"{plain} ({count})"
    machines[name] = dict(about)
    return name


def _rows(result: Mapping[str, Any], names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return copies of a result's rows that say by themselves where and how they were measured."""
    machines, found = machines_of(result), []
    for row in result["rows"]:
        own = row.get("machine", "")
        about = {"quick": result["quick"], "versions": machines[own]["versions"]}
        if "when" in result:
            about["when"] = result["when"]
        row = {**about, **row, "machine": names[own]}
        if "accuracy_from" in row:
            row["accuracy_from"] = names.get(row["accuracy_from"], row["accuracy_from"])
        found.append(row)
    return found


def _newer(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    if ("reason" in old) != ("reason" in new):  # a number is never given up for the lack of one
        return old if "reason" in new else new
    return old if str(new.get("when", "~")) < str(old.get("when", "")) else new


def _described(row: Mapping[str, Any]) -> str:
    setting = f"{row['target']} {row['precision']}, {row['scenario']}, batch {row['batch']}, threads {row['threads']}"
    return f"{row['kind']} {row['name']} ({setting}) on {row['machine']}"


def _fill(row: dict[str, Any], seen: Sequence[Mapping[str, Any]]) -> str:
    """Give a row without an accuracy that of the very same file; return the note, or an empty string."""
    if row["accuracy"] is not None:
        return ""
    same = [other for other in seen if other["sha256"] == row["sha256"] and other["accuracy"] is not None]
    if not same:
        return ""
    best = min(same, key=lambda other: bool(other["tasks"] != row["tasks"]))  # its own tasks before others
    row.update({name: best[name] for name in _ACCURACY if name in best})
    row["accuracy_from"] = best.get("accuracy_from", best["machine"])
    return f"the accuracy of {_described(row)} is that of the same file on {row['accuracy_from']}"
