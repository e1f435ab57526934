"""Run exported files in one runtime; started by `portability.py` in that runtime's own environment.

    python worker.py KIND JOBS ANSWERS

It needs numpy and that runtime alone. JOBS is a JSON list of `{name, model, images, dtype, batch, outputs}`: the
arrays' file, the kind of number that goes in, the batch of the file (0: dynamic), and the outputs with their shapes.
ANSWERS gets a line of JSON for each, at once, so that a crash is told from a refusal: `{name, version, outputs: {name:
rows}}` or `{name, version, refused}`.
"""

import json
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np


def onnxruntime(job):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(job["model"], options, providers=["CPUExecutionProvider"])
    names = list(job["outputs"])
    return lambda images: dict(zip(names, session.run(names, {"image": images})))


def onnx(job):
    """Return the reference evaluator, once the checker has nothing to say."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(job["model"])
    onnx.checker.check_model(model, full_check=True)
    evaluator, names = ReferenceEvaluator(model), list(job["outputs"])
    return lambda images: dict(zip(names, evaluator.run(names, {"image": images})))


def openvino(job):
    try:
        import openvino

        core = openvino.Core()
    except AttributeError:  # before 2023.1
        from openvino.runtime import Core

        core = Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": "1"}
    compiled = core.compile_model(core.read_model(job["model"]), "CPU", hints)
    request = compiled.create_infer_request()
    names = [next(name for name in job["outputs"] if name in output.get_names()) for output in compiled.outputs]

    def run(images):
        found = request.infer({"image": images})
        return {name: np.array(found[output]) for name, output in zip(names, compiled.outputs)}

    return run


def opencv(job):
    import cv2

    cv2.setNumThreads(1)
    if hasattr(cv2, "utils") and hasattr(cv2.utils, "logging"):
        cv2.utils.logging.setLogLevel(0)
    net = cv2.dnn.readNetFromONNX(job["model"])

    def run(images):
        net.setInput(images, "image")
        return by_shape(net.forward(net.getUnconnectedOutLayersNames()), job, len(images))

    return run


def tract(job):
    import tract

    loaded = tract.onnx().load(job["model"])
    found = {}

    def run(images):
        if len(images) not in found:  # compiled for each number of images: the dynamic one is a symbol of the file
            loaded_here = loaded if job["batch"] else tract.onnx().load(job["model"])
            if not job["batch"]:
                kind = {"uint8": "u8", "float32": "f32"}[job["dtype"]]
                loaded_here.set_input_fact(0, f"{','.join(map(str, images.shape))},{kind}")
                for i in range(loaded_here.output_count()):
                    loaded_here.set_output_fact(i, None)
            found[len(images)] = loaded_here.into_model().into_runnable()
        return by_shape([each.to_numpy() for each in found[len(images)].run([images])], job, len(images))

    return run


def ncnn(job):
    """Return ncnn's own network, which knows no batch: images one at a time, converted by pnnx for that shape."""
    import importlib.util

    import ncnn

    images = np.load(job["images"])
    place = Path(tempfile.mkdtemp(dir=Path(job["model"]).parent))
    graph = place / "model.onnx"
    graph.write_bytes(Path(job["model"]).read_bytes())
    shape = ",".join(map(str, (1, *images.shape[1:])))
    tool = Path(importlib.util.find_spec("pnnx").origin).with_name("pnnx")  # importing it would want torch
    shape = f"inputshape=[{shape}]{ {'uint8': 'u8', 'float32': 'f32'}[job['dtype']] }"
    done = subprocess.run([str(tool), graph.name, shape, "fp16=0"], cwd=place, capture_output=True, text=True)
    if done.returncode or not (place / "model.ncnn.param").is_file():
        raise RuntimeError(f"pnnx writes no network (exit {done.returncode})")
    kinds = [line.split()[0] for line in (place / "model.ncnn.param").read_text().splitlines()[2:]]
    unknown = sorted({kind for kind in kinds if "." in kind})  # torch's or pnnx's names: ncnn's own have no dot
    if unknown:
        raise RuntimeError(f"ncnn has no layer {', '.join(unknown)}")
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.num_threads = 1
    if net.load_param(str(place / "model.ncnn.param")) or net.load_model(str(place / "model.ncnn.bin")):
        raise RuntimeError("ncnn does not load what pnnx wrote")

    def run(batch):
        rows = []
        for image in batch:
            with net.create_extractor() as ex:
                if ex.input("in0", ncnn.Mat(np.ascontiguousarray(image, np.float32)).clone()):
                    raise RuntimeError("ncnn does not take the input")
                found = []
                for i in range(len(job["outputs"])):
                    status, out = ex.extract(f"out{i}")
                    if status:
                        raise RuntimeError(f"ncnn stops with {status}")
                    found.append(np.array(out).reshape(1, -1))
            rows.append(by_shape(found, job, 1))
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    return run


def by_shape(arrays, job, count):
    """Return outputs by our names, of a runtime that has names of its own: they differ in their shapes."""
    found, left = {}, [np.asarray(array) for array in arrays]
    for name, tail in job["outputs"].items():
        fitting = [array for array in left if array.size == count * int(np.prod(tail))]
        if not fitting:
            shapes = ", ".join(str(array.shape) for array in left) or "none"
            raise RuntimeError(f"no output has the shape {(count, *tail)}; there are {shapes}")
        array = next((array for array in fitting if array.ndim == 1 + len(tail)), fitting[0])  # some have no vectors
        left = [other for other in left if other is not array]
        found[name] = array.reshape(count, *tail)
    return found


PACKAGES = {"onnxruntime": "onnxruntime", "onnx": "onnx", "openvino": "openvino", "ncnn": "ncnn", "tract": "tract",
            "opencv": "opencv-python-headless"}  # fmt: skip


def answer(kind, job):
    """Return what a runtime makes of a file: its outputs for all images, or why it refuses."""
    images = np.load(job["images"]).astype(job["dtype"])
    try:
        run, size = globals()[kind](job), job["batch"] or len(images)
        pieces = [run(np.ascontiguousarray(images[i : i + size])) for i in range(0, len(images), size)]
        rows = {name: np.concatenate([piece[name] for piece in pieces]) for name in job["outputs"]}
        return {"outputs": {name: np.asarray(array, np.float64).tolist() for name, array in rows.items()}}
    except Exception as error:  # each runtime has classes of its own
        return {"refused": reason(str(error)) or type(error).__name__}


def reason(text):
    """Return the line of an error that says what is wrong, and not where in the runtime it was noticed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    places = ("Exception from ", "Check '", "Errors during ", "While validating ", "FrontEnd API ")  # OpenVINO's
    found = next((line for line in lines if not line.startswith(places)), (lines or [""])[0])
    return found.rpartition("&) ")[2]  # ONNX Runtime puts the signature of its own function before it


def main():
    kind, jobs, answers = sys.argv[1:]
    version = metadata.version(PACKAGES[kind])
    with Path(answers).open("a", encoding="utf-8") as file:
        for job in json.loads(Path(jobs).read_text(encoding="utf-8")):
            found = answer(kind, job)
            file.write(json.dumps({"name": job["name"], "version": version, **found}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
