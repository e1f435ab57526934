"""Is a pool that grew worth as much as one trained whole? Eight classes of CIFAR-10, two added later, against all ten.

    python benchmarks/grow.py --data <folder> --teacher <resnet56-4bfd9763.th> --joint <pool of ten> --out <json>

The pool of eight is trained as `studies/goal.toml` trains its ten; each task is then added with everything else frozen.
Accuracies are on test, of the exported graphs; `--joint` is a pool of ten of that study, of the same seed.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from pareto import SUBSETS
from study import common_of

from kfdeploy.cli.console import TrainingProgress
from kfdeploy.data.sources import load_split
from kfdeploy.deploy.assemble import assemble
from kfdeploy.files import dump_line_json
from kfdeploy.graph.reference import Runner
from kfdeploy.measuring.rounds import describe_machine
from kfdeploy.pool.pool import Pool
from kfdeploy.training.factorize import factorize
from kfdeploy.training.grow.add_task import add_task
from kfdeploy.training.recipe.recipe import load_recipe
from kfdeploy.writing import write_file

ADDED = ("deer", "truck")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--joint", required=True, type=Path)
    parser.add_argument("--work", type=Path, default=Path("study"))
    parser.add_argument("--epochs", type=int, default=3, help="of each added task")
    parser.add_argument("--out", required=True, type=Path)
    asked = parser.parse_args()
    common = common_of("goal", asked.data, asked.teacher, asked.work)
    recipe = load_recipe("cifar10", [*common, f"data.ignore={list(ADDED)}", "seed=0"])
    place, report = asked.work / "grow-eight", TrainingProgress()
    eight = factorize(recipe, place, resume=True, report=report)
    grown, rows = place, []
    for name in ADDED:
        after = asked.work / f"grow-{name}"
        setting = [f"train.epochs={asked.epochs}", "run.replay="]
        if not (after / "pool.json").is_file():
            fitted = add_task(
                grown, name, data=asked.data, classes=[name], out=after, settings=setting, resume=True, report=report
            )
            about = Pool.open(after).manifest
            size = about["files"][about["tasks"][-1]["file"]]["bytes"]
            rows.append(
                {"task": name, "epochs": asked.epochs, "images": about["added"][-1]["training"]["images"],
                 "seconds": round(fitted.seconds), "bytes": size}
            )  # fmt: skip
        grown = after
    ten, joint = Pool.open(grown), Pool.open(asked.joint)
    first = Pool.open(place)
    same = all(
        ten.manifest["files"][name] == about
        for name, about in first.manifest["files"].items()
        if name.startswith(("tasks/", "evidence/", "common", "task.onnx"))
    )
    result = {
        "schema": 1, "kind": "grow", "machine": describe_machine(), "added": rows, "seed": 0,
        "seconds": {"eight": round(eight.seconds)}, "files_unchanged": same,
        "test": {"grown": tested(ten), "joint": tested(joint)},
    }  # fmt: skip
    write_file(asked.out, dump_line_json(result))
    print(result["added"], result["test"], same)


def tested(pool):
    """Return the test accuracy in % of all ten classes and of each subset."""
    about = pool.recipe["data"]
    names = [task.name for task in pool.tasks]
    data = load_split(about["source"], about["root"], "test", pool.image).only(names).in_memory()
    with tempfile.TemporaryDirectory() as folder:
        run = Runner(assemble(pool, names, Path(folder) / "all").graph, threads=2)
        pieces = [run(images)["logits"] for images in data.batches(500)]
    logits = np.concatenate(pieces)
    found = {}
    for subset, chosen in {"all": names, **SUBSETS}.items():
        columns = np.array([names.index(c) for c in chosen])
        inside = np.isin(data.labels, columns)
        right = columns[logits[inside][:, columns].argmax(1)] == data.labels[inside]
        found[subset] = round(100 * float(right.mean()), 2)
    return found


if __name__ == "__main__":
    main()
