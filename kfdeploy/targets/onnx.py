"""ONNX Runtime."""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfdeploy.errors import MissingDependencyError
from kfdeploy.targets.base import Arrays, Device, Precision, Session, fix_batch

if TYPE_CHECKING:
    import onnxruntime

NAME = "onnx"
PACKAGE = "onnxruntime"
TITLE = "ONNX Runtime"
MODEL = "model.onnx"
PRECISIONS: tuple[Precision, ...] = ("fp32",)


@dataclass(frozen=True)
class Options:
    """`batch` 0 keeps the batch dynamic."""

    precision: Precision = "fp32"
    batch: int = 0


def missing() -> str:
    """Return what to type where the runtime is not installed, else an empty string."""
    return "" if importlib.util.find_spec("onnxruntime") else "pip install onnxruntime"


def convert(onnx_path: Path, out: Path, options: Options) -> list[str]:
    """Write the model into the folder `out` and return the names of its files."""
    if options.batch:
        fix_batch(onnx_path, out / MODEL, options.batch)
    else:
        shutil.copyfile(onnx_path, out / MODEL)
    return [MODEL]


def open(folder: Path, device: Device) -> Session:
    """Open an exported model."""
    return _Session(folder / MODEL, device)


class _Session:
    """One ONNX Runtime session on the CPU."""

    def __init__(self, path: Path, device: Device) -> None:
        self.path, self.device = path, device
        self.session: onnxruntime.InferenceSession | None = None

    def __enter__(self) -> "_Session":
        self.session = session(self.path, self.device.threads)
        self.names = [output.name for output in self.session.get_outputs()]
        return self

    def __exit__(self, *_: object) -> None:
        self.session = None

    def run(self, inputs: Arrays) -> Arrays:
        """Run the model; the arrays returned belong to the caller."""
        assert self.session is not None, "open the session with `with`"
        return dict(zip(self.names, self.session.run(None, inputs), strict=True))

    def synchronize(self) -> None:
        """Do nothing: `run` returns when its outputs are there."""


def session(path: Path, threads: int) -> Any:
    """Return an ONNX Runtime session on the CPU that computes with so many threads.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependencyError("ONNX Runtime is not installed", hint="pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
