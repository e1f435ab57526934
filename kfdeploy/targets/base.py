"""What a target is: two protocols. A target converts from ONNX, so it needs no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]
Precision = Literal["fp32"]
Scenario = Literal["single-stream", "offline"]


@dataclass(frozen=True)
class Device:
    """Where a session runs: a processor, its threads, and which of the two scenarios it is set up for."""

    name: str = "cpu"
    threads: int = 1
    scenario: Scenario = "single-stream"


class Session(Protocol):
    """An opened model. It never times itself."""

    def __enter__(self) -> "Session":
        """Load the model."""
        ...

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        ...

    def run(self, inputs: Arrays) -> Arrays:
        """Return `{name: array}` for `{name: array}`; the arrays returned belong to the caller."""
        ...

    def synchronize(self) -> None:
        """Return when everything asked for is done."""
        ...


class Target(Protocol):
    """A module with these names."""

    NAME: str
    PACKAGE: str
    TITLE: str
    PRECISIONS: tuple[Precision, ...]
    Options: type[Any]

    def missing(self) -> str:
        """Return what to type where the runtime is not installed, else an empty string."""
        ...

    def convert(self, onnx_path: Path, out: Path, options: Any) -> list[str]:
        """Write the model into the folder `out` and return the names of its files, the graph first."""
        ...

    def open(self, folder: Path, device: Device) -> Session:
        """Open an exported model."""
        ...


def fix_batch(source: Path, out: Path, batch: int) -> None:
    """Copy an ONNX file with its dynamic batch fixed."""
    import onnx

    model = onnx.load(source)
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        first.Clear()
        first.dim_value = batch
    onnx.checker.check_model(model, full_check=True)
    out.write_bytes(model.SerializeToString(deterministic=True))
