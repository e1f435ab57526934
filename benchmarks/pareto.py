"""Assemblies against distilled students: the Pareto front of accuracy over latency, and where the student takes over.

    python benchmarks/pareto.py --pool pool --students students/* --out benchmarks/results/pareto-<machine>-<date>.json

For each subset of classes (default: the five that this toolkit is judged by, as far as the pool has them) the assembly
and every student masked to it are measured in alternating rounds of fresh processes, and scored on the same test
images. An assembly *wins* against a student where it is faster (the interval of the ratio of medians excludes 1) and
at least as accurate (the lower 95 % bound of the paired bootstrap is −0.3 points or better); it is *on the front*
where no student is both as fast and as accurate. The break-even is the number of tasks from which a student is faster.
With `--study`, accuracies and their intervals are those of all the seeds that a study has tested (a row of kind
"factors" and students with the same number of parameters), paired by seed and by image; latency does not know a seed.
A picture goes beside the JSON.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.files import dump_line_json
from kfdeploy.measuring.benchmark import benchmark
from kfdeploy.measuring.intervals import difference_interval
from kfdeploy.pool.pool import Pool
from kfdeploy.report.picture import new_figure, save_figure
from kfdeploy.writing import write_file

SUBSETS = {
    "cat dog": ("cat", "dog"),
    "automobile truck": ("automobile", "truck"),
    "deer dog horse": ("deer", "dog", "horse"),
    "vehicles": ("airplane", "automobile", "ship", "truck"),
    "animals": ("bird", "cat", "deer", "dog", "frog", "horse"),
}
ALLOWED = -0.003  # points of accuracy, as a share


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, default=Path("pool"))
    parser.add_argument("--students", type=Path, nargs="+", required=True)
    parser.add_argument("--data", type=Path, help="a folder with test/<class>/ in place of the pool's own")
    parser.add_argument("--target", default="onnx")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="*", default=[2, 4, 6, 8, 10], help="how many first tasks, besides")
    parser.add_argument("--study", type=Path, nargs="+", help="studies' JSON whose rows were tested with several seeds")
    parser.add_argument("--quick", action="store_true", help="a look, too short for numbers to be quoted")
    asked = parser.parse_args()
    pool = Pool.open(asked.pool)
    study = None
    if asked.study:  # the factors of the first that has any, and every student
        parts = [json.loads(path.read_text(encoding="utf-8"))["rows"] for path in asked.study]
        first = next(part for part in parts if any(row["kind"] == "factors" for row in part))
        factors = [row for row in first if row["kind"] == "factors"]
        study = {"rows": factors + [row for part in parts for row in part if row["kind"] == "student"]}
    students = [Model.open(path) for path in asked.students]
    names = [task.name for task in pool.tasks]
    subsets = {name: tasks for name, tasks in SUBSETS.items() if set(tasks) <= set(names)}
    subsets |= {f"first {k}": tuple(names[:k]) for k in asked.counts if k <= len(names)}
    rows, machine, protocol = [], {}, {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        others = [export(student, asked.target, out=place / "students") for student in students]
        for name, tasks in subsets.items():
            model = assemble(pool, list(tasks), place / name.replace(" ", "-"))
            artifact = export(model, asked.target, out=place / "assemblies")
            found = benchmark(
                [artifact.path, *(other.path for other in others)],
                scenarios=["single-stream"], quick=asked.quick, data=asked.data,
            )  # fmt: skip
            machine, protocol = found["machine"], found["protocol"]
            rows.append(judged(name, tasks, found, study))
            print(sentence(rows[-1]), flush=True)
    even = {student.name: break_even(rows, student.name) for student in students if asked.counts}
    for name, k in even.items():
        print(f"{name}: " + (f"faster than the assembly from {k} tasks on" if k else "slower than every assembly"))
    result = {
        "schema": 1, "kind": "pareto", "quick": asked.quick, "machine": machine, "protocol": protocol,
        "target": asked.target, "pool": pool.manifest["name"], "nets": pool.manifest["nets"],
        "training": {key: pool.manifest["training"][key] for key in ("epochs", "seed", "images")},
        "break_even": even, "rows": rows,
    }  # fmt: skip
    write_file(asked.out, dump_line_json(result))
    draw(result, asked.out.with_suffix(".png"))
    print(f"wrote {asked.out} and {asked.out.with_suffix('.png')}")


def judged(name, tasks, found, study):
    """Return one subset's row: every model's latency and accuracy, the comparisons, and whether the assembly wins."""
    seeds = {} if study is None else over_seeds(study, name)
    models = [
        {"kind": row["kind"], "name": row["name"], "p50_ms": row["latency_ms"]["p50"], "accuracy": row["accuracy"],
         "bytes": row["bytes"], "parameters": row["parameters"]}
        for row in found["rows"]
    ]  # fmt: skip
    mine, *students = models
    against, most = [], 0
    for student, c in zip(students, found["comparisons"], strict=True):
        points, interval, count = c["accuracy_difference"], c["accuracy_interval"], 1
        if known := seeds.get(student["parameters"]):
            points, interval, count = known["points"], known["interval"], known["seeds"]
            student["accuracy"] = known["student"]
            if count > most:  # a student of one seed is compared with the factors of that seed alone
                most, mine["accuracy"] = count, known["factors"]
        against.append(
            {"student": c["b"], "ratio": c["p50_ratio"], "interval": c["interval"], "seeds": count,
             "points": round(100 * points, 3), "points_interval": [round(100 * v, 3) for v in interval],
             "wins": c["interval"][1] < 1 and interval[0] >= ALLOWED}
        )  # fmt: skip
    front = not any(s["p50_ms"] <= mine["p50_ms"] and s["accuracy"] >= mine["accuracy"] for s in students)
    return {"subset": name, "tasks": list(tasks), "images": found["rows"][0]["images"], "models": models,
            "against": against, "on_front": front}  # fmt: skip


def over_seeds(study, subset):
    """Return `{parameters: …}` for each student of a study: its accuracy and the factors', over their common seeds."""

    def right(row):
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["right"][subset]), np.uint8)).astype(float)
        # Bits are packed by eights, and accuracies are rounded: CIFAR-10 has a thousand test images a class.
        return bits[: 1000 * round(bits.sum() / row["test"][subset] / 10)]

    if subset not in study["rows"][0].get("right", {}):
        return {}
    factors = {row["seed"]: right(row) for row in study["rows"] if row["kind"] == "factors"}
    found = {}
    for parameters in {row["parameters"] for row in study["rows"] if row["kind"] == "student"}:
        rows = {r["seed"]: right(r) for r in study["rows"] if r["kind"] == "student" and r["parameters"] == parameters}
        both = sorted(set(rows) & set(factors))
        ours, theirs = (np.mean([side[seed] for seed in both], axis=0) for side in (factors, rows))
        points, interval = difference_interval(ours, theirs)
        found[parameters] = {"points": points, "interval": interval, "seeds": len(both),
                             "factors": float(ours.mean()), "student": float(theirs.mean())}  # fmt: skip
    return found


