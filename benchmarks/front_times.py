"""Latencies of `front.py`: every row's exported graph, for one, two and three tasks, in alternating rounds.

Rows that differ in their training alone have one graph with other weights: the first of them is timed for all.
"""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.files import dump_line_json
from kfdeploy.measuring.rounds import Job, alternating, describe_machine, measure_afresh
from kfdeploy.pool.pool import Pool
from kfdeploy.targets.base import Setup
from kfdeploy.targets.device.clock import Protocol
from kfdeploy.writing import write_file

PROTOCOL = Protocol(rounds=5, runs=1500, least=100, seconds=0.6, patience=2.0)
KEPT = 100  # samples of each round that are put on record, spread over it


def measure(asked, study, result, out):
    """Time every row of the study whose nets are at hand, and score what int8 answers on test."""
    work = asked.work / asked.study.stem
    known = {row["name"] for row in result["rows"]}
    rows, timed = [row for row in study["rows"] if row.get("test") and row["name"] in known], set()
    with tempfile.TemporaryDirectory() as folder:
        jobs, scores = {}, {}
        for row in rows:
            place = work / f"{row['name'].replace(' ', '-')}-0"
            made = next(each for each in result["rows"] if each["name"] == row["name"])
            again = alike(made) in timed
            timed.add(alike(made))
            for count, model in () if again else models(row, place, Path(folder)):
                for precision in ("fp32", "int8") if row.get("int8") else ("fp32",):
                    made = export(model, precision=precision, out=Path(folder) / f"{len(jobs)}")
                    jobs[row["name"], count, precision] = Job(str(made.path), "single-stream", 1, 1)
            if row.get("int8"):
                scores[row["name"]] = int8_scores(row, place, Path(folder), asked, result)
        rounds = {key: [] for key in jobs}
        for number, key in alternating(list(jobs), PROTOCOL.rounds):
            rounds[key].append(measure_afresh(jobs[key], PROTOCOL).samples)
            if len(rounds[key]) > number and key == list(jobs)[-1]:
                print(f"round {number + 1} of {PROTOCOL.rounds}", flush=True)
    found = []
    for (name, count, precision), each in rounds.items():
        middle = round(float(np.median(np.concatenate(each))), 4)
        row = {"row": name, "tasks": count, "precision": precision, "p50_ms": middle}
        found.append(row | {"samples_ms": [spread(samples) for samples in each]})
    about = {"schema": 1, "kind": "front-times", "study": result["study"], "machine": describe_machine()}
    write_file(out, dump_line_json(about | {"protocol": asdict(PROTOCOL), "rows": found, "int8": scores}))
    print(f"wrote {out}")


def alike(row):
    """Return what rows with the same graphs have in common."""
    return row["kind"], json.dumps(row["nets"]), tuple(row["macs"])


def spread(samples):
    """Return some of a round's samples, evenly spaced in time."""
    chosen = np.linspace(0, len(samples) - 1, min(KEPT, len(samples))).astype(int)
    return [round(samples[i], 4) for i in chosen]


def models(row, place, folder):
    """Give `(number of tasks, model)` of a row: a student is one whatever is asked of it."""
    if row["kind"] == "student":
        yield 0, Model.open(place / "resnet20")
    elif row["kind"] == "experts":
        for count in (1, 2, 3):
            yield count, Model.open(place.with_name(f"{place.name}-{count}"))
    elif row["kind"] == "factors":
        pool = Pool.open(place)
        names = [task.name for task in pool.tasks]
        for count in (0,) if row.get("one_task") else (1, 2, 3):
            chosen = names[: count or 1]
            yield count, assemble(pool, chosen, folder / f"{place.name}-{count}")


def int8_scores(row, place, folder, asked, result):
    """Return the accuracies on test of what the int8 artifact answers, the logits of all its tasks masked."""
    from front import scored

    from kfdeploy.data.sources import load_split

    if row["kind"] == "student":
        model = Model.open(place / "resnet20")
    else:
        pool = Pool.open(place)
        model = assemble(pool, [task.name for task in pool.tasks], folder / f"{place.name}-whole")
    made = export(model, precision="int8", out=folder / f"{place.name}-int8")
    artifact = Artifact.open(made.path)
    data = load_split("folder", asked.data, "test", artifact.image).only(artifact.classes)
    with artifact.session(Setup(threads=2, scenario="offline")) as session:
        logits = np.concatenate([session.run({"image": images})["logits"] for images in data.batches(500)])
    return scored(logits, artifact.classes, data.labels, result["tasks"])["mean"]
