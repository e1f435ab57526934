"""TensorRT 10 and 11, on an NVIDIA GPU.

What is exported is an ONNX graph whose tensors have the precision already (TensorRT 11 knows no other way), checked
against what TensorRT's parser reads. An engine fits one GPU and one version of TensorRT, so it is built on the device:
by `build.py` of the device kit, whose `session.py` also runs it there and here.
"""

import importlib.util
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from kfdeploy.errors import DeviceError, MissingDependencyError, UnsupportedError, first_line, nearest
from kfdeploy.graph.precision import Numerics
from kfdeploy.targets.base import Input, Precision, Session, Setup, check_choices, fix_batch
from kfdeploy.targets.session import KitSession
from kfdeploy.targets.tensorrt_parser import supported

NAME = "trt"
PACKAGE = "tensorrt"
TITLE = "TensorRT"
KIT = "tensorrt"
MODEL = "model.onnx"
ENGINE = "model.engine"
GRAPHS: Mapping[Precision, Numerics] = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
LEVELS = range(6)  # `builder_optimization_level`
PROFILE = (1, 1, 32)


@dataclass(frozen=True)
class Options:
    """`batch` 0 keeps it dynamic: the engine then takes `min_batch` to `max_batch`, and is tuned for `opt_batch`.

    `workspace_mb` is the most memory, in MiB, that TensorRT may use for one layer; `optimization_level` is 0 (the
    fastest build) to 5 (the slowest); `input` is as `targets.base` has it.
    """

    precision: Precision = "fp32"
    batch: int = 0
    min_batch: int = PROFILE[0]
    opt_batch: int = PROFILE[1]
    max_batch: int = PROFILE[2]
    workspace_mb: int = 1024
    optimization_level: int = 3
    input: Input = "uint8"

    def __post_init__(self) -> None:
        check_choices(self)
        if self.precision not in GRAPHS:
            raise UnsupportedError(
                f"target '{NAME}' has no precision '{self.precision}'",
                allowed=GRAPHS,
                hint=nearest(self.precision, list(GRAPHS)),
            )
        if self.batch < 0:
            raise UnsupportedError(f"the batch is {self.batch}", allowed=("0 (dynamic)", "1", "2", "…"))
        profile = (self.min_batch, self.opt_batch, self.max_batch)
        named = f"min_batch {self.min_batch}, opt_batch {self.opt_batch}, max_batch {self.max_batch}"
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise UnsupportedError(f"the profile is {named}", allowed=("1 ≤ min_batch ≤ opt_batch ≤ max_batch",))
        if self.batch and profile != PROFILE:
            raise UnsupportedError(
                f"the batch is fixed at {self.batch}, and the profile is {named}",
                hint="leave the profile out, or set batch to 0",
            )
        if self.workspace_mb < 1:
            raise UnsupportedError(f"workspace_mb is {self.workspace_mb}", allowed=("1", "2", "… (MiB)"))
        if self.optimization_level not in LEVELS:
            raise UnsupportedError(f"optimization_level is {self.optimization_level}", allowed=LEVELS)


def missing() -> str:
    """Return an empty string: exporting needs no TensorRT. `can_run` says whether an engine can be run here."""
    return ""


def can_run() -> str:
    """Return an empty string where TensorRT and a GPU are here, else why an engine can be neither built nor run."""
    if importlib.util.find_spec(PACKAGE) is None:
        return "TensorRT is not installed"
    try:
        cuda = import_module("cuda.bindings.runtime")
    except ImportError as missed:
        absent = isinstance(missed, ModuleNotFoundError) and (missed.name or "").split(".")[0] == "cuda"
        return f"cuda-bindings {'is not installed' if absent else f'cannot be loaded: {first_line(missed)}'}"
    error, count = cuda.cudaGetDeviceCount()
    if error != cuda.cudaError_t.cudaSuccess:
        return f"there is no GPU that CUDA can use ({error.name})"
    return "" if count else "there is no GPU"