def sentence(row):
    """Return what a row says."""
    mine = row["models"][0]
    parts = [
        f"{a['student']}: {1 / a['ratio']:.2f}× as fast, {a['points']:+.2f} points{' (wins)' if a['wins'] else ''}"
        for a in row["against"]
    ]
    where = "on the front" if row["on_front"] else "behind the front"
    return (
        f"{row['subset']}: {mine['p50_ms']:.3f} ms, {100 * mine['accuracy']:.2f} %, {where}; against {'; '.join(parts)}"
    )


def break_even(rows, student):
    """Return the fewest first tasks at which the student is faster than their assembly, or None."""
    for row in rows:
        if row["subset"].startswith("first "):
            found = next(a for a in row["against"] if a["student"] == student)
            if found["interval"][0] > 1:
                return len(row["tasks"])
    return None


def draw(result, path):
    """Draw accuracy over latency for the named subsets, and latency over the number of tasks."""
    named = [row for row in result["rows"] if not row["subset"].startswith("first ")]
    counted = sorted({len(row["tasks"]): row for row in result["rows"]}.values(), key=lambda row: len(row["tasks"]))
    columns = 3
    lines = -(-(len(named) + 1) // columns)
    figure = new_figure(13, 4 * lines, 110)
    for number, row in enumerate(named):
        axes = figure.add_subplot(lines, columns, number + 1)
        students = sorted(row["models"][1:], key=lambda m: m["p50_ms"])
        axes.plot([m["p50_ms"] for m in students], [100 * m["accuracy"] for m in students], "s--", label="students")
        for m in students:
            axes.annotate(m["name"], (m["p50_ms"], 100 * m["accuracy"]), textcoords="offset points", xytext=(4, -11))
        mine = row["models"][0]
        axes.plot([mine["p50_ms"]], [100 * mine["accuracy"]], "o", markersize=10, label="assembly")
        axes.set_title(row["subset"])
        axes.set_xlabel("single-stream p50, ms")
        axes.set_ylabel("test accuracy, %")
        # Two points of accuracy at least: a difference of hundredths must not look like one.
        shown = [100 * m["accuracy"] for m in row["models"]]
        half = max(1.0, (max(shown) - min(shown)) * 0.7)
        axes.set_ylim((max(shown) + min(shown)) / 2 - half, (max(shown) + min(shown)) / 2 + half)
        axes.set_xlim(0, 1.35 * max(m["p50_ms"] for m in row["models"]))
        axes.legend(loc="lower right")
    axes = figure.add_subplot(lines, columns, len(named) + 1)
    sizes = [len(row["tasks"]) for row in counted]
    for i, model in enumerate(counted[0]["models"] if counted else []):
        name, style = ("assembly", "o-") if i == 0 else (model["name"], "--")
        axes.plot(sizes, [row["models"][i]["p50_ms"] for row in counted], style, label=name)
    axes.set_title("break-even")
    axes.set_xlabel("tasks assembled")
    axes.set_ylabel("single-stream p50, ms")
    axes.set_ylim(0, 1.2 * max(m["p50_ms"] for row in counted for m in row["models"]))
    axes.legend(loc="center right", framealpha=0.6)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
