"""What a target is: two protocols. A target converts from ONNX, so it needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np

from kfdeploy.arrays import Arrays
from kfdeploy.errors import UnsupportedError, nearest
from kfdeploy.graph.opened import check_whole
from kfdeploy.graph.precision import Numerics

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
Scenario = Literal["single-stream", "offline"]
Input = Literal["uint8", "float32"]  # what an exported graph takes an image's bytes as
Int8Head = Literal["exact", "conv"]  # sums in one order, the same bits in every subset; or a plain convolution


@dataclass(frozen=True)
class Setup:
    """How a session runs: its threads, and which of the two scenarios it is set up for."""

    threads: int = 1
    scenario: Scenario = "single-stream"


class Session(Protocol):
    """An opened model. It never times itself. `gpu` is whether it runs on NVIDIA's first GPU, whose energy counts."""

    gpu: bool

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
    GRAPHS: Mapping[Precision, Numerics]  # the precisions it has, and the graph that `convert` wants for each
    KIT: str  # the folder of its device kit in `export/`
    Options: type[Any]

    def missing(self) -> str:
        """Return what to type where the runtime is not installed, else an empty string."""
        ...

    def can_run(self) -> str:
        """Return why an exported model cannot be run on this machine, else an empty string."""
        ...

    def convert(self, onnx_path: Path, out: Path, options: Any) -> list[str]:
        """Write the model into the folder `out` and return the names of its files, the graph first.

        `onnx_path` is the graph that `GRAPHS` says this precision wants.
        """
        ...

    def open(self, folder: Path, options: Any, setup: Setup) -> Session:
        """Open an exported model.

        Raises:
            DeviceError: the processor that the options name is not there.
        """
        ...

    def executed(self, folder: Path, options: Any) -> dict[str, Any]:
        """Return what the runtime says it executes: `{"device", "convolutions": {name: n}, "nodes": {type: n}}`."""
        ...


def check_choices(options: Any) -> None:
    """Refuse an `input` or an `int8_head` that there is not, and an `int8_head` where nothing is int8.

    Raises:
        UnsupportedError: as above.
    """
    for name, allowed in (("input", get_args(Input)), ("int8_head", get_args(Int8Head))):
        value = getattr(options, name, allowed[0])
        if value not in allowed:
            option, hint = name.replace("_", "-"), nearest(str(value), allowed)
            raise UnsupportedError(f"--{option} is {value!r:.40}", allowed=allowed, hint=hint)
    if getattr(options, "int8_head", "exact") != "exact" and options.precision != "int8":
        raise UnsupportedError(
            f"--int8-head is '{options.int8_head}', and the precision is {options.precision}", allowed=("int8",)
        )


def fix_batch(source: Path, out: Path, batch: int) -> None:
    """Copy an ONNX file with its dynamic batch fixed."""
    import onnx

    model = onnx.load(source)
    for value in (*model.graph.input, *model.graph.output):
        first = value.type.tensor_type.shape.dim[0]
        first.Clear()
        first.dim_value = batch
    check_whole(model, f"'{source.name}' with the batch {batch}")
    out.write_bytes(model.SerializeToString(deterministic=True))


def run_in_batches(session: Session, images: np.ndarray[Any, Any], batch: int) -> Arrays:
    """Run all images, `batch` at a time (0: all at once); a last, smaller batch is filled up and cut off again."""
    size = batch or len(images)
    found: list[Arrays] = []
    for start in range(0, len(images), size):
        piece = images[start : start + size]
        short = size - len(piece)
        filled = np.concatenate([piece, np.repeat(piece[-1:], short, axis=0)]) if short and batch else piece
        found.append({name: array[: len(piece)] for name, array in session.run({"image": filled}).items()})
    return {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}
