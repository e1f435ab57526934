"""Precisions side by side: ours on every target, and what ONNX Runtime's and NNCF's own quantisation make of the same.

    python benchmarks/precisions.py --pool pool --data <folder> --out benchmarks/results/precisions-<date>.json

For each subset every precision of every target that runs here is exported, timed single-stream in alternating rounds of
fresh processes, and scored on the test images of its classes. Beside it stand ONNX Runtime's static quantisation
(min-max, by channel) and NNCF's quantisation with accuracy control (`pip install nncf`), both of the very same float
graph and with as many validation images: they see the whole assembly, ours sees module by module.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from pareto import SUBSETS

from kfdeploy import targets
from kfdeploy.data.splits import IMAGES, spread, validation_set
from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.files import dump_json, dump_line_json
from kfdeploy.manifest import describe_files, versions
from kfdeploy.measuring.benchmark import benchmark
from kfdeploy.measuring.intervals import ratio_interval
from kfdeploy.pool.pool import Pool
from kfdeploy.targets.base import Setup
from kfdeploy.writing import write_file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, default=Path("pool"))
    parser.add_argument("--data", type=Path, required=True, help="a folder with train/<class>/ and test/<class>/")
    parser.add_argument("--subsets", nargs="+", default=list(SUBSETS), choices=SUBSETS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="a look, too short for numbers to be quoted")
    asked = parser.parse_args()
    pool = Pool.open(asked.pool)
    result = {"schema": 1, "kind": "precisions", "quick": asked.quick, "pool": pool.manifest["name"],
              "nets": pool.manifest["nets"], "rows": []}  # fmt: skip
    for name in asked.subsets:
        with tempfile.TemporaryDirectory() as place:
            found, machine, protocol = subset(pool, SUBSETS[name], Path(place), asked)
        result |= {
            "machine": machine | {"versions": machine["versions"] | versions("MNN", "nncf")},
            "protocol": protocol,
        }
        for row in found:
            result["rows"].append({"subset": name} | row)
            numbers = f"{row['p50_ms']:.3f} ms, {row['p50_ratio']:.2f} {row['interval']}, {100 * row['accuracy']:.2f} %"
            print(name, row["by"], row["target"], row["precision"], numbers, flush=True)
        write_file(asked.out, dump_line_json(result))


def subset(pool, names, place, asked):
    """Return one subset's rows, the machine and the protocol."""
    model = assemble(pool, list(names), place / "assembly")
    made = {}
    for target in ("onnx", "openvino", "mnn"):
        module = targets.load(target)
        for precision in module.GRAPHS:
            artifact = export(model, target, precision=precision, out=place / "ours")
            made[f"kfdeploy {target} {precision}"] = artifact
    evidence = model.evidence()
    inside = np.flatnonzero(np.isin(evidence.labels, model.classes))
    rows = evidence.rows[inside[spread(len(inside), IMAGES)]]
    seen = validation_set(model.manifest["data"], rows, model.image, asked.data).only(model.classes).in_memory()
    made["ONNX Runtime static onnx int8"] = ort_static(made["kfdeploy onnx fp32"], seen, place / "static")
    made["NNCF openvino int8"] = nncf_control(made["kfdeploy openvino fp32"], seen, place / "nncf")
    result = benchmark(
        [artifact.path for artifact in made.values()], scenarios=["single-stream"], quick=asked.quick, data=asked.data
    )
    by_hash = {row["sha256"]: row for row in result["rows"]}
    found = []
    for title, artifact in made.items():
        row = by_hash[artifact.sha256]
        base = by_hash[made[f"kfdeploy {artifact.target} fp32"].sha256]
        ratio, interval = ratio_interval(*([np.array(s) for s in each["samples_ms"]] for each in (row, base)))
        found.append({
            "by": title.rsplit(" ", 2)[0], "target": artifact.target, "precision": artifact.precision,
            "p50_ms": row["latency_ms"]["p50"],
            "p50_ratio": round(ratio, 4), "interval": [round(v, 4) for v in interval],
            "accuracy": row["accuracy"], "drop": round(base["accuracy"] - row["accuracy"], 5), "images": row["images"],
            "bytes": row["bytes"], "convolutions": artifact.manifest["executed"]["convolutions"],
            "form": artifact.manifest["fuse"]["form"],
        })  # fmt: skip
    return found, result["machine"], result["protocol"]


def ort_static(artifact, seen, out):
    """Quantise an artifact's graph with ONNX Runtime's own tool."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"image": seen.images[i : i + 32]} for i in range(0, len(seen), 32)])

        def get_next(self):
            return next(self.batches, None)

    out.mkdir()
    quant_pre_process(str(artifact.path / "model.onnx"), str(out / "prepared.onnx"))
    quantize_static(str(out / "prepared.onnx"), str(out / "model.onnx"), Reader(), per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    (out / "prepared.onnx").unlink()
    return adopt(artifact, out)


def nncf_control(artifact, seen, out):
    """Quantise an artifact's graph with NNCF, which takes back what costs more than a point."""
    import nncf
    import openvino

    labels, columns = seen.labels, [artifact.classes.index(name) for name in seen.classes]

    def accuracy(compiled, items):
        logits = [compiled(image)[0][:, columns].argmax(1)[0] == label for image, label in items]
        return float(np.mean(logits)), None

    model = openvino.Core().read_model(artifact.path / "model.xml")
    images = [seen.images[i : i + 1] for i in range(len(seen))]
    small = nncf.quantize_with_accuracy_control(
        model, calibration_dataset=nncf.Dataset(images), max_drop=0.01, subset_size=len(images),
        validation_dataset=nncf.Dataset(list(zip(images, labels, strict=True))), validation_fn=accuracy,
    )  # fmt: skip
    out.mkdir()
    openvino.save_model(small, out / "model.xml", compress_to_fp16=False)
    return adopt(artifact, out)


def adopt(artifact, out):
    """Give another tool's model the manifest of the artifact that it was made from, so that one clock measures both."""
    module = targets.load(artifact.target)
    manifest = artifact.manifest | {"precision": "int8"}
    manifest["options"] = manifest["options"] | {"precision": "int8"}
    setting = module.Options(**manifest["options"])
    with module.open(out, setting, Setup()) as session:
        images, logits, _ = artifact.golden()
        np.savez(out / "golden.npz", image=images, logits=logits, expected=session.run({"image": images})["logits"])
    manifest["executed"] = module.executed(out, setting)
    manifest["files"] = describe_files(out, [*(out / n for n in manifest["model_files"]), out / "golden.npz"])
    (out / "manifest.json").write_text(dump_json(manifest), encoding="utf-8")
    return Artifact.open(out)


if __name__ == "__main__":
    main()
