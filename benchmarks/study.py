"""Run a study: one row a training, each recorded as it ends, so that an interrupted study goes on where it was.

    python benchmarks/study.py benchmarks/studies/<name>.toml --data <folder> --teacher <resnet56-4bfd9763.th>

A study is a TOML file: `recipe` (a shipped name), `settings` for every row, `subsets` of classes to report, and
`[[rows]]` with a `name`, a `kind` ("factors", a pool; "student", the recipe's first; "separate", one student a task,
each against the rest), `settings` of their own and `seeds`. Checkpoints, pools and the teacher's answers lie in
`--work`; results go to `benchmarks/results/<name>.json`. Choices are made on validation, which every row reports; rows
with `test = true` read the test split too, once, and keep which of its images they get right.
"""

import argparse
import json
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np

from kfdeploy.files import dump_line_json
from kfdeploy.manifest import versions
from kfdeploy.measuring.rounds import describe_machine
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.tasks.worth import subset_accuracy
from kfdeploy.training.loop.devices import precision_of
from kfdeploy.training.recipe.recipe import load_recipe
from kfdeploy.writing import write_file

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
INSPECTED = ("factors", "tasks", "cka", "probe", "calibration")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--work", type=Path, default=Path("study"))
    parser.add_argument("--rows", nargs="*", default=[], help="only these")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    study = tomllib.loads(asked.study.read_text(encoding="utf-8"))
    out = asked.out or RESULTS / f"{asked.study.stem}.json"
    result = load(out, asked.study.stem)
    common = common_of(asked.study.stem, asked.data, asked.teacher, asked.work, study)
    for row, seed in [(row, seed) for seed in range(9) for row in study["rows"] if seed in row.get("seeds", [0])]:
        if asked.rows and row["name"] not in asked.rows:
            continue
        if any(done["name"] == row["name"] and done["seed"] == seed for done in result["rows"]):
            continue
        recipe = load_recipe(study["recipe"], [*common, *row.get("settings", []), f"seed={seed}"])
        print(f"== {row['name']}, seed {seed}", flush=True)
        found = KINDS[row["kind"]](recipe, asked.work / f"{asked.study.stem}-{row['name']}-{seed}", study, row)
        settings = [*study["settings"], *row.get("settings", [])]
        result["rows"].append(
            {"name": row["name"], "kind": row["kind"], "seed": seed, "settings": settings, "commit": commit(), **found}
        )
        write_file(out, dump_line_json(result))
        print({key: value for key, value in found.items() if key in ("validation", "seconds", "test")}, flush=True)
    draw(result, out)


def common_of(name, data, teacher, work, study=None):
    """Return the settings of every row of a study."""
    if study is None:
        study = tomllib.loads((ROOT / "benchmarks" / "studies" / f"{name}.toml").read_text(encoding="utf-8"))
    places = [f'data.root="{data}"', f'teacher.source="file:{teacher}"', f'run.replay="{work / "replay"}"']
    return [*places, *study["settings"]]


def draw(result, out):
    """Draw the heat maps of the rows that were inspected, beside the JSON."""
    from kfdeploy.report.factors import plot

    for row in result["rows"]:
        if "inspection" in row:
            plot(row["inspection"], out.with_name(f"{out.stem}-{row['name'].replace(' ', '-')}-{row['seed']}.png"))


def load(out, name):
    """Return what is recorded, or an empty result."""
    if out.is_file():
        return json.loads(out.read_text(encoding="utf-8"))
    machine = describe_machine()
    return {"schema": 1, "kind": "study", "study": name, "machine": machine, "versions": versions("torch"), "rows": []}


def factors(recipe, out, study, row):
    """Factorize; return the row."""
    from kfdeploy.cli.console import TrainingProgress
    from kfdeploy.deploy.assemble import assemble
    from kfdeploy.training.factorize import factorize

    factorize(recipe, out, resume=True, report=TrainingProgress())
    pool = Pool.open(out)
    found = describe(pool.manifest["training"], out / "train") | {"nets": pool.manifest["nets"]}
    found["validation"] = accuracies(pool.evidence(), pool.classes, study["subsets"])
    if row.get("inspect"):
        from kfdeploy.measuring.factors.inspect import inspect

        found["inspection"] = {key: value for key, value in inspect(pool).items() if key in INSPECTED}
    model = assemble(pool, [task.name for task in pool.tasks], out.with_name(f"{out.name}-all"), force=True)
    found["parameters"] = model.manifest["parameters"]
    if row.get("test"):
        found |= tested(recipe, model, study["subsets"])
    return found


def student(recipe, out, study, row):
    """Distil the recipe's first student; return the row."""
    from kfdeploy.cli.console import TrainingProgress
    from kfdeploy.deploy.model import Model
    from kfdeploy.training.distill import distill

    name = recipe.students[0].name
    distill(recipe, students=[name], out=out, resume=True, report=TrainingProgress())
    model = Model.open(out / name)
    found = describe(model.manifest["training"], model.path / "train") | {
        "nets": model.manifest["net"],
        "parameters": model.manifest["parameters"],
    }
    found["validation"] = accuracies(model.evidence(), model.classes, study["subsets"])
    if row.get("test"):
        found |= tested(recipe, model, study["subsets"])
    return found


