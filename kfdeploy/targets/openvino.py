"""OpenVINO, on the CPU."""

import importlib.util
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfdeploy.errors import UnsupportedError, unloaded
from kfdeploy.graph.precision import Numerics
from kfdeploy.targets.base import Input, Int8Head, Precision, Session, Setup, check_choices
from kfdeploy.targets.session import KitSession
from kfdeploy.writing import require_writable

NAME = PACKAGE = "openvino"
TITLE = "OpenVINO"
MODEL = "model.xml"
KIT = "openvino"
GRAPHS: Mapping[Precision, Numerics] = {"fp32": "float32", "fp16": "float32", "int8": "uint8"}


@dataclass(frozen=True)
class Options:
    """`batch` 0 keeps the batch dynamic; `input` and `int8_head` are as `targets.base` has them."""

    precision: Precision = "fp32"
    batch: int = 0
    input: Input = "uint8"
    int8_head: Int8Head = "exact"

    def __post_init__(self) -> None:
        check_choices(self)


def missing() -> str:
    """Return what to type where the runtime is not installed, else an empty string."""
    return "" if importlib.util.find_spec("openvino") else 'pip install "kfdeploy[openvino]"'


def can_run() -> str:
    """Return an empty string: where the runtime is installed, it runs."""
    return missing()


def convert(onnx_path: Path, out: Path, options: Options) -> list[str]:
    """Write the model into the folder `out` and return the names of its files.

    It is converted in a fresh process: OpenVINO names its nodes by how many it has made so far, so that a second model
    of one process would be other bytes.

    Raises:
        UnsupportedError: OpenVINO cannot convert the graph.
        OutputError: the files cannot be written.
    """
    words = [str(onnx_path), str(out), str(options.batch), options.precision]
    command = [sys.executable, "-m", "kfdeploy.targets.openvino", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
        require_writable(out)  # a process that could not write its files does not say so
        raise UnsupportedError(f"OpenVINO cannot convert the model: {last}")
    return [MODEL, "model.bin"]


def _convert(onnx_path: Path, out: Path, batch: int, precision: str) -> None:
    openvino = _openvino()

    model = openvino.convert_model(onnx_path)
    model.set_friendly_name("kfdeploy")
    if batch:
        model.reshape({value.any_name: [batch, *list(value.partial_shape)[1:]] for value in model.inputs})
    # save_model halves the weights by default; an fp32 model really is fp32.
    openvino.save_model(model, out / MODEL, compress_to_fp16=precision == "fp16")


def open(folder: Path, options: Options, setup: Setup) -> Session:
    """Open an exported model."""
    return KitSession(KIT, folder, options, setup)


def executed(folder: Path, options: Options) -> dict[str, Any]:
    """Return what OpenVINO executes, from its own compiled graph: the precision of its convolutions, its layer types.

    A processor without float16 arithmetic computes a float16 model in float32, and this says so.
    """
    with KitSession(KIT, folder, options, Setup()) as session:
        compiled = session.inner.request.get_compiled_model()
        layers = [layer.get_rt_info() for layer in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [(str(info["layerType"].astype(str)), str(info["runtimePrecision"].astype(str))) for info in layers]
    names = {"i8": "int8", "u8": "int8", "f32": "fp32", "f16": "fp16", "bf16": "bf16"}
    convolutions = Counter(names.get(p, p) for kind, p in kinds if "Convolution" in kind)
    nodes = Counter(kind for kind, _ in kinds)
    return {"device": "CPU", "convolutions": dict(sorted(convolutions.items())), "nodes": dict(sorted(nodes.items()))}


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise unloaded(error, "openvino", "OpenVINO is not installed", 'pip install "kfdeploy[openvino]"') from None
    return openvino


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
