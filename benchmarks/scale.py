"""A pool of ten thousand tasks: what assembling ten of them takes, and one assembly of a hundred.

    python benchmarks/scale.py --pool pool --out benchmarks/results/scale-<machine>-<date>.json [--work DIR]

Makes pools of 10, 100, 1,000 and 10,000 tasks from the real tasks of `--pool`, each task's files again under other
names (`--work` keeps them: some 1.3 GB, made once), and measures, in alternating rounds of fresh processes:

| part | what is timed |
|---|---|
| assemble | `kfdeploy assemble` of ten tasks spread over a pool: wall seconds and the process's peak of memory |
| hundred | a hundred tasks as one assembly, as bank and as branches: the same, the file, and single-stream latency |
| subsets | `kfdeploy plan --all` of `--pool`: the accuracy of every subset of its tasks |

Files are in the operating system's cache, as after a first use.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from bank import compare

from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.files import dump_json, dump_line_json, file_name, load_tensors, save_tensors
from kfdeploy.manifest import POOL, describe_files, stamp
from kfdeploy.measuring.rounds import describe_machine
from kfdeploy.pool.manifest import SHARED
from kfdeploy.pool.pool import Pool
from kfdeploy.targets.device.clock import QUICK, Protocol
from kfdeploy.writing import write_file

SIZES = (10, 100, 1000, 10_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, default=Path("pool"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, help="where the pools are kept")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--quick", action="store_true", help="a look, too short for numbers to be quoted")
    asked = parser.parse_args()
    source = Pool.open(asked.pool)
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        pools = {size: synthetic(source, size, work / f"pool-{size}") for size in asked.sizes}
        if not asked.only:
            return
        result = {
            "schema": 1, "kind": "scale", "quick": asked.quick, "rounds": asked.rounds, "machine": describe_machine(),
            "pool": source.manifest["name"], "nets": source.manifest["nets"], "image": list(source.image.shape),
            "protocol": vars(QUICK if asked.quick else Protocol()),
        }  # fmt: skip
        if "assemble" in asked.only:
            result["assemble"] = ten_of_many(pools, Path(folder), asked.rounds)
        if "hundred" in asked.only:
            result["hundred"] = hundred(pools, Path(folder), asked.rounds, QUICK if asked.quick else Protocol())
        if "subsets" in asked.only:
            result["subsets"] = every_subset(source, Path(folder), asked.rounds)
    write_file(asked.out, dump_line_json(result))
    print(f"wrote {asked.out}")


def synthetic(source: Pool, size: int, out: Path) -> Path:
    """Write a pool of `size` tasks, the source's over and over; what is there already is kept."""
    if (out / POOL).is_file():
        return out
    print(f"making a pool of {size:,} tasks", flush=True)
    for name in ("common.onnx", "task.onnx", source.manifest["calibration"]):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(source.file(name).read_bytes())
    K, entries, parts = len(source.tasks), [], []
    for task in source.tasks:
        entry = source.entry(task)
        parts.append((entry, *(load_tensors(source.file(entry[key])) for key in ("file", "evidence"))))
    for i in range(size):
        entry, weights, logits = parts[i % K]
        name = f"{entry['name']} {i // K:04}"
        own = {"name": name, "classes": [f"{c} {i // K:04}" for c in entry["classes"]], "kind": entry["kind"]}
        paths = {"file": f"tasks/{file_name(name)}.safetensors", "evidence": f"evidence/{file_name(name)}.safetensors",
                 "calibration": f"calibration/task-{file_name(name)}.json"}  # fmt: skip
        about = stamp("task") | {"task": name, "classes": own["classes"]}
        save_tensors(out / paths["file"], weights, about)
        save_tensors(out / paths["evidence"], logits, about | {"kind": "evidence"})
        (out / paths["calibration"]).write_bytes(source.file(entry["calibration"]).read_bytes())
        entries.append(own | paths)
    classes = [name for entry in entries for name in entry["classes"]]
    shared = load_tensors(source.file(SHARED))
    # The validation images are shared out among the copies of their classes.
    copy = np.arange(len(shared["validation.labels"])) % max(1, size // K)
    shared["validation.labels"] = shared["validation.labels"] + copy * len(source.manifest["classes"])
    save_tensors(out / SHARED, shared, stamp("evidence"))
    recipe = source.manifest["recipe"] | {"tasks": {entry["name"]: entry["classes"] for entry in entries}}
    manifest = source.manifest | {"name": f"scale-{size}", "tasks": entries, "classes": classes, "recipe": recipe}
    manifest.pop("blocks", None)
    files = [path for path in out.rglob("*") if path.is_file() and path.name != POOL]
    (out / POOL).write_text(dump_json(manifest | {"files": describe_files(out, files)}), encoding="utf-8")
    return out


# Its own small process: what a child has at its peak counts what its parent had when it started.
LAUNCHER = """
import json, os, sys, time
began = time.perf_counter()
out = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
child = os.posix_spawn(sys.executable, [sys.executable, "-m", "kfdeploy", *sys.argv[1:]], os.environ, file_actions=out)
_, status, usage = os.wait4(child, 0)
print(json.dumps([time.perf_counter() - began, usage.ru_maxrss * 1024 / 1e6]))
sys.exit(bool(status))
"""


def process(*words) -> tuple[float, float]:
    """Run `kfdeploy` with these words in a process of its own; return its wall seconds and its peak of memory in MB."""
    command = [sys.executable, "-c", LAUNCHER, *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"kfdeploy {' '.join(map(str, words))} failed")
    seconds, megabytes = json.loads(done.stdout)
    return seconds, megabytes


def spread(pool: Path, count: int) -> list[str]:
    """Return the names of `count` tasks, evenly spread over a pool."""
    names = [entry["name"] for entry in json.loads((pool / POOL).read_text(encoding="utf-8"))["tasks"]]
    return [names[i] for i in np.linspace(0, len(names) - 1, count).round().astype(int)]


def rounds_of(count: int, **ways) -> dict[str, list[tuple[float, float]]]:
    """Run each way `count` times after one to warm up, in rounds of random order."""
    found = {name: [] for name in ways}
    for number in range(count + 1):
        for name in random.Random(number).sample(list(ways), len(ways)):
            measured = ways[name]()
            if number:
                found[name].append(measured)
    return found


def summary(runs: list[tuple[float, float]]) -> dict:
    seconds, memory = zip(*runs, strict=True)
    return {"seconds": round(statistics.median(seconds), 3), "slowest_s": round(max(seconds), 3),
            "peak_mb": round(statistics.median(memory), 1), "n": len(runs),
            "samples_s": [round(s, 4) for s in seconds]}  # fmt: skip


def ten_of_many(pools: dict[int, Path], folder: Path, count: int) -> list[dict]:
    ways = {}
    for size, pool in pools.items():
        words = ("assemble", "--pool", pool, "--tasks", *spread(pool, 10), "--out", folder / f"ten-{size}", "--force")
        ways[str(size)] = lambda words=words: process(*words)
    rows = []
    for size, runs in rounds_of(count, **ways).items():
        manifest = (pools[int(size)] / POOL).stat().st_size
        rows.append({"pool": int(size), "tasks": 10, "manifest_bytes": manifest, **summary(runs)})
        print(f"10 of {int(size):,} tasks: {rows[-1]['seconds']:.3f} s, {rows[-1]['peak_mb']:.0f} MB", flush=True)
    return rows


def hundred(pools: dict[int, Path], folder: Path, count: int, protocol: Protocol) -> dict:
    pool = next(pools[size] for size in sorted(pools) if size >= 100)
    names, ways = spread(pool, 100), {}
    for form in ("bank", "branches"):
        words = ("assemble", "--pool", pool, "--tasks", *names, "--out", folder / form, "--fuse", form, "--force")
        ways[form] = lambda words=words: process(*words)
    found, artifacts = {}, {}
    for form, runs in rounds_of(count, **ways).items():
        model = Model.open(folder / form)
        artifacts[form] = export(model, "onnx", out=folder / "artifacts")
        found[form] = {"bytes": model.graph.stat().st_size, "parameters": model.manifest["parameters"], **summary(runs)}
        print(f"100 tasks as {form}: {found[form]['seconds']:.3f} s, {found[form]['peak_mb']:.0f} MB", flush=True)
    row = compare(artifacts, 100, "onnx", 1, protocol)
    print(f"100 tasks: bank {row['bank_ms']:.3f} ms, branches {row['branches_ms']:.3f} ms", flush=True)
    return {"pool": len(Pool.open(pool).tasks), "forms": found, "latency": row}


def every_subset(source: Pool, folder: Path, count: int) -> dict:
    words = ("plan", "--pool", source.path, "--all", "--out", folder / "subsets.csv", "--force")
    found = summary(rounds_of(count, plan=lambda: process(*words))["plan"])
    subsets = 2 ** len(source.tasks) - 1
    print(f"{subsets:,} subsets: {found['seconds']:.3f} s, {found['peak_mb']:.0f} MB", flush=True)
    return {"tasks": len(source.tasks), "subsets": subsets, "images": len(source.evidence().labels), **found}


PARTS = ("assemble", "hundred", "subsets")

if __name__ == "__main__":
    main()
