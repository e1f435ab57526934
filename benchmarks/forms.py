"""The graphs of this checkout against those of an earlier commit: the same pool and tasks, in alternating rounds.

    python benchmarks/forms.py --pool pool --before COMMIT --out benchmarks/results/forms-<machine>-<date>.json

The earlier commit's own code assembles and exports the first K tasks of a pool, as a bank and as branches, in float32
and in int8; so does this checkout's. Each pair is then timed single-stream by this checkout, in fresh processes whose
order is drawn anew each round. `ratio` is the new median latency over the old: above `--most` it exits with 1.
`--names` takes tasks by name, such as heads of unequal size, in the place of K.
"""

import argparse
import itertools
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from kfdeploy.deploy.artifact import Artifact
from kfdeploy.files import dump_line_json
from kfdeploy.measuring.intervals import ratio_interval
from kfdeploy.measuring.rounds import Job, describe_machine, measure_afresh
from kfdeploy.pool.pool import Pool
from kfdeploy.targets.base import Setup
from kfdeploy.targets.device.clock import QUICK, Protocol
from kfdeploy.writing import write_file

ROOT = Path(__file__).parents[1]
EXPORT = """
import sys
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
pool, place, form, target, precision, *names = sys.argv[1:]
model = assemble(pool, names, f"{place}/{form}-{target}-{precision}", fuse=form)
print(export(model, target, precision=precision, out=f"{place}/artifacts").path)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, default=Path("pool"))
    parser.add_argument("--before", required=True, help="a commit of this repository")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 10], help="values of K")
    parser.add_argument("--names", nargs="+", help="one subset, by its tasks' names")
    parser.add_argument("--targets", nargs="+", default=["onnx", "openvino"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--most", type=float, default=1.02, help="the largest ratio that is allowed")
    parser.add_argument("--quick", action="store_true", help="a look, too short for numbers to be quoted")
    asked = parser.parse_args()
    protocol = QUICK if asked.quick else Protocol()
    pool = Pool.open(asked.pool)
    every = [task.name for task in pool.tasks]
    subsets = [asked.names] if asked.names else [every[:K] for K in asked.tasks if len(every) >= K]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        code = {"before": _checked_out(asked.before, Path(folder) / "code"), "now": ROOT}
        kinds = itertools.product(subsets, asked.targets, asked.precisions, ("bank", "branches"))
        for number, (names, target, precision, form) in enumerate(kinds):
            words = [form, target, precision, *names]
            artifacts = {
                side: _exported(root, asked.pool, Path(folder) / f"{number}-{side}", words)
                for side, root in code.items()
            }
            about = {"K": len(names), "target": target, "precision": precision, "form": form, "threads": asked.threads}
            rows.append(about | compare(artifacts, asked.threads, protocol))
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    result = {
        "schema": 1, "kind": "forms", "quick": asked.quick, "protocol": vars(protocol), "machine": describe_machine(),
        "before": asked.before, "pool": pool.manifest["name"], "nets": pool.manifest["nets"],
        "image": list(pool.image.shape), "rows": rows,
    }  # fmt: skip
    write_file(asked.out, dump_line_json(result))
    slower = [row for row in rows if row["ratio"] > asked.most]
    print(f"wrote {asked.out}; {len(rows) - len(slower)} of {len(rows)} ratios are at most {asked.most}")
    sys.exit(1 if slower else 0)


def compare(artifacts, threads, protocol):
    """Return both medians, their ratio with its interval, and how far the outputs are apart."""
    images = np.random.default_rng(0).integers(0, 256, (32, *artifacts["now"].image.shape), dtype=np.uint8)
    logits = {}
    for side, artifact in artifacts.items():
        with artifact.session(Setup(threads=threads)) as session:
            logits[side] = session.run({"image": images})["logits"]
    rounds = {"now": [], "before": []}
    for number in range(protocol.rounds):
        for side in random.Random(number).sample(sorted(artifacts), 2):
            found = measure_afresh(Job(str(artifacts[side].path), "single-stream", threads, 1), protocol)
            rounds[side].append(np.array(found.samples))
    ratio, interval = ratio_interval(rounds["now"], rounds["before"])
    medians = {f"{side}_ms": round(float(np.median(np.concatenate(rounds[side]))), 5) for side in rounds}
    return {
        **medians, "ratio": round(ratio, 4), "interval": [round(v, 4) for v in interval],
        "difference": float(np.abs(logits["now"] - logits["before"]).max()), "n": sum(len(r) for r in rounds["now"]),
        "bytes": {side: artifact.bytes for side, artifact in artifacts.items()},
    }  # fmt: skip


def _checked_out(commit: str, place: Path) -> Path:
    """Write the code of a commit to a folder."""
    place.mkdir()
    command = ["git", "-C", str(ROOT), "archive", commit, "kfdeploy", "export"]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(place)], input=packed, check=True)
    return place


def _exported(root: Path, pool: Path, place: Path, words: list[str]) -> Artifact:
    """Assemble and export by the code in `root`."""
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", EXPORT, str(pool.resolve()), str(place), *words]
    # In its own folder, which Python looks into first.
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=root)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} by the code in '{root.name}':\n{done.stderr}")
    return Artifact.open(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
