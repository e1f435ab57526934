"""Where factors win: assemblies against every rival, by accuracy over milliseconds, on many classes and small tasks.

    python benchmarks/front.py train <study.toml> --data <cifar100-50> --weights <resnet56-4bfd9763.th>
    python benchmarks/front.py time  <study.toml>
    python benchmarks/front.py tell  <study.toml>

`train` trains the teacher, lets its confusions make the tasks, then trains the study's rows, each recorded in
`benchmarks/results/<name>.json` as it ends: an interrupted study goes on where it was. A row's accuracies are of what
its exported graph answers, its logits masked to the classes of every task ("one"), every pair ("two") and every
three ("three"), on validation, and on test where the row says so. `time` measures latencies in alternating rounds of
fresh processes. `tell` prints who is how much faster at equal accuracy, and draws the picture; it needs the JSON alone.

Rows are of the kinds of `study.py` ("factors", "student"), and of those in `rivals.py`: "experts", "pruned", "subset".
"""

import argparse
import base64
import itertools
import json
import statistics
import time
import tomllib
import zlib
from pathlib import Path

import numpy as np
import rivals
from study import RESULTS, commit

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.model import Model
from kfdeploy.files import dump_line_json
from kfdeploy.graph.cost import multiplications
from kfdeploy.manifest import versions
from kfdeploy.measuring.rounds import describe_machine
from kfdeploy.pool.pool import Pool
from kfdeploy.training.recipe.recipe import load_recipe
from kfdeploy.writing import write_file

SIZES = {"one": 1, "two": 2, "three": 3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["train", "time", "tell"])
    parser.add_argument("study", type=Path)
    parser.add_argument("--data", default="")
    parser.add_argument("--weights", default="", help="what the teacher begins from")
    parser.add_argument("--work", type=Path, default=Path("front"))
    parser.add_argument("--rows", nargs="*", default=[], help="only these")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no row after so many")
    asked = parser.parse_args()
    study = tomllib.loads(asked.study.read_text(encoding="utf-8"))
    out = RESULTS / f"{asked.study.stem}.json"
    if asked.do == "train":
        train(asked, study, out)
    elif asked.do == "time":
        from front_times import measure

        measure(asked, study, json.loads(out.read_text(encoding="utf-8")), out.with_name(f"{out.stem}-times.json"))
    else:
        from front_tell import tell

        tell(out)


def train(asked, study, out):
    """Train what is not on record yet."""
    began, work = time.time(), asked.work / asked.study.stem
    teacher = work / "teacher.safetensors"
    places = [f'data.root="{asked.data}"', f'run.replay="{work / "replay"}"']
    common = [*places, *study["settings"]]
    result = load(out, asked.study.stem)
    if not teacher.is_file() or "tasks" not in result:
        prepare(asked, study, common, teacher, result)
        write_file(out, dump_line_json(result))
    common += [f'teacher.source="file:{teacher}"', "tasks=" + toml(result["tasks"])]
    for row, seed in order(study["rows"]):
        done = any(known["name"] == row["name"] and known["seed"] == seed for known in result["rows"])
        if done or (asked.rows and row["name"] not in asked.rows):
            continue
        if time.time() - began > 60 * asked.minutes:
            print("time is up: the rest another day")
            return
        print(f"== {row['name']}, seed {seed}", flush=True)
        settings = [*common, *row.get("settings", []), f"seed={seed}"]
        if row.get("one_task"):  # a student of the factors' own make: one task network for all classes
            settings.append("tasks=" + toml({"everything": list(itertools.chain(*result["tasks"].values()))}))
        recipe = load_recipe(study["recipe"], settings)
        place = work / f"{row['name'].replace(' ', '-')}-{seed}"
        found = KINDS[row["kind"]](recipe, place, row, result)
        about = {"name": row["name"], "kind": row["kind"], "seed": seed, "commit": commit()}
        result["rows"].append(about | {"settings": row.get("settings", [])} | found)
        write_file(out, dump_line_json(result))
        print({key: found[key] for key in ("minutes", "macs") if key in found}, found["validation"]["mean"], flush=True)


def order(rows):
    """Return `(row, seed)` in the order of training: what is tested before what is not, first seeds before others."""
    every = [(row, seed) for row in rows for seed in row.get("seeds", [0])]
    return sorted(every, key=lambda each: (not (each[0].get("test") or each[0]["kind"] != "factors"), each[1]))


def prepare(asked, study, common, teacher, result):
    """Train the teacher, or take it where it is, and let its confusions make the tasks."""
    from kfdeploy.cli.console import TrainingProgress
    from kfdeploy.training.experiment import Experiment
    from kfdeploy.training.writing.classifier import save_state

    begin = [*common, *study["teacher"], f'teacher.net.weights="{asked.weights}"']
    if not study["teacher"]:  # a published one, as it is
        begin = [*common, f'teacher.source="file:{asked.weights}"']
    if teacher.is_file():
        begin = [*common, f'teacher.source="file:{teacher}"']
    experiment = Experiment(load_recipe(study["recipe"], begin), TrainingProgress())
    net, about = experiment.teacher(teacher.parent / "teacher", resume=True)
    if not teacher.is_file():
        save_state(teacher, net.net)
    grouped, net = experiment.grouped(net, teacher.parent / "tasks.json")
    result["tasks"] = {task.name: list(task.classes) for task in grouped.tasks}
    timing, minutes = teacher.parent / "teacher" / "timing.csv", None
    if timing.is_file():
        lines = timing.read_text(encoding="utf-8").splitlines()[1:]
        minutes = round(sum(float(line.split(",")[1]) for line in lines) / 60, 1)
    found = {"settings": study["teacher"], "minutes": minutes, "accuracy": about["accuracy"]}
    for split, data in (("validation", grouped.validation), ("test", grouped.test)):
        found[split] = scored(grouped.logits(net, data), grouped.classes, data.labels, result["tasks"])
    result["teacher"] = found


