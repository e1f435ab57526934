"""The decision: which of these goes onto the device? A winner under constraints, the Pareto front, the break-even."""

import math
from collections.abc import Sequence
from typing import Any

from kfdeploy.errors import UnsupportedError
from kfdeploy.measuring.intervals import wilson
from kfdeploy.measuring.result import each_of, scores

_SETTING = ("target", "precision", "threads", "scenario", "batch")
Row = dict[str, Any]
Subject = tuple[str, ...]  # some tasks' names


def answer(
    result: dict[str, Any],
    *,
    max_ms: float | None = None,
    max_mb: float | None = None,
    min_accuracy: float | None = None,
) -> dict[str, Any]:
    """Return `{"answers": [{"tasks", "sentence", …}], "break_even": …}` for a benchmark's rows.

    For each subject (an assembly's tasks) the candidates are the measured rows of the first scenario that were
    scored on it. With `min_accuracy` (a share) the winner is the fastest that reaches it in every field, else the most
    accurate within `max_ms` (milliseconds a run) and `max_mb` (10^6 bytes): of equally accurate ones the fastest, then
    the smallest. Without any constraint nobody wins: the front answers.

    Raises:
        UnsupportedError: a constraint is no finite number, which every row would meet.
    """
    limits = {"max_ms": max_ms, "max_mb": max_mb, "min_accuracy": min_accuracy}
    asked = {name: value for name, value in limits.items() if value is not None}
    for name, value in asked.items():
        if not math.isfinite(value):
            raise UnsupportedError(f"--{name.replace('_', '-')} is {value}", allowed=("a finite number",))
    everywhere = [row for row in result["rows"] if "reason" not in row]
    machines = list(dict.fromkeys(row.get("machine", "") for row in everywhere)) or [""]
    answers: list[dict[str, Any]] = []
    for machine in machines:
        measured = [row for row in everywhere if row.get("machine", "") == machine]
        comparisons = [c for c in result["comparisons"] if c.get("machine", "") == machine]
        scenario = measured[0]["scenario"] if measured else ""
        for subject in dict.fromkeys(name for row in measured for name in scores(row)):
            candidates = [r for r in measured if r["scenario"] == scenario and subject in scores(r)]
            found = _answer(subject, candidates, asked, comparisons)
            if len(machines) > 1:
                found |= {"machine": machine, "sentence": f"On {machine}: {found['sentence']}"}
            answers.append({"tasks": list(subject), **found})
    first = [row for row in everywhere if row.get("machine", "") == machines[0]]
    own = [c for c in result["comparisons"] if c.get("machine", "") == machines[0]]
    return {"answers": answers, "break_even": break_even(first, own)}