def separate(recipe, out, study, row):
    """Distil one student a task, its classes against the rest as negatives, and let them answer together; the row.

    Each has log-odds against "other" as its outputs, so their outputs side by side are the answer (see
    `kfdeploy.training.objectives.classification.against_other`).
    """
    import torch

    from kfdeploy.cli.console import TrainingProgress
    from kfdeploy.training.experiment import Experiment
    from kfdeploy.training.learners.classifier import AgainstRest
    from kfdeploy.training.loop.learner import outputs_of
    from kfdeploy.training.nets.build import describe as title
    from kfdeploy.training.nets.classifier import Classifier
    from kfdeploy.training.writing.classifier import WEIGHTS, save_state

    experiment = Experiment(recipe, TrainingProgress())
    config, parts, seconds, terms = recipe.students[0], [], 0, []
    teacher = experiment.teacher(out / "teacher", resume=True)[0]
    sizes = torch.tensor([len(task.classes) for task in experiment.tasks])
    owner = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    for number, task in enumerate(experiment.tasks):
        torch.manual_seed(recipe.seed * 1000 + number)
        net = Classifier(config.net, experiment.image, len(task.classes))
        learner = AgainstRest(net, config.soft, torch.nonzero(owner == number)[:, 0].tolist(), len(owner))
        place = out / task.name
        fitted = experiment.fit(learner, place, task.name, recipe.train, teacher=teacher, resume=True)
        save_state(place / WEIGHTS, learner.net)
        seconds, parts, terms = seconds + fitted.seconds, [*parts, learner], [*terms, fitted.log[-1]]
    found = {
        "epochs": recipe.train.epochs, "images": len(experiment.train), "threads": torch.get_num_threads(),
        "precision": precision_of(experiment.fabric), "seconds": round(seconds),
        "nets": f"{len(parts)} × {title(config.net)}", "parameters": sum(folded(part.net) for part in parts),
        "terms": {key: round(sum(each[key] for each in terms), 5) for key in ("sup", "kt")},
    }  # fmt: skip
    for split, data in (("validation", experiment.validation), ("test", experiment.test)):
        if split == "test" and not row.get("test"):
            continue
        logits = np.concatenate([outputs_of(part, data, experiment.fabric.device)[:, 1:] for part in parts], 1)
        found |= scored(split, logits, data.labels, experiment.classes, study["subsets"])
    if row.get("inspect"):
        found["inspection"] = inspect_separate(experiment, parts, owner.numpy())
    return found


def inspect_separate(experiment, parts, owner):
    """Return how alike the students of K tasks are and what each knows, as `kfdeploy inspect` does for a pool."""
    import torch

    from kfdeploy.measuring.factors.cka import cka_matrix
    from kfdeploy.measuring.factors.probes import probe_matrix

    @torch.no_grad()
    def features(net, data):
        net.eval()
        pieces = map(torch.from_numpy, data.batches(500))
        return np.concatenate([net(piece)[1][-1].mean((2, 3)).double().numpy() for piece in pieces])

    names = [task.name for task in experiment.tasks]
    sets = [
        {name: features(part.net, data) for name, part in zip(names, parts, strict=True)}
        for data in (experiment.validation, experiment.test)
    ]
    probe = probe_matrix(sets[0], experiment.validation.labels, sets[1], experiment.test.labels, owner)
    return {"factors": names, "tasks": names, "cka": cka_matrix(list(sets[1].values())).round(4).tolist(),
            "probe": probe.round(4).tolist()}  # fmt: skip


def folded(net):
    """Return a network's number of parameters as its graph has them, normalisation folded."""
    from torch import nn

    norms = sum(module.num_features for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    image = net.normalise.scale.numel() + net.normalise.shift.numel()
    return sum(parameter.numel() for parameter in net.parameters()) - norms + image


def describe(training, folder):
    """Return how long a row trained, and its last losses."""
    rows = (folder / "timing.csv").read_text(encoding="utf-8").splitlines()[1:]
    keys = ("epochs", "images", "precision", "threads")
    terms = {key: round(value, 5) for key, value in training["terms"].items()}
    return {key: training[key] for key in keys} | {
        "seconds": round(sum(float(line.split(",")[1]) for line in rows)), "terms": terms,
        "peak_mib": round(float(rows[-1].split(",")[2])),
    }  # fmt: skip


def accuracies(evidence, classes, subsets):
    """Return the validation accuracy in % of all classes together and of each subset, by name."""
    found = {}
    for name, chosen in {"all": classes, **subsets}.items():
        part = replace(evidence, logits=evidence.logits[:, [list(classes).index(c) for c in chosen]])
        found[name] = round(100 * subset_accuracy(part, [TaskSpec(c, (c,)) for c in chosen]).value, 2)
    return found


def tested(recipe, model, subsets):
    """Return the test accuracy in % and, packed into hexadecimal, which images of each subset are right."""
    from kfdeploy.data.sources import load_split
    from kfdeploy.graph.reference import Runner

    data = load_split(recipe.data.source, recipe.data.root, "test", recipe.image.spec()).only(model.classes)
    run = Runner(model.graph, threads=2)
    parts = [run(images)["logits"] for images in data.batches(500)]
    return scored("test", np.concatenate(parts), data.labels, model.classes, subsets)


def scored(split, logits, labels, names, subsets):
    """Return the accuracy in % of all classes and of each subset, and of test also which images are right."""
    accuracy, right = {}, {}
    for name, chosen in {"all": list(names), **subsets}.items():
        columns = [list(names).index(c) for c in chosen]
        inside = np.isin(labels, columns)
        hit = np.array(columns)[logits[inside][:, columns].argmax(1)] == labels[inside]
        accuracy[name], right[name] = round(100 * float(hit.mean()), 2), np.packbits(hit).tobytes().hex()
    return {split: accuracy} | ({"right": right} if split == "test" else {})


def commit():
    """Return the commit of the code."""
    return subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()


KINDS = {"factors": factors, "student": student, "separate": separate}

if __name__ == "__main__":
    main()