def toml(tasks):
    """Return tasks as an inline table."""
    return "{" + ", ".join(f"{json.dumps(name)} = {json.dumps(classes)}" for name, classes in tasks.items()) + "}"


def load(out, name):
    """Return what is recorded, or an empty result."""
    if out.is_file():
        return json.loads(out.read_text(encoding="utf-8"))
    machine = describe_machine()
    return {"schema": 1, "kind": "front", "study": name, "machine": machine, "versions": versions("torch"), "rows": []}


def scored(logits, classes, labels, tasks, *, bits=False):
    """Return the accuracy in % of every task, pair and three of tasks, and of all; `labels` index `classes`.

    With `bits` also which images of each task and pair are right, packed, deflated and in base 64.
    """
    classes, found, right = list(classes), {}, []
    columns = [[classes.index(name) for name in members] for members in tasks.values()]
    for size, count in SIZES.items():
        found[size] = []
        for some in itertools.combinations(columns, count):
            hit = answers(logits, sorted(itertools.chain(*some)), labels)
            found[size].append(round(100 * float(hit.mean()), 2))
            right += [hit] if count < 3 else []
    found["all"] = round(100 * float((logits.argmax(1) == labels).mean()), 2)
    means = {size: round(float(np.mean(found[size])), 2) if found[size] else None for size in SIZES}
    found["mean"] = means | {"all": found["all"]}  # of two tasks there are no three
    if bits:
        packed = zlib.compress(np.packbits(np.concatenate(right)).tobytes(), 9)
        found["right"] = base64.b64encode(packed).decode()
    return found


def answers(logits, columns, labels):
    """Return which of the images of these classes are right, the logits masked to them."""
    inside = np.isin(labels, columns)
    return np.array(columns)[logits[inside][:, columns].argmax(1)] == labels[inside]


def of_model(recipe, model, evidence, row, tasks):
    """Return what a model's exported graph answers, on validation, and on test where the row says so."""
    from kfdeploy.data.sources import load_split
    from kfdeploy.graph.reference import Runner

    classes = list(model.classes)
    labels = np.array([classes.index(name) for name in evidence.labels])
    found = {"validation": scored(evidence.logits, classes, labels, tasks)}
    if row.get("test"):
        data = load_split(recipe.data.source, recipe.data.root, "test", recipe.image.spec()).only(model.classes)
        run = Runner(model.graph, threads=2)
        logits = np.concatenate([run(images)["logits"] for images in data.batches(500)])
        found["test"] = scored(logits, classes, data.labels, tasks, bits=True)
    return found | {"parameters": model.manifest["parameters"]}


def trained(training, folder):
    """Return how long a row trained, and on how many images."""
    rows = (folder / "timing.csv").read_text(encoding="utf-8").splitlines()[1:]
    keys = ("epochs", "images", "precision", "threads")
    # By the median epoch: a study that runs beside other work is stopped and goes on.
    minutes = len(rows) * statistics.median(float(line.split(",")[1]) for line in rows) / 60
    return {key: training[key] for key in keys} | {"minutes": round(minutes, 1)}


def factors(recipe, out, row, result):
    """Factorize; return the row."""
    from kfdeploy.cli.console import TrainingProgress
    from kfdeploy.training.factorize import factorize

    factorize(recipe, out, resume=True, report=TrainingProgress())
    pool = Pool.open(out)
    names, macs = [task.name for task in pool.tasks], []
    for count in sorted({min(k, len(names)) for k in (1, 2, 3, len(names))}):
        model = assemble(pool, names[:count], out.with_name(f"{out.name}-{count}"), force=True)
        macs.append(count_macs(model.graph))
    found = trained(pool.manifest["training"], out / "train") | {"nets": pool.manifest["nets"], "macs": macs}
    return found | of_model(recipe, model, pool.evidence(), row, result["tasks"])


def student(recipe, out, row, result):
    """Distil the recipe's first student; return the row."""
    from kfdeploy.cli.console import TrainingProgress
    from kfdeploy.training.distill import distill

    name = recipe.students[0].name
    distill(recipe, students=[name], out=out, resume=True, report=TrainingProgress())
    model = Model.open(out / name)
    found = trained(model.manifest["training"], model.path / "train") | {"nets": model.manifest["net"]}
    return found | {"macs": [count_macs(model.graph)]} | of_model(recipe, model, model.evidence(), row, result["tasks"])


def count_macs(model):
    """Return the millions of multiplications of one image in a graph, or in a file of one."""
    import onnx

    return round(multiplications(onnx.load(model) if isinstance(model, Path) else model) / 1e6, 3)


KINDS = {"factors": factors, "student": student, **rivals.KINDS}

if __name__ == "__main__":
    main()
