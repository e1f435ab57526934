"""Where the lead of factors begins, and how it grows: with the classes of a pool, of a task, and with the images.

    python benchmarks/lead.py train <study.toml> --data <cifar100-50> --teacher <teacher.safetensors> [--minutes N]
    python benchmarks/lead.py tell  <study.toml>

A study is a TOML file of `[[cells]]`: so many `classes` (the first in the order of names), in tasks of so many (`size`,
grouped by the teacher's confusions), with so many `images` a class, and `epochs`, such that every cell has the same
number of steps; each trains the study's `[[rows]]` as `front.py` does. A network of all classes does not depend on the
tasks: cells that differ in these alone name the cell that they take it `from`. Results go to
`benchmarks/results/<name>.json` as each cell ends; `tell` draws the picture beside it.
"""

import argparse
import json
import math
import os
import tomllib
from pathlib import Path
from types import SimpleNamespace

import front
import numpy as np
from front_tell import between
from study import RESULTS

from kfdeploy.deploy.model import Model
from kfdeploy.files import dump_line_json
from kfdeploy.manifest import versions
from kfdeploy.measuring.rounds import describe_machine
from kfdeploy.report.picture import new_figure, save_figure
from kfdeploy.writing import write_file

PANELS = (("classes", "classes in the pool, tasks of 5"), ("size", "classes a task, 50 in the pool"),
          ("images", "training images a class"))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["train", "tell"])
    parser.add_argument("study", type=Path)
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("--teacher", type=Path, default=Path())
    parser.add_argument("--work", type=Path, default=Path("lead"))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no row after so many")
    asked = parser.parse_args()
    study = tomllib.loads(asked.study.read_text(encoding="utf-8"))
    out = RESULTS / f"{asked.study.stem}.json"
    if asked.do == "train":
        for cell in study["cells"]:
            train_cell(asked, study, cell, out)
    tell(json.loads(out.read_text(encoding="utf-8")), out)


def train_cell(asked, study, cell, out):
    """Train what a cell lacks, and put the cells on record."""
    work = asked.work / cell["name"]
    work.mkdir(parents=True, exist_ok=True)
    names = sorted(path.name for path in (asked.data / "train").iterdir() if path.is_dir())
    settings = [*study["settings"], f"train.epochs={cell['epochs']}", f"teacher.classes={json.dumps(names)}",
                tasks_of(cell)]  # fmt: skip
    rows = [row | {"test": True} for row in study["rows"]]
    if "from" in cell:  # networks of all classes are the same whatever the tasks are
        rows = [row if row["kind"] == "factors" else row | {"kind": "taken", "cell": cell["from"]} for row in rows]
    own = {"recipe": study["recipe"], "settings": settings, "teacher": [], "rows": rows}
    data, place = fewer(asked.data, work / "data", names[: cell["classes"]], cell["images"]), work / "result.json"
    front.KINDS["taken"] = taken
    front.train(SimpleNamespace(study=Path(cell["name"]), data=data, weights=asked.teacher.resolve(), work=asked.work,
                                rows=[], minutes=asked.minutes), own, place)  # fmt: skip
    found = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {"cells": {}}
    found |= {"schema": 1, "kind": "lead", "machine": describe_machine(), "versions": versions("torch")}
    result = json.loads(place.read_text(encoding="utf-8"))
    for row in result["rows"]:
        row["test"].pop("right", None)
    found["cells"][cell["name"]] = cell | {key: result[key] for key in ("tasks", "teacher", "rows")}
    write_file(out, dump_line_json(found))


def tasks_of(cell):
    """Return the setting of a cell's tasks."""
    count = cell["classes"] // cell["size"]
    return 'tasks="classes"' if cell["size"] == 1 else f"tasks={{group={count}}}"


def fewer(data, place, names, images):
    """Return a folder of these classes with so many of their images, spread over them, as hard links; all for test."""
    for split in ("train", "test"):
        for name in names:
            own = place / split / name
            own.mkdir(parents=True, exist_ok=True)
            files = sorted((data / split / name).iterdir())
            for i in range(images if split == "train" else len(files)):
                path = files[i * len(files) // images] if split == "train" else files[i]
                if not (own / path.name).exists():
                    os.link(path, own / path.name)
    return place.resolve()


def taken(recipe, out, row, result):
    """Score the student of another cell on this one's tasks; return the row."""
    place = out.parent.with_name(row["cell"]) / out.name / recipe.students[0].name
    model = Model.open(place)
    found = {key: model.manifest["training"][key] for key in ("epochs", "images")} | {"minutes": 0}
    found |= {"nets": model.manifest["net"], "macs": [front.count_macs(model.graph)]}
    return found | front.of_model(recipe, model, model.evidence(), row, result["tasks"])


def lead(cell, size):
    """Return `(points, ratio)`: how much more accurate at equal multiplications, and how many fewer at equal accuracy.

    Both against a line between the networks of all classes, in the logarithm of multiplications; None beyond its ends.
    """
    count = {"one": 0, "two": 1}[size]
    mine = next(row for row in cell["rows"] if row["kind"] == "factors")
    own = mine["test"]["mean"][size], math.log(mine["macs"][count])
    others = sorted((math.log(row["macs"][0]), row["test"]["mean"][size]) for row in cell["rows"] if row is not mine)
    costs, accuracies = (list(each) for each in zip(*others, strict=True))
    points = own[0] - float(np.interp(own[1], costs, accuracies)) if costs[0] <= own[1] <= costs[-1] else None
    line = between([{"log": c, "accuracy": a} for c, a in others], own[0], "log")
    return points, None if line is None else math.exp(line - own[1])


def tell(found, out):
    """Print each cell's lead, and draw the picture: what each of the three makes of it."""
    figure, cells = new_figure(11, 3.8, 120), found["cells"]
    base = next(cell for cell in cells.values() if cell.get("base"))
    for number, (key, label) in enumerate(PANELS):
        axes = figure.add_subplot(1, 3, number + 1)
        others = {"classes", "size", "images"} - {key}
        along = sorted((c for c in cells.values() if all(c[k] == base[k] for k in others)), key=lambda c: c[key])
        for size, words in (("one", "one task"), ("two", "two tasks")):
            known = [(cell[key], lead(cell, size)[0]) for cell in along if cell["size"] > 1 or size == "two"]
            known = [each for each in known if each[1] is not None]
            axes.plot([x for x, _ in known], [y for _, y in known], "o-", label=words)
        axes.axhline(0, color="0.6", linewidth=1)
        axes.set_xscale("log")
        axes.set_xticks([cell[key] for cell in along], [str(cell[key]) for cell in along])
        axes.minorticks_off()
        axes.set_xlabel(label)
        if not number:
            axes.set_ylabel("points over students at equal cost")
            axes.legend()
    save_figure(figure, out.with_suffix(".png"))
    for name, cell in cells.items():
        print(name, {size: lead(cell, size) for size in ("one", "two")})


if __name__ == "__main__":
    main()
