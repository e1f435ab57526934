"""Whether factors are disentangled: the five ways of the paper's figures 3 and 4, on data of several fields.

    python benchmarks/factors.py train benchmarks/studies/dsprites.toml --work factors [--minutes N]
    python benchmarks/factors.py tell  benchmarks/studies/dsprites.toml

A study is a TOML file of a recipe, settings, seeds and `[[methods]]`: the factorization (`factors`), one student of all
fields (`student`), or one for each, side by side (`separate`), with soft targets or without. For every seed the teacher
is trained once; then each method, and `kfdeploy inspect --disentanglement` tells of all their codes at once. AUC is the
mean over classes of telling one from the rest, on the test images, from the graph that was written. Results go to
`benchmarks/results/<name>.json` as each ends; what is there is not done again.
"""

import argparse
import json
import time
import tomllib
from pathlib import Path

import numpy as np
from study import RESULTS

from kfdeploy.data.splits import load
from kfdeploy.deploy.model import Model
from kfdeploy.files import dump_line_json
from kfdeploy.graph.cost import multiplications
from kfdeploy.graph.reference import Runner
from kfdeploy.manifest import versions
from kfdeploy.measuring.factors.inspect import Disentangled, inspect
from kfdeploy.measuring.rounds import describe_machine
from kfdeploy.pool.pool import Pool
from kfdeploy.report.factors import plot
from kfdeploy.tasks.kinds.classes import accuracy, auc
from kfdeploy.tasks.spec import fields_of, joined, outputs_of
from kfdeploy.writing import write_file

MEASURES = ("mig", "sap", "disentanglement", "completeness", "informativeness", "factor_vae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["train", "tell"])
    parser.add_argument("study", type=Path)
    parser.add_argument("--work", type=Path, default=Path("factors"))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin nothing after so many")
    asked = parser.parse_args()
    study = tomllib.loads(asked.study.read_text(encoding="utf-8"))
    out = RESULTS / f"{asked.study.stem}.json"
    if asked.do == "train":
        train(study, asked.work, out, asked.minutes)
    tell(json.loads(out.read_text(encoding="utf-8")), out)


def train(study, work, out, minutes):
    """Train what is lacking, seed by seed."""
    began = time.monotonic()
    for seed in study["seeds"]:
        place = work / f"seed-{seed}"
        settings = [*study["settings"], f"seed={seed}"]
        methods = sorted(study["methods"], key=lambda method: method["kind"] != "factors")  # it has the teacher
        for method in methods:
            result = read(out)
            if method["name"] in (known := result["seeds"].get(f"{seed}", {"methods": {}})["methods"]):
                if "macs" not in known[method["name"]]:
                    known[method["name"]]["macs"] = multiplications(graph_of(method, place)[1])
                    keep(result, study, out)
                continue
            if time.monotonic() - began > 60 * minutes:
                return
            print(f"== {method['name']}, seed {seed}", flush=True)
            row = trained(study["recipe"], [*settings, *method["settings"]], method, place)
            result["seeds"].setdefault(f"{seed}", {"methods": {}})["methods"][method["name"]] = row
            keep(result, study, out)
        result = read(out)
        if "probe" not in result["seeds"][f"{seed}"]:
            beside = [place / m["name"] for m in methods if m["kind"] != "factors"]
            found = inspect(place / "KF", disentanglement=Disentangled(), beside=[*beside, place / "KF/train/teacher"])
            kept = {key: found[key] for key in ("factors", "tasks", "cka", "probe")}
            result["seeds"][f"{seed}"] |= kept | {"rows": found["disentanglement"]}
            keep(result, study, out)


def trained(recipe, settings, method, place):
    """Train one method, and return what it is worth on the test images."""
    from kfdeploy.cli.console import TrainingProgress
    from kfdeploy.training.distill import distill
    from kfdeploy.training.factorize import factorize
    from kfdeploy.training.recipe.recipe import load_recipe

    out, settings = place / method["name"], [*settings, f"run.replay={place / 'replay'}"]
    recipe, report = load_recipe(recipe, [*settings, f"students.0.name={method['name']}"]), TrainingProgress()
    if method["kind"] == "factors":
        factorize(recipe, out, resume=True, report=report)
    else:
        separate = method["kind"] == "separate"
        distill(recipe, pool=place / "KF", out=place, separate=separate, resume=True, report=report)
        if separate:
            (place / f"{method['name']}-separate").rename(out)
    made, graph = graph_of(method, place)
    test = load(made.data, "test", made.image).only(made.classes)
    run = Runner(graph, outputs_of(made.tasks))
    logits = np.concatenate([joined(run(images), made.tasks) for images in test.batches()])
    row = {"auc": {}, "accuracy": {}, "macs": multiplications(graph)}
    for field, columns in fields_of(made.tasks).items():
        labels = test.labels_of(field) - columns[0]
        row["auc"][field] = round(auc(logits[:, columns], labels), 5)
        row["accuracy"][field] = round(accuracy(logits[:, columns], labels), 5)
    keys = ("epochs", "images", "device", "precision", "threads")
    return row | {key: made.training[key] for key in keys} | {"test": len(test)}


def graph_of(method, place):
    """Return the pool or the student of a method, and the graph of all its tasks."""
    if method["kind"] == "factors":
        pool = Pool.open(place / method["name"])
        return pool, pool.fused(pool.tasks)[0]
    model = Model.open(place / method["name"])
    return model, model.load()


def read(out):
    """Return what is on record."""
    return json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"seeds": {}}


def keep(result, study, out):
    """Put results on record."""
    about = {"schema": 1, "kind": "factors", "recipe": study["recipe"], "settings": study["settings"]}
    names = ("torch", "numpy", "onnxruntime", "scikit-learn")
    write_file(out, dump_line_json(about | {"machine": describe_machine(), "versions": versions(*names)} | result))


def summary(result):
    """Return of each method the mean and the spread (half the range) of each number over the seeds."""
    found = {}
    for about in result["seeds"].values():
        for name, row in about["methods"].items():
            mine = found.setdefault(name, {})
            for key in ("auc", "accuracy"):
                for field, value in row[key].items():
                    mine.setdefault(f"{key} {field}", []).append(value)
        for row in about.get("rows", ()):
            name, _, each = row["codes"].removeprefix("student ").partition(", ")
            name, codes = {"tasks": ("KF", ""), "each": ("KF", "each"), "common": ("KF, common", "")}.get(
                name, (name.removesuffix("-separate"), each)
            )
            for key in ("D", *MEASURES):
                found.setdefault(f"{name}, each" if codes else name, {}).setdefault(key, []).append(row[key])
    return {
        name: {key: (float(np.mean(v)), float(np.ptp(v)) / 2, len(v)) for key, v in numbers.items()}
        for name, numbers in found.items()
    }


def tell(result, out):
    """Say what was found, and draw the heat maps of the first seed."""
    for name, numbers in summary(result).items():
        print(f"{name}: " + ", ".join(f"{key} {mean:.3f} ± {half:.3f}" for key, (mean, half, _) in numbers.items()))
    first = next((about for about in result["seeds"].values() if "probe" in about), None)
    if first is not None:
        plot(first, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
