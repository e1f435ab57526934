"""The clock against the tools people know: the same file, threads and calls, in alternating rounds of fresh processes.

    python benchmarks/clock_check.py <model>… --out benchmarks/results/clock-<machine>-<date>.json

Each model (an assembly, a student, a teacher) is exported with the fixed `--batch`. On OpenVINO `kfdeploy benchmark`'s
clock stands against `benchmark_app -hint latency -api sync`, on ONNX Runtime against a bare loop of
`time.perf_counter` around `session.run`. Ratios are ours over theirs. benchmark_app fills its inputs once, shares them
with the runtime and stays in C++ between two calls of Python; ours gives a new array and a dict to every call, as a
program would: on a model of a fifth of a millisecond that is a part of what is measured, on one of five it is not.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.files import dump_line_json
from kfdeploy.measuring.intervals import ratio_interval
from kfdeploy.measuring.rounds import Job, describe_machine, measure_afresh
from kfdeploy.targets.device.clock import Protocol
from kfdeploy.writing import write_file

BARE = """
import json, os, sys, time
import numpy as np, onnxruntime
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
images = np.load(sys.argv[2])["image"]
batch = int(sys.argv[3])
inputs = [np.ascontiguousarray(np.take(images, range(i, i + batch), axis=0, mode="wrap")) for i in range(16)]
end = time.perf_counter() + 1.5
while time.perf_counter() < end:
    session.run(None, {"image": inputs[0]})
times = []
end = time.perf_counter() + 2
while time.perf_counter() < end:
    began = time.perf_counter()
    session.run(None, {"image": inputs[len(times) % 16]})
    times.append((time.perf_counter() - began) * 1e3)
print(json.dumps(times))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="one for all, or one a model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    batches = asked.batch * len(asked.models) if len(asked.batch) == 1 else asked.batch
    rows = []
    for path, batch in zip(asked.models, batches, strict=True):
        with tempfile.TemporaryDirectory() as place:
            model = Model.open(path)
            for target, other in (("openvino", benchmark_app), ("onnx", bare_loop)):
                artifact = export(model, target, batch=batch, out=place)
                job = Job(str(artifact.path), "single-stream", 1, batch)
                ours, theirs = [], []
                for _ in range(asked.rounds):
                    ours.append(np.array(measure_afresh(job, Protocol()).samples))
                    theirs.append(np.array(other(artifact, batch)))
                ratio, interval = ratio_interval(ours, theirs)
                rows.append({
                    "model": model.name, "target": target, "batch": batch, "against": other.__doc__.split(",")[0],
                    "ours_p50_ms": round(float(np.median(np.concatenate(ours))), 5),
                    "theirs_p50_ms": round(float(np.median(np.concatenate(theirs))), 5),
                    "ratio": round(ratio, 4), "interval": [round(v, 4) for v in interval],
                })  # fmt: skip
                print(rows[-1], flush=True)
    result = {"schema": 1, "kind": "clock", "rounds": asked.rounds, "machine": describe_machine(), "rows": rows}
    write_file(asked.out, dump_line_json(result))


def benchmark_app(artifact, batch):
    """benchmark_app, OpenVINO's own; returns the one median that it reports."""
    command = [
        str(Path(sys.executable).with_name("benchmark_app")), "-m", str(artifact.path / "model.xml"), "-d", "CPU",
        "-hint", "latency", "-api", "sync", "-infer_precision", "f32", "-t", "4",
    ]  # fmt: skip
    first = sorted(os.sched_getaffinity(0))[0]  # one processor, so one thread: with a hint it takes no number of them
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, preexec_fn=lambda: os.sched_setaffinity(0, [first])
    )
    value, unit = re.search(r"Median:\s+([\d.]+) (us|ms)", done.stdout).groups()  # its JSON has two digits alone
    return [float(value) / (1000 if unit == "us" else 1)]


def bare_loop(artifact, batch):
    """a bare loop, of Python around ONNX Runtime; returns its times in milliseconds."""
    command = [
        sys.executable,
        "-c",
        BARE,
        str(artifact.path / "model.onnx"),
        str(artifact.path / "golden.npz"),
        str(batch),
    ]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
