"""What `front.py` has found, from its JSON alone: who is faster at equal accuracy, who more accurate at equal cost."""

import base64
import itertools
import json
import math
import zlib

import numpy as np
from front_times import alike

from kfdeploy.measuring.intervals import difference_interval, ratio_interval
from kfdeploy.report.picture import new_figure, save_figure

WORDS = {"one": "one task", "two": "two tasks", "three": "three tasks"}
COUNT = {"one": 1, "two": 2, "three": 3}


def read(out):
    """Return the study and its times, or None for what is not there."""
    times = out.with_name(f"{out.stem}-times.json")
    return json.loads(out.read_text(encoding="utf-8")), (
        json.loads(times.read_text(encoding="utf-8")) if times.is_file() else None
    )


def points(study, times, size, precision="fp32"):
    """Return each tested row as a point: its name, whether it is factors, ms, MMACs, and accuracy over its seeds."""
    found, clocks = [], {}
    nets = {row["name"]: alike(row) for row in study["rows"] if "test" in row and "macs" in row}
    for row in times["rows"] if times else []:
        if row["precision"] == precision and row["row"] in nets:
            clocks[nets[row["row"]], row["tasks"]] = row
    names = list(dict.fromkeys(row["name"] for row in study["rows"] if "test" in row and size in row["test"]))
    for name in names:
        rows = [row for row in study["rows"] if row["name"] == name and "test" in row]
        ours = rows[0]["kind"] == "factors" and len(rows[0]["macs"]) > 1
        each_task = len(rows[0]["macs"]) > 1
        clock = clocks.get((nets[name], COUNT[size] if each_task else 0))
        found.append(
            {"name": name, "ours": ours, "kind": rows[0]["kind"],
             "macs": rows[0]["macs"][COUNT[size] - 1 if each_task else 0], "clock": clock,
             "ms": None if clock is None else clock["p50_ms"],
             "accuracy": float(np.mean([np.mean(row["test"][size]) for row in rows])), "seeds": len(rows),
             "minutes": float(np.mean([row["minutes"] for row in rows])), "images": rows[0]["images"],
             "epochs": rows[0]["epochs"], "rows": rows}
        )  # fmt: skip
    return found


def cheapest(rivals, accuracy, cost):
    """Return the cheapest rival that is at least as accurate, or None."""
    able = [rival for rival in rivals if rival["accuracy"] >= accuracy and rival[cost] is not None]
    return min(able, key=lambda rival: rival[cost], default=None)


def between(rivals, accuracy, cost):
    """Return what a rival of just this accuracy would cost: a line between the two neighbours on the rivals' front."""
    front, best = [], -math.inf
    for rival in sorted((r for r in rivals if r[cost] is not None), key=lambda r: r[cost]):
        if rival["accuracy"] > best:
            front.append(rival)
            best = rival["accuracy"]
    for a, b in itertools.pairwise(front):
        if a["accuracy"] <= accuracy <= b["accuracy"]:
            share = (accuracy - a["accuracy"]) / (b["accuracy"] - a["accuracy"])
            return a[cost] + share * (b[cost] - a[cost])
    return None


def equal_cost(rivals, mine, cost):
    """Return the most accurate rival that costs no more, or the cheapest of all."""
    able = [rival for rival in rivals if rival[cost] is not None and rival[cost] <= 1.02 * mine[cost]]
    return max(able, key=lambda rival: rival["accuracy"], default=None)


def against(study, times, size, precision="fp32", *, students=False):
    """Return a row for each factors design: the cheapest equal rival with its ratio, and the best at equal cost.

    With `students`, rivals are the networks of all classes alone, without the pool of experts.
    """
    everyone = points(study, times, size, precision)
    cost = "ms" if times else "macs"
    rivals = [p for p in everyone if not p["ours"] and not (students and p["kind"] == "experts")]
    found = []
    for mine in (point for point in everyone if point["ours"] and point[cost] is not None):
        row = {key: mine[key] for key in ("name", "ms", "macs", "accuracy", "seeds", "minutes")}
        # Where none is as accurate, the most accurate one stands in: it costs less than one that were.
        peers = [rival for rival in rivals if rival["epochs"] == mine["epochs"]]
        able = [rival for rival in peers if rival[cost] is not None]
        other = cheapest(peers, mine["accuracy"], cost) or max(able, key=lambda rival: rival["accuracy"], default=None)
        if other is not None:
            row |= {"rival": other["name"], "rival_cost": other[cost], "rival_accuracy": other["accuracy"],
                    "equal": other["accuracy"] >= mine["accuracy"], "ratio": other[cost] / mine[cost]}  # fmt: skip
            if times:
                pair = ([np.array(s) for s in p["clock"]["samples_ms"]] for p in (other, mine))
                row["ratio"], row["interval"] = ratio_interval(*pair)
        if (line := between(peers, mine["accuracy"], cost)) is not None:
            row["line"] = line / mine[cost]
        if (near := equal_cost(peers, mine, cost)) is not None:
            row |= {"near": near["name"], "near_accuracy": near["accuracy"]}
            row["points"], row["points_interval"] = difference(study, mine, near, size)
        found.append(row)
    return found


