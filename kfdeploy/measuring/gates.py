"""Gates for use in CI: `--fail-if "p50_ratio > 1.0"`, and what changed against an older result beyond the noise."""

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kfdeploy.errors import PoolError, UnsupportedError, nearest
from kfdeploy.measuring.intervals import ratio_interval
from kfdeploy.measuring.result import each_of, fault

_OPERATORS = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
# Of a comparison of an assembly with a student, and of an assembly's own row; accuracies of each field by itself.
_PAIRS: dict[str, Callable[[Any], Any]] = {
    "p50_ratio": lambda c: c["p50_ratio"],
    "accuracy_drop": lambda c: {name: -found for name, found in each_of(c, "accuracy_difference").items()},
}
_ROWS: dict[str, Callable[[Any], Any]] = {
    "p50_ms": lambda r: r["latency_ms"]["p50"],
    "p90_ms": lambda r: r["latency_ms"]["p90"],
    "accuracy": lambda r: None if r["accuracy"] is None else each_of(r, "accuracy"),
    "bytes": lambda r: r["bytes"],
    "peak_mib": lambda r: r.get("peak_mib"),
    "load_ms": lambda r: r["load_ms"],
    "first_ms": lambda r: r["first_ms"],
}
NAMES = (*_PAIRS, *_ROWS)
Gate = tuple[str, str, float]


def parse(texts: Sequence[str]) -> list[Gate]:
    """Return gates, `(name, operator, number)` each.

    Raises:
        UnsupportedError: one cannot be read, or names what is not measured.
    """
    found = []
    for text in texts:
        match = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*", text)
        if match is None or not math.isfinite(float(match[3])):
            raise UnsupportedError(f"the gate '{text}' cannot be read", hint='write it as --fail-if "p50_ratio > 1.0"')
        name, sign, number = match.groups()
        if name not in NAMES:
            raise UnsupportedError(
                f"the gate '{text}' is about '{name}'", allowed=NAMES, hint=nearest(name, list(NAMES))
            )
        found.append((name, sign, float(number)))
    return found


def check(result: dict[str, Any], gates: Sequence[Gate]) -> list[str]:
    """Return a sentence for each place where a gate is not passed: of assemblies, and of them against students.

    Raises:
        UnsupportedError: a gate has nothing to be held against, which must not look like passing.
    """
    failed = []
    for name, sign, number in gates:
        held = 0
        pairs = result["comparisons"] if name in _PAIRS else []
        rows = [r for r in result["rows"] if r["kind"] == "assembly" and "reason" not in r] if name in _ROWS else []
        for entry in [c for c in pairs if c.get("b_kind", "student") == "student"] + rows:
            found: Any = {**_PAIRS, **_ROWS}[name](entry)
            if found is None:
                continue
            held += 1
            for field, value in found.items() if isinstance(found, dict) else [("", found)]:
                said = f"{name} in {field}" if field else name
                if not math.isfinite(value):  # it compares as nothing, and so would pass every gate
                    named = entry.get("a", entry.get("name"))
                    failed.append(f"{named}: {said} is {value}, which is no finite number")
                elif _OPERATORS[sign](value, number):
                    what = f"{entry['a']} against {entry['b']}" if name in _PAIRS else entry["name"]
                    where = f"{entry['target']} {entry['precision']}, {entry['scenario']}, threads {entry['threads']}"
                    failed.append(f"{what}, {where}: {said} is {value:.4g}, and {name} {sign} {number:g} fails")
        if not held:
            raise UnsupportedError(
                f"the gate '{name} {sign} {number:g}' has nothing to be held against",
                hint="measure an assembly" + (" and a student in the same setting" if name in _PAIRS else ""),
            )
    return failed


def changes(new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """Return a sentence for each row that changed beyond the noise since an older result of the same machine.

    Latency has changed where the 95 % interval of the ratio of medians excludes 1 and the ratio is beyond 2 %;
    accuracy, where it is another number of the same images; size, where it is another number of bytes.

    Raises:
        UnsupportedError: the older result is of another machine, or one of them is a quick look.
        PoolError: the older result is none.
    """
    if why := fault(old):
        raise PoolError(f"the baseline is no benchmark: {why}", hint="name what kfdeploy benchmark --json wrote")
    ours, theirs = new["machine"].get("cpu"), old["machine"].get("cpu")
    if ours != theirs:
        raise UnsupportedError(f"the baseline was measured on '{theirs}', and this is '{ours}'")
    if new["quick"] != old["quick"]:
        raise UnsupportedError("a quick look is not compared with a whole benchmark")
    keys = ("kind", "name", "target", "precision", "threads", "batch", "scenario")
    before = {tuple(row[key] for key in keys): row for row in old["rows"]}
    found = []
    for row in new["rows"]:
        past = before.pop(tuple(row[key] for key in keys), None)
        name = f"{row['name']}, {row['target']} {row['precision']}, {row['scenario']}, threads {row['threads']}"
        if past is None:
            found.append(f"{name}: not in the baseline")
        elif ("reason" in row) != ("reason" in past):
            found.append(f"{name}: {row.get('reason', 'now measured')}")
        elif "reason" not in row:
            found += [f"{name}: {text}" for text in _differences(row, past)]
    return found + [f"{key[1]}, {key[2]} {key[3]}, {key[6]}: no longer measured" for key in before]


def _differences(row: dict[str, Any], past: dict[str, Any]) -> list[str]:
    found = []
    count = min(len(row.get("samples_ms", ())), len(past.get("samples_ms", ())))
    ratio, (low, high) = 1.0, (1.0, 1.0)
    if count:
        now, then = ([np.array(samples) for samples in side["samples_ms"][:count]] for side in (row, past))
        ratio, (low, high) = ratio_interval(now, then)
    if (high < 1 or low > 1) and abs(ratio - 1) > 0.02:
        found.append(f"{1 / ratio:.2f}× faster" if ratio < 1 else f"{ratio:.2f}× slower")
        found[-1] += (
            f" (p50 {past['latency_ms']['p50']:.3f} → {row['latency_ms']['p50']:.3f} ms, [{low:.3f}, {high:.3f}])"
        )
    if row["accuracy"] is not None and past["accuracy"] is not None and row["images"] == past["images"]:
        ours, theirs = each_of(row, "accuracy"), each_of(past, "accuracy")
        for field in ours if ours.keys() == theirs.keys() else ():
            points = 100 * (ours[field] - theirs[field])
            if abs(points) > 1e-9:
                of = f" in {field}" if field else ""
                found.append(f"{points:+.2f} points of accuracy{of} on {row['images']} images")
    if row["bytes"] != past["bytes"]:
        found.append(f"{row['bytes']:,} bytes, before {past['bytes']:,}")
    return found
