"""Bank against branches: one grouped network for K tasks, or K networks side by side. Same numbers, other speed.

    python benchmarks/bank.py --pool pool --out benchmarks/results/bank-<machine>-<date>.json

Assembles the first K tasks of a pool both ways, for K = 2, 4, 10 (as far as the pool goes), checks that the outputs
agree to 1e-5 × max(1, largest logit), and measures single-stream latency on both runtimes with one and two threads, in
alternating rounds of fresh processes. `ratio` is the bank's median latency over the branches': below 1 the bank wins.
"""

import argparse
import itertools
import random
import tempfile
from pathlib import Path

import numpy as np

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.files import dump_line_json
from kfdeploy.measuring.intervals import ratio_interval
from kfdeploy.measuring.rounds import Job, describe_machine, measure_afresh
from kfdeploy.pool.pool import Pool
from kfdeploy.targets.base import Setup
from kfdeploy.targets.device.clock import QUICK, Protocol
from kfdeploy.writing import write_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, default=Path("pool"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 10], help="values of K")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="a look, too short for numbers to be quoted")
    asked = parser.parse_args()
    protocol = QUICK if asked.quick else Protocol()
    pool = Pool.open(asked.pool)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for K, target in itertools.product([k for k in asked.tasks if k <= len(pool.tasks)], ("onnx", "openvino")):
            names = [task.name for task in pool.tasks[:K]]
            place = Path(folder) / f"{K}-{target}"
            artifacts = {
                form: export(assemble(pool, names, place / form, fuse=form), target, out=place / "artifacts")
                for form in ("bank", "branches")
            }
            rows += [compare(artifacts, K, target, threads, protocol) for threads in asked.threads]
            for row in rows[-len(asked.threads) :]:
                print(
                    f"K = {K}, {target}, {row['threads']} threads: bank {row['bank_ms']:.3f} ms, branches "
                    f"{row['branches_ms']:.3f} ms, ratio {row['ratio']:.3f} {row['interval']}, "
                    f"outputs differ by {row['difference']:.1e}"
                )
    result = {
        "schema": 1, "kind": "bank", "quick": asked.quick, "protocol": vars(protocol), "machine": describe_machine(),
        "pool": pool.manifest["name"], "nets": pool.manifest["nets"], "image": list(pool.image.shape), "rows": rows,
    }  # fmt: skip
    write_file(asked.out, dump_line_json(result))
    print(f"wrote {asked.out}")


def compare(artifacts, K, target, threads, protocol):
    """Return one row: both forms' medians, their ratio with its interval, and how far their outputs are apart."""
    images = np.random.default_rng(0).integers(0, 256, (32, *artifacts["bank"].image.shape), dtype=np.uint8)
    logits = {}
    for form, artifact in artifacts.items():
        with artifact.session(Setup(threads=threads)) as session:
            logits[form] = session.run({"image": images})["logits"]
    difference = float(np.abs(logits["bank"] - logits["branches"]).max())
    allowed = 1e-5 * max(1.0, float(np.abs(logits["branches"]).max()))
    if not difference <= allowed:
        raise SystemExit(f"bank and branches differ by {difference:.3g}, and {allowed:.3g} is allowed")
    rounds = {"bank": [], "branches": []}
    for number in range(protocol.rounds):
        for form in random.Random(number).sample(list(artifacts), 2):
            found = measure_afresh(Job(str(artifacts[form].path), "single-stream", threads, 1), protocol)
            rounds[form].append(np.array(found.samples))
    ratio, interval = ratio_interval(rounds["bank"], rounds["branches"])
    medians = {f"{form}_ms": round(float(np.median(np.concatenate(rounds[form]))), 5) for form in rounds}
    return {
        "K": K, "target": target, "threads": threads, "batch": 1, **medians, "ratio": round(ratio, 4),
        "interval": [round(v, 4) for v in interval], "difference": difference, "allowed": allowed,
        "n": sum(len(r) for r in rounds["bank"]),
    }  # fmt: skip


if __name__ == "__main__":
    main()