def difference(study, mine, other, size):
    """Return by how many points one row is more accurate, with the interval over tasks' images, seeds averaged."""
    if size == "three":  # which images of threes are right is not kept
        return mine["accuracy"] - other["accuracy"], None
    ours, theirs = (np.mean([right(row, study["tasks"])[size] for row in p["rows"]], axis=0) for p in (mine, other))
    value, interval = difference_interval(ours, theirs)
    return 100 * value, [100 * bound for bound in interval]


def right(row, tasks):
    """Return which images of every task, one after another, and of every pair, a row has right."""
    sizes = [len(classes) for classes in tasks.values()]
    ones = sum(sizes)
    pairs = sum(sizes[i] + sizes[j] for i in range(len(sizes)) for j in range(i + 1, len(sizes)))
    bits = np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(row["test"]["right"])), np.uint8))
    images = len(bits) // (ones + pairs)  # a class; the bits are packed by eights
    return {
        "one": bits[: ones * images].astype(float),
        "two": bits[ones * images : (ones + pairs) * images].astype(float),
    }


def tell(out):
    """Print the comparisons, and draw the picture beside the JSON."""
    study, times = read(out)
    for precision in ("fp32", "int8") if times else ("fp32",):
        for size in WORDS:
            for row in against(study, times, size, precision):
                print(precision, WORDS[size], sentence(row, bool(times)))
    draw(study, times, out.with_suffix(".png"))
    print(f"drew {out.with_suffix('.png')}")


def sentence(row, timed):
    """Return a comparison in words."""
    unit = "ms" if timed else "MMAC"
    cost = row["ms"] if timed else row["macs"]
    text = f"{row['name']}: {cost:.3f} {unit}, {row['accuracy']:.2f} %"
    if "rival" in row:
        interval = " [{:.2f}, {:.2f}]".format(*row["interval"]) if "interval" in row else ""
        text += f"; {row['ratio']:.2f}×{interval} fewer {unit} than {row['rival']} ({row['rival_accuracy']:.2f} %"
        text += ")" if row["equal"] else ", the most accurate: none is as accurate)"
    if "line" in row:
        text += f", {row['line']:.2f}× by the line between rivals"
    if "near" in row:
        text += f"; {row['points']:+.2f} points over {row['near']} at equal cost"
    return text


def draw(study, times, path):
    """Draw accuracy over cost for one and two tasks: ours, rivals, and the teacher's line."""
    figure = new_figure(11, 4.4, 120)
    cost = "ms" if times else "macs"
    marks = {"student": ("s", "distilled students"), "factors": ("D", "students of the factors' own make"),
             "experts": ("^", "pool of experts"), "separate": ("v", "a student a task")}  # fmt: skip
    for number, size in enumerate(("one", "two")):
        axes = figure.add_subplot(1, 2, number + 1)
        everyone = [p for p in points(study, times, size) if p[cost] is not None]
        mine = sorted((p for p in everyone if p["ours"]), key=lambda p: p[cost])
        axes.plot([p[cost] for p in mine], [p["accuracy"] for p in mine], "o", markersize=9, label="factors", zorder=5)
        for kind, (mark, label) in marks.items():
            some = sorted((p for p in everyone if not p["ours"] and p["kind"] == kind), key=lambda p: p[cost])
            if some:
                axes.plot([p[cost] for p in some], [p["accuracy"] for p in some], mark, label=label)
        teacher = study["teacher"]["test"]["mean"][size]
        axes.axhline(teacher, linestyle=":", color="0.5", linewidth=1)
        axes.annotate("the teacher", (1, teacher), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                      color="0.4")  # fmt: skip
        classes = len(next(iter(study["tasks"].values()))) * COUNT[size]
        axes.set_title(f"{WORDS[size]} of {classes} classes" if size != "one" else f"one task of {classes} classes")
        axes.set_xlabel("single-stream p50, ms" if times else "millions of multiplications")
        axes.set_ylabel(f"test accuracy, mean over all {'tasks' if size == 'one' else 'pairs'}, %")
        axes.set_xlim(left=0)
        axes.legend(loc="lower right", framealpha=0.7)
    save_figure(figure, path)