def title(row: Row) -> str:
    """Return what a row is called in a sentence."""
    model = row["name"] if row["kind"] == row["name"] else f"{row['kind']} {row['name']}"
    threads = f", {row['threads']} threads" if row["threads"] > 1 else ""
    return f"{model} ({row['target']} {row['precision']}{threads})"


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return which (latency, accuracy) no other point beats: as good in both, and better in one; fastest first."""
    kept: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not kept or points[i][1] > points[kept[-1]][1]:
            kept.append(i)
    return kept


def _answer(subject: Subject, rows: list[Row], asked: dict[str, float], comparisons: list[Row]) -> dict[str, Any]:
    points = [(float(row["latency_ms"]["p50"]), float(scores(row)[subject]["accuracy"])) for row in rows]
    best, tasks = [rows[i] for i in front(points)], ", ".join(subject)
    winner, sentence = None, ""
    fit = [row for row in rows if not _misses(row, subject, asked)]
    wanted = " and ".join(_WORDS[name].format(100 * v if name == "min_accuracy" else v) for name, v in asked.items())
    if "min_accuracy" in asked and any("fields" in scores(row)[subject] for row in rows):
        wanted += " in every field"
    if asked and fit:
        if "min_accuracy" in asked:
            winner = min(fit, key=lambda row: float(row["latency_ms"]["p50"]))
        else:
            winner = _cheapest_of_the_best(fit, subject)
        sentence = f"For {tasks}, {wanted}: {_described(winner, subject)}"
        most = max(fit, key=lambda row: float(scores(row)[subject]["accuracy"]))
        if "min_accuracy" not in asked and scores(most)[subject]["accuracy"] > scores(winner)[subject]["accuracy"]:
            sentence += f" (as accurate, within its 95 % interval, as {_described(most, subject)})"
    elif asked:
        near = min(rows, key=lambda row: max(_misses(row, subject, asked).values()))
        sentence = f"For {tasks}, nothing has {wanted}; the nearest is {_described(near, subject)}"
    else:
        named = "; ".join(_described(row, subject) for row in best)
        those = "these" if len(best) > 1 else "this"
        sentence = f"For {tasks}, no other is both as fast and as accurate as {those}: {named}"
    beats = [c for c in comparisons if c.get("tasks") == list(subject) and c["interval"][1] < 1]
    even = [c for c in beats if c.get("b_kind") == "student" and as_accurate(c)]
    if even:
        names = ", ".join(sorted({f"{c['b']} ({c['target']} {c['precision']}, {c['scenario']})" for c in even}))
        every = " in every field" if any("fields" in c for c in even) else ""
        sentence += f". The assembly is faster than, and as accurate{every} as, {names}"
    return {
        "winner": None if winner is None else _key(winner),
        "front": [_key(row) for row in best],
        "constraints": asked,
        "sentence": sentence + ".",
    }


def as_accurate(comparison: Row) -> bool:
    """Return whether a is as accurate as b in every field: the interval of the difference ends above -0.3 points."""
    return all(low >= -0.003 for low, _ in each_of(comparison, "accuracy_interval").values())


def _cheapest_of_the_best(rows: list[Row], subject: Subject) -> Row:
    """Return, of the rows as accurate as the most accurate one, the fastest; of equally fast ones the smallest.

    As accurate is who has the best accuracy within the 95 % interval of its own, in every field of the most accurate;
    p50s within 2 % are equally fast.
    """
    best = each_of(scores(max(rows, key=lambda row: float(scores(row)[subject]["accuracy"])))[subject], "accuracy")

    def even(row: Row) -> bool:
        found = scores(row)[subject]
        images = {each["field"]: each["images"] for each in found.get("fields", ())} or {"": found.get("images")}
        own = each_of(found, "accuracy")
        return all(best[name] <= wilson(float(own[name]), images[name])[1] for name in best.keys() & own.keys())

    able = [row for row in rows if even(row)]
    fastest = min(float(row["latency_ms"]["p50"]) for row in able)
    quick = [row for row in able if float(row["latency_ms"]["p50"]) <= 1.02 * fastest]
    return min(quick, key=lambda row: (row["bytes"], row["latency_ms"]["p50"]))


_WORDS = {"max_ms": "at most {:g} ms", "max_mb": "at most {:g} MB", "min_accuracy": "at least {:g} % accuracy"}


def _misses(row: Row, subject: Subject, asked: dict[str, float]) -> dict[str, float]:
    """Return by how much, as a share of the limit, a row misses each constraint that it misses."""
    seen = {
        "max_ms": row["latency_ms"]["p50"],
        "max_mb": row["bytes"] / 1e6,
        "min_accuracy": min(each_of(scores(row)[subject], "accuracy").values()),
    }
    over = {
        name: (limit - seen[name] if name == "min_accuracy" else seen[name] - limit) / max(limit, 1e-9)
        for name, limit in asked.items()
    }
    return {name: miss for name, miss in over.items() if miss > 0}


def _described(row: Row, subject: Subject) -> str:
    found = scores(row)[subject]
    each = [f"{name} {100 * value:.2f}" for name, value in each_of(found, "accuracy").items() if name]
    share = f"{100 * found['accuracy']:.2f} %" + (f" ({', '.join(each)})" if each else "")
    return f"{title(row)}, {row['latency_ms']['p50']:.3f} ms, {share}, {row['bytes'] / 1e6:.2f} MB" + (
        " (noisy)" if row.get("noise") else ""
    )


def _key(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("kind", "name", *_SETTING)}


def break_even(rows: list[Row], comparisons: list[Row]) -> dict[str, Any] | None:
    """Return at how many tasks a student is faster, from assemblies of several sizes; None where there is only one.

    `{"sizes": [k, …], "models": {name: [ms, …]}, "k": {student: k or None}}`: latency of the smallest setting, and the
    fewest tasks at which the interval of the ratio lies above 1.
    """
    assemblies = [row for row in rows if row["kind"] == "assembly"]
    if not assemblies:
        return None
    setting = tuple(assemblies[0][name] for name in _SETTING)
    here = [row for row in rows if tuple(row[name] for name in _SETTING) == setting]
    sized: dict[int, Row] = {}
    for row in here:
        if row["kind"] == "assembly":
            sized.setdefault(len(row["tasks"]), row)
    if len(sized) < 2:
        return None
    sizes = sorted(sized)
    students = [row for row in here if row["kind"] == "student"]
    models = {"assembly": [sized[k]["latency_ms"]["p50"] for k in sizes]}
    models |= {row["name"]: [row["latency_ms"]["p50"]] * len(sizes) for row in students}
    k: dict[str, int | None] = {}
    for student in students:
        slower = [
            size
            for size in sizes
            for c in comparisons
            if c["a"] == sized[size]["name"]
            and c["b"] == student["name"]
            and all(c[name] == student[name] for name in _SETTING[:4])
            and c["interval"][0] > 1
        ]
        k[student["name"]] = min(slower, default=None)
    return {"sizes": sizes, "models": models, "k": k}
