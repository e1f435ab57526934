"""What a verb costs as a process: one source tree against another, in alternating rounds, and `kfdeploy --help`.

    python benchmarks/processes.py --before ../0.1.0 --after . --pool kfdeploy-demo/pool --tasks three eight

Both trees run in this Python, each first in its path; a tree is best a fresh clone, both on the same disk.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from kfdeploy.measuring.intervals import ratio_interval
from kfdeploy.measuring.rounds import alternating, describe_machine

ROUNDS = 41  # the first is a warm-up


def seconds(tree: Path, *words: str) -> float:
    """Return how long a verb takes as a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(tree.resolve())}
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "kfdeploy", *words], env=env, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measure, print, and write `results/processes.json`."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--before", type=Path, required=True)
    options.add_argument("--after", type=Path, required=True)
    options.add_argument("--pool", type=Path, required=True)
    options.add_argument("--tasks", nargs="+", required=True)
    asked = options.parse_args()
    trees = {"before": asked.before, "after": asked.after}
    with tempfile.TemporaryDirectory() as place:
        words = ["assemble", "--pool", str(asked.pool), "--tasks", *asked.tasks, "--out", f"{place}/made", "--force"]
        times: dict[str, list[float]] = {name: [] for name in trees}
        for number, name in alternating(trees, ROUNDS):
            took = seconds(trees[name], *words)
            if number:
                times[name].append(took)
    helps = [seconds(asked.after, "--help") for _ in range(21)]
    rounds = {name: [np.array([1000 * took]) for took in found] for name, found in times.items()}
    ratio, interval = ratio_interval(rounds["after"], rounds["before"])
    found = {
        "machine": describe_machine(),
        "rounds": ROUNDS - 1,
        "assemble_ms": {name: round(1000 * statistics.median(found), 1) for name, found in times.items()},
        "ratio": round(ratio, 4),
        "interval": [round(value, 4) for value in interval],
        "help_ms": round(1000 * statistics.median(helps), 1),
    }
    print(json.dumps(found, indent=2))
    place_of = Path(__file__).parent / "results" / "processes.json"
    place_of.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
