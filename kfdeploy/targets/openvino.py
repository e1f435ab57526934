"""OpenVINO, on the CPU."""

import importlib.util
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfdeploy.targets.base import Arrays, Device, Precision, Session

NAME = PACKAGE = "openvino"
TITLE = "OpenVINO"
MODEL = "model.xml"
PRECISIONS: tuple[Precision, ...] = ("fp32",)


@dataclass(frozen=True)
class Options:
    """`batch` 0 keeps the batch dynamic."""

    precision: Precision = "fp32"
    batch: int = 0


def missing() -> str:
    """Return what to type where the runtime is not installed, else an empty string."""
    return "" if importlib.util.find_spec("openvino") else 'pip install "kfdeploy[openvino]"'


def convert(onnx_path: Path, out: Path, options: Options) -> list[str]:
    """Write the model into the folder `out` and return the names of its files."""
    openvino = _openvino()
    model = openvino.convert_model(onnx_path)
    if options.batch:
        model.reshape({value.any_name: [options.batch, *list(value.partial_shape)[1:]] for value in model.inputs})
    # save_model halves the weights by default; an fp32 model really is fp32.
    openvino.save_model(model, out / MODEL, compress_to_fp16=False)
    return [MODEL, "model.bin"]


def open(folder: Path, device: Device) -> Session:
    """Open an exported model."""
    return _Session(folder / MODEL, device)


class _Session:
    """One compiled model and one infer request on the CPU."""

    def __init__(self, path: Path, device: Device) -> None:
        self.path, self.device = path, device
        self.request: Any = None

    def __enter__(self) -> "_Session":
        offline = self.device.scenario == "offline"
        compiled = (
            _openvino()
            .Core()
            .compile_model(
                self.path,
                "CPU",
                {
                    "PERFORMANCE_HINT": "THROUGHPUT" if offline else "LATENCY",
                    "INFERENCE_PRECISION_HINT": "f32",  # bf16 is the default where the processor has it
                    "INFERENCE_NUM_THREADS": self.device.threads,
                    "NUM_STREAMS": "1",
                },
            )
        )
        self.names = [output.any_name for output in compiled.outputs]
        self.request = compiled.create_infer_request()
        return self

    def __exit__(self, *_: object) -> None:
        self.request = None

    def run(self, inputs: Arrays) -> Arrays:
        """Run the model; the arrays returned belong to the caller."""
        # shared outputs would be overwritten by the next call
        results = self.request.infer(inputs, share_inputs=True, share_outputs=False)
        return {name: results[i] for i, name in enumerate(self.names)}

    def synchronize(self) -> None:
        """Do nothing: `run` returns when its outputs are there."""


def _openvino() -> Any:
    # OpenVINO asks the network for its telemetry when it converts; a device has none, and nobody was asked.
    os.environ.setdefault("OPENVINO_TELEMETRY", "0")
    import openvino

    with suppress(ImportError, AttributeError):
        import openvino_telemetry

        openvino_telemetry.Telemetry.send_event = lambda *_, **__: None
    return openvino
