"""What the one family of sessions costs: a model through its target, whose session is the kit's, against the runtime.

    python benchmarks/session_overhead.py --out benchmarks/results/session-overhead-<machine>-<date>.json

Two models on one thread: a small classifier of 8×8 images (some 0.05 ms) and a MobileNetV2 at 224×224 (some 9 ms),
both untrained. In each of many alternating rounds the same calls go through the target's session and straight to the
runtime; the ratio of medians comes with its bootstrapped 95 % interval.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from kfdeploy import targets
from kfdeploy.files import dump_line_json
from kfdeploy.graph.precision import write
from kfdeploy.measuring.intervals import ratio_interval
from kfdeploy.measuring.rounds import alternating, describe_machine
from kfdeploy.targets.base import Setup
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.recipe.nets import CifarResNet, MobileNetV2
from kfdeploy.training.writing.classifier import _Logits
from kfdeploy.training.writing.to_onnx import to_onnx
from kfdeploy.writing import write_file

SMALL = ImageSpec((8, 8), 1, (0.5,), (0.5,))
LARGE = ImageSpec((224, 224), 3, (0.5,) * 3, (0.5,) * 3)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--out", type=Path)
    asked = options.parse_args()
    torch.manual_seed(0)
    nets = {
        "small": (SMALL, CifarResNet(family="cifar_resnet", depth=8, width=16), 400),
        "large": (LARGE, MobileNetV2(family="mobilenetv2"), 12),
    }
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for name, (image, net, calls) in nets.items():
            model = _Logits(Classifier(net, image, 10).eval())
            graph = to_onnx(model, torch.zeros(2, *image.shape, dtype=torch.uint8), ["image"], ["logits"]).model
            source = write(graph, Path(place) / f"{name}.onnx")
            images = np.random.default_rng(0).integers(0, 256, (1, *image.shape), dtype=np.uint8)
            for target in ("onnx", "openvino"):
                folder = Path(place) / f"{name}-{target}"
                folder.mkdir()
                rows.append(
                    {"model": name, "target": target} | timed(target, source, folder, images, calls, asked.rounds)
                )
                print(rows[-1])
    about = {"schema": 1, "kind": "session-overhead", "machine": describe_machine(), "rounds": asked.rounds}
    if asked.out:
        write_file(asked.out, dump_line_json(about | {"rows": rows}))


def timed(target, source, folder, images, calls, rounds):
    """Return the medians in ms of both ways, and the ratio with its interval."""
    module = targets.load(target)
    setting = module.Options()
    module.convert(source, folder, setting)
    samples = {"session": [], "bare": []}
    with module.open(folder, setting, Setup()) as session:
        ways = {"session": lambda: session.run({"image": images}), "bare": bare(target, folder, images)}
        for number, name in alternating(ways, rounds + 1):
            times = []
            for _ in range(calls):
                began = time.perf_counter_ns()
                ways[name]()
                times.append((time.perf_counter_ns() - began) / 1e6)
            if number:
                samples[name].append(np.array(times))
    ratio, interval = ratio_interval(samples["session"], samples["bare"])
    middle = {name: round(float(np.median(np.concatenate(some))), 5) for name, some in samples.items()}
    return {"p50_ms": middle, "ratio": round(ratio, 4), "interval": [round(value, 4) for value in interval]}


def bare(target, folder, images):
    """Return the runtime's own call, as one would write it by hand."""
    if target == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return lambda: dict(zip(names, session.run(None, {"image": images}), strict=True))
    import openvino

    setting = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": "1",
    }
    request = openvino.Core().compile_model(folder / "model.xml", "CPU", setting).create_infer_request()

    def call():
        found = request.infer({"image": images}, share_inputs=True, share_outputs=False)
        return {"logits": found[0]}

    return call


if __name__ == "__main__":
    main()
