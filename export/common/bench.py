"""Measure this model on this device: the protocol and the JSON of `kfdeploy benchmark`.

python bench.py --json device.json [--scenario single-stream offline] [--threads 1] [--batch 32] [--data FOLDER]

Every round is a process of its own. `--data` is a folder with one folder of images a class: accuracy is then measured
too, of this very file, for the field `class`; of other fields, whose labels are in no folder's name, latency alone.
Bring the JSON back: it can be compared with other rows of the same schema.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import kit
import numpy as np
from device import clock, pixels


def main():
    """Read the command line, measure, print a table and write the JSON."""
    options = kit.parser(__doc__)
    options.add_argument("--scenario", nargs="+", default=["single-stream", "offline"], choices=SCENARIOS)
    options.add_argument("--batch", type=int, default=32, help="images at a time in the offline scenario (default 32)")
    options.add_argument("--quick", action="store_true", help="a look, too short for numbers to be quoted")
    options.add_argument("--data", type=Path, help="a folder with one folder of images a class")
    options.add_argument("--json", type=Path, help="where every number goes")
    options.add_argument("--round", help=argparse.SUPPRESS)  # for this program itself
    asked = options.parse_args()
    if asked.round:
        print(json.dumps(asdict(one_round(**json.loads(asked.round)))))
        return
    about = kit.manifest()
    protocol = clock.QUICK if asked.quick else clock.Protocol()
    fixed = about["options"]["batch"]
    rows, photo = [], photo_of(about, asked.data)
    for scenario in [name for name in SCENARIOS if name in asked.scenario]:
        batch = 1 if scenario == "single-stream" else asked.batch
        if fixed not in (0, batch):
            print(f"{scenario}: left out, the model has the fixed batch {fixed}")
            continue
        job = {"scenario": scenario, "threads": asked.threads, "batch": batch, "quick": asked.quick, "photo": photo}
        rounds = [afresh(job) for _ in range(protocol.rounds)]
        rows.append(row(about, scenario, asked.threads, batch) | clock.summarise(rounds, batch))
    right = accuracy(about, asked.data, asked.threads) if asked.data else None
    whole = list(kit.fields(about)) == [kit.CLASS]
    for found in rows:
        share, count = (float(right.mean()), len(right)) if right is not None else (None, 0)
        found["accuracy"], found["images"] = (share, count) if whole else (None, 0)
        names = [task["name"] for task in about["tasks"] if task.get("field", kit.CLASS) == kit.CLASS]
        scored = {"tasks": names, "accuracy": share, "images": count}
        found["accuracies"] = [scored] if right is not None else []
    result = {
        "schema": 1, "kind": "benchmark", "quick": asked.quick,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"), "protocol": vars(protocol),
        "machine": clock.describe_machine(kit.versions("numpy", *VERSIONS)), "rows": rows, "comparisons": [],
    }  # fmt: skip
    if asked.json:  # before anything is printed: who reads that may leave
        beside = asked.json.with_name(f".{asked.json.name}.partial")
        beside.write_text(json.dumps(result, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        beside.replace(asked.json)
    for found in rows:
        print(line(found))
    if asked.json:
        print(f"wrote {asked.json}")


def line(found):
    """Return what is printed of a row."""
    latency = found["latency_ms"]
    scored = next((one["accuracy"] for one in found["accuracies"]), None)
    return (
        f"{found['scenario']:14} batch {found['batch']:3}  threads {found['threads']}  "
        f"p50 {latency['p50']:.3f} ms  p90 {latency['p90']:.3f} ms  {found['throughput']:,.0f} images/s"
        + ("" if scored is None else f"  accuracy {100 * scored:.2f} %")
        + ("" if scored is None or found["accuracy"] is not None else " (of the field 'class' alone)")
        + "".join(f"\n  noisy: {why}" for why in found["noise"])
    )


def row(about, scenario, threads, batch):
    """Return what is known of a row before it is measured."""
    files = about["model_files"]
    each = [hashlib.sha256((kit.HERE / name).read_bytes()).hexdigest() for name in files]
    return {
        "kind": about["model"]["kind"], "name": about["model"]["name"], "tasks": [t["name"] for t in about["tasks"]],
        "target": about["target"], "precision": about["precision"], "threads": threads, "batch": batch,
        "scenario": scenario, "bytes": sum((kit.HERE / name).stat().st_size for name in files),
        "parameters": about["parameters"], "training": about.get("training"),
        "sha256": each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest(),
    }  # fmt: skip


def afresh(job):
    """Measure one round in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--round", json.dumps(job)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        _, own, said = done.stderr.strip().rpartition("error: ")
        if own and "Traceback" not in done.stderr:  # a line of ours, with its hint
            sys.exit(f"error: {said}")
        sys.exit(f"error: measuring failed: {(said.splitlines() or ['nothing was said'])[-1]}")
    return clock.Round(**json.loads(done.stdout.splitlines()[-1]))


def one_round(scenario, threads, batch, quick, photo):
    """Measure in this process."""
    cores = clock.pin(threads)
    about = kit.manifest()
    images, image = kit.golden()[0], about["image"]
    inputs = clock.rotation(images, batch)
    began = time.perf_counter_ns()
    session = kit.open_session(threads, scenario)
    load = (time.perf_counter_ns() - began) / 1e6
    protocol = clock.QUICK if quick else clock.Protocol()
    run = session.run if list(kit.fields(about)) == [kit.CLASS] else session.outputs
    found = clock.time_runs(lambda i: run(inputs[i % 16]), protocol, gpu=session.gpu)
    found.load, found.cores = load, cores
    fit = tuple(image["size"]), image["channels"], image["resize"], image["interpolation"]
    found.stages = clock.time_stages(pixels.stages(images[0], *fit, photo))
    return found


def photo_of(about, folder):
    """Return an image file of the user's of middling size, to time decoding on; without a folder there is none."""
    files = [path for name in kit.classes(about) if folder for path in kit.of_class(folder, name)]
    return str(sorted(files, key=lambda path: (path.stat().st_size, path))[len(files) // 2]) if files else ""


def accuracy(about, folder, threads):
    """Return 1 or 0 for each image of the model's classes: whether it is right; None where folders tell no label."""
    names = kit.classes(about)
    if not names:
        told, plain = ", ".join(kit.fields(about)), kit.shown.plain
        print(f"accuracy: not measured, as folders tell the field '{kit.CLASS}', and this model has: {plain(told)}")
        return None
    labelled = [(path, i) for i, name in enumerate(names) for path in kit.of_class(folder, name)]
    if not labelled:
        sys.exit(f"error: '{folder}' has no folder of images for any of: {', '.join(names)}")
    session, right = kit.open_session(threads), []
    for start in range(0, len(labelled), 256):
        piece = labelled[start : start + 256]
        images = np.stack([kit.read(path, about["image"]) for path, _ in piece])
        found = kit.outputs(session, images, about["options"]["batch"])
        kit.side_by_side(found, about)  # or it says what is not as it should be
        right.append(found["logits"].argmax(1) == [i for _, i in piece])
    return np.concatenate(right).astype(float)


SCENARIOS = ("single-stream", "offline")

if __name__ == "__main__":
    from session import VERSIONS

    kit.begin(main)
