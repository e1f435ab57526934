"""None of these: how well an assembly tells images of its tasks from images of the classes that were left out, on test.

    python benchmarks/openset.py --pools <pool>... --students <student>... --out benchmarks/results/openset-<…>.json

For every subset: the AUROC of the assembly's `known`, and the student's, masked to the subset, by its largest softmax
share (the usual way) and by the same score. Thresholds are the ones `--open-set` chooses on validation for 5 % of false
accepts; what they let in on test is measured by the exported graph itself. One pool and student a seed.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from pareto import SUBSETS

from kfdeploy.data.sources import load_split
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.model import Model
from kfdeploy.files import dump_line_json
from kfdeploy.graph.known import KNOWN
from kfdeploy.graph.reference import Runner
from kfdeploy.measuring.rounds import describe_machine
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.openset import auroc, scores
from kfdeploy.tasks.spec import columns
from kfdeploy.writing import write_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", nargs="+", required=True, type=Path)
    parser.add_argument("--students", nargs="+", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    asked = parser.parse_args()
    seeds = [evaluate(*pair, SUBSETS) for pair in zip(asked.pools, asked.students, strict=True)]
    rows = [
        {"subset": name, **{key: [seed[name][key] for seed in seeds] for key in seeds[0][name]}} for name in SUBSETS
    ]
    result = {"schema": 1, "kind": "openset", "machine": describe_machine(), "seeds": len(seeds), "rows": rows}
    write_file(asked.out, dump_line_json(result))
    for row in rows:
        print(row["subset"], {key: round(float(np.mean(value)), 4) for key, value in row.items() if key != "subset"})


def evaluate(pool_path, student_path, subsets):
    """Return every subset's figures for one pool and one student."""
    pool, student = Pool.open(pool_path), Model.open(student_path)
    about = pool.recipe["data"]
    data = load_split(about["source"], about["root"], "test", pool.image).in_memory()
    theirs = outputs(student.graph, data, "logits")["logits"]
    found = {}
    for name, chosen in subsets.items():
        with tempfile.TemporaryDirectory() as place:
            model = assemble(pool, chosen, Path(place) / "assembly", open_set=0.05)
            known = outputs(model.graph, data, KNOWN)[KNOWN]
        own = np.isin(np.array(data.classes)[data.labels], chosen)
        masked = theirs[:, columns(student.classes, chosen)]
        ways = {"assembly": known, "student_softmax": masked.max(1) - scores(masked), "student_score": scores(masked)}
        found[name] = {key: round(auroc(value[own], value[~own]), 5) for key, value in ways.items()} | {
            "let_in": round(float((known[own] >= 0).mean()), 5),
            "false_accept": round(float((known[~own] >= 0).mean()), 5),
        }
    return found


def outputs(graph, data, *names):
    """Return a graph's outputs for every image."""
    run = Runner(graph, names, threads=2)
    pieces = [run(images) for images in data.batches(500)]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in run.outputs}


if __name__ == "__main__":
    main()
