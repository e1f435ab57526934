"""ONNX Runtime, on the CPU or on another of its execution providers."""

import importlib.util
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfdeploy.errors import DeviceError, nearest, unloaded
from kfdeploy.graph.precision import Numerics
from kfdeploy.targets.base import Input, Int8Head, Precision, Session, Setup, check_choices, fix_batch
from kfdeploy.targets.session import KitSession

if TYPE_CHECKING:
    import onnx

NAME = "onnx"
PACKAGE = "onnxruntime"
TITLE = "ONNX Runtime"
KIT = "onnxruntime"
MODEL = "model.onnx"
CPU = "CPUExecutionProvider"
GRAPHS: Mapping[Precision, Numerics] = {"fp32": "float32", "fp16": "float16", "int8": "uint8"}


@dataclass(frozen=True)
class Options:
    """`batch` 0 keeps the batch dynamic; `provider` is one of ONNX Runtime's execution providers.

    `input` and `int8_head` are as `targets.base` has them.
    """

    precision: Precision = "fp32"
    batch: int = 0
    provider: str = CPU
    input: Input = "uint8"
    int8_head: Int8Head = "exact"

    def __post_init__(self) -> None:
        check_choices(self)


def missing() -> str:
    """Return what to type where the runtime is not installed, else an empty string."""
    return "" if importlib.util.find_spec("onnxruntime") else "pip install onnxruntime"


def can_run() -> str:
    """Return an empty string: where the runtime is installed, it runs."""
    return missing()


def convert(onnx_path: Path, out: Path, options: Options) -> list[str]:
    """Write the model into the folder `out` and return the names of its files."""
    if options.batch:
        fix_batch(onnx_path, out / MODEL, options.batch)
    else:
        shutil.copyfile(onnx_path, out / MODEL)
    return [MODEL]


def open(folder: Path, options: Options, setup: Setup) -> Session:
    """Open an exported model.

    Raises:
        DeviceError: this ONNX Runtime does not have the provider, or cannot run the whole graph on it.
    """
    check_provider(options.provider)
    return KitSession(KIT, folder, options, setup)


def executed(folder: Path, options: Options) -> dict[str, Any]:
    """Return what ONNX Runtime executes: its providers, the precision of its convolutions, its node types.

    Read from the graph that it has optimised for itself, where a float16 convolution that it cannot compute stands
    between casts, and a quantised one that it did not fuse is a float one.
    """
    import onnx

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "optimised.onnx"
        providers = _optimise(folder / MODEL, options.provider, path)
        model = onnx.load(path)
    kinds = _types(model)
    convolutions = Counter(
        kinds.get(node.input[0], "unknown") for node in model.graph.node if "Conv" in node.op_type and node.input
    )
    nodes = Counter(node.op_type for node in model.graph.node)
    return {
        "device": providers,
        "convolutions": dict(sorted(convolutions.items())),
        "nodes": dict(sorted(nodes.items())),
    }


def check_provider(provider: str) -> None:
    """Refuse a provider that this ONNX Runtime does not have.

    Raises:
        DeviceError: as above.
    """
    there = _onnxruntime().get_available_providers()
    if provider not in there:
        raise DeviceError(
            f"this ONNX Runtime has no execution provider '{provider}'", allowed=there, hint=nearest(provider, there)
        )


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise unloaded(error, PACKAGE, "ONNX Runtime is not installed", "pip install onnxruntime") from None
    return onnxruntime


def _optimise(path: Path, provider: str, out: Path) -> list[str]:
    """Let ONNX Runtime write the graph as it will execute it to `out`; return the providers that it uses."""
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 4  # it warns that the file fits this machine alone, which is what is asked
    if provider != CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # never a silent fall-back
    opened = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    return list(opened.get_providers())


def _types(model: "onnx.ModelProto") -> dict[str, str]:
    """Return the element type of every tensor that is an input, an initializer, or a node's output where it is known.

    ONNX's own inference stops at ONNX Runtime's private operators; those that matter here are told by their inputs.
    """
    import onnx

    def named(kind: int) -> str:
        return str(onnx.TensorProto.DataType.Name(kind)).lower().replace("float16", "fp16").replace("float", "fp32")

    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    for node in model.graph.node:
        to = next((a.i for a in node.attribute if a.name == "to"), 0)
        if node.op_type == "Cast":
            kind = to
        elif node.op_type == "QuantizeLinear":
            kind = kinds.get(node.input[2], onnx.TensorProto.UINT8) if len(node.input) > 2 else onnx.TensorProto.UINT8
        elif node.op_type == "DequantizeLinear":
            kind = kinds.get(node.input[1], 0)
        elif node.op_type.startswith("QLinearConv"):
            kind = kinds.get(node.input[7], 0)
        else:
            kind = kinds.get(node.input[0], 0) if node.input else 0
        kinds.update(dict.fromkeys(node.output, kind))
    return {name: "int8" if named(kind) in ("int8", "uint8") else named(kind) for name, kind in kinds.items() if kind}