def convert(onnx_path: Path, out: Path, options: Options) -> list[str]:
    """Write the graph into the folder `out` and return the names of its files. The engine is built on the device.

    Raises:
        UnsupportedError: TensorRT's parser does not read the graph.
    """
    import onnx

    supported(onnx.load(onnx_path))
    if options.batch:
        fix_batch(onnx_path, out / MODEL, options.batch)
    else:
        shutil.copyfile(onnx_path, out / MODEL)
    return [MODEL]


def open(folder: Path, options: Options, setup: Setup) -> Session:
    """Open an exported model whose engine has been built.

    Raises:
        DeviceError: the engine has not been built yet, was built from something else, or there is no GPU.
        MissingDependencyError: TensorRT is not installed.
    """
    if not (folder / ENGINE).is_file():
        raise DeviceError(
            f"'{folder}' has no engine: it is built on the device", hint="python build.py  (in that folder)"
        )
    _require_device()
    return KitSession(KIT, folder, options, setup)


def build(folder: Path, options: Options) -> None:
    """Build the engine of an exported model with its own kit, whose settings are those of the manifest.

    Raises:
        UnsupportedError: the options are not those it was exported with.
        DeviceError: there is no GPU, or TensorRT could not build it.
        MissingDependencyError: TensorRT is not installed.
    """
    from kfdeploy.manifest import read_manifest

    exported = read_manifest(folder / "manifest.json", "artifact", "kfdeploy export")["options"]
    if asdict(Options(**exported)) != asdict(options):
        raise UnsupportedError(f"'{folder}' was exported with {exported}, not with {asdict(options)}")
    _require_device()
    command = [sys.executable, str(folder / "build.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing was said"]
        raise DeviceError(
            f"no engine could be built in '{folder}': {said[0]}", hint="python build.py  (in that folder)"
        )


def executed(folder: Path, options: Options) -> dict[str, Any]:
    """Return what the engine executes, from TensorRT's own inspector; without an engine, the operators of the graph."""
    import onnx

    if not (folder / ENGINE).is_file() or can_run():
        nodes = Counter(node.op_type for node in onnx.load(folder / MODEL).graph.node)
        return {"device": "not built", "convolutions": {}, "nodes": dict(sorted(nodes.items()))}
    with KitSession(KIT, folder, options, Setup()) as session:
        layers = list(session.inner.layers())
        device = str(session.inner.record["gpu"] or "GPU")
    # an engine built without details names its layers and no more
    known: list[dict[str, Any]] = [layer for layer in layers if isinstance(layer, dict)]
    nodes = Counter(str(layer.get("LayerType", "unknown")) for layer in known)
    nodes["unknown"] += len(layers) - len(known)
    convolutions = Counter(
        _precision(layer) for layer in known if "Conv" in f"{layer.get('LayerType')} {layer.get('ParameterType')}"
    )
    return {
        "device": device,
        "convolutions": dict(sorted(convolutions.items())),
        "nodes": dict(sorted((+nodes).items())),
    }


def _precision(layer: Mapping[str, Any]) -> str:
    """Return the precision of a layer's first input: TensorRT writes `Half`, or `Row major linear FP16 format`."""
    text = next((str(value.get("Format/Datatype", "")) for value in layer.get("Inputs", [])), "").lower()
    words = (("int8", "int8"), ("bf16", "bf16"), ("bfloat16", "bf16"), ("half", "fp16"), ("fp16", "fp16"))
    return next((name for word, name in (*words, ("float", "fp32"), ("fp32", "fp32")) if word in text), "unknown")


def _require_device() -> None:
    if why := can_run():
        if "not installed" in why or "cannot be loaded" in why:
            raise MissingDependencyError(why, hint='pip install "tensorrt>=10,<12" cuda-bindings')
        raise DeviceError(why, hint="copy the folder to a machine with an NVIDIA GPU")
