"""MNN, on the CPU of a phone or an ARM board.

What was found out about MNN 3.6.1, and what this module does about it:

* `mnnconvert` installs packages with pip and talks to a server. The converter inside it is called without that wrapper.
* `--fp16` cuts the last bits off weights and constants. They are rounded before, so that nothing is left to cut.
* Weights of eight bits become float32 when the model is loaded. MNN can compute in integers (its low-memory mode), but
  scales activations by the whole batch: a row would depend on its neighbours. That mode is not used.
* The converter writes a random identifier into the file. It is replaced by one that the content gives.
* It prints on standard output, where a program may be reading ours.
* A damaged file may end the process. One from elsewhere is tried in a process of its own first.
"""

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from kfdeploy.errors import OutputError, PoolError, UnsupportedError, unloaded
from kfdeploy.graph.precision import Numerics
from kfdeploy.targets.base import Input, Precision, Session, Setup, check_choices, fix_batch
from kfdeploy.targets.session import KitSession
from kfdeploy.writing import place_errors

NAME = "mnn"
PACKAGE = TITLE = "MNN"
KIT = "mnn"
MODEL = "model.mnn"
GRAPHS: Mapping[Precision, Numerics] = {"fp32": "float32", "fp16": "float32", "int8": "float32"}
# Of MNN's three ways to eight bits, "hqq" came nearest to the float logits of a trained network.
FLAGS: Mapping[Precision, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("--fp16",),
    "int8": ("--weightQuantBits", "8", "--hqq"),
}
_TRIAL_SECONDS = 60.0
_ROOM = 32 << 20  # bytes free in the temporary folder, besides the model's own
_CONVERTER = "import sys, _tools; _tools.mnnconvert(sys.argv)"
_CHATTER = re.compile(r"The device supports|bizCode|Start to |ONNX Model |(in|out)putTensors|Converted ", re.IGNORECASE)


@dataclass(frozen=True)
class Options:
    """`batch` 0 keeps the batch dynamic; `input` is as `targets.base` has it."""

    precision: Precision = "fp32"
    batch: int = 0
    input: Input = "uint8"

    def __post_init__(self) -> None:
        check_choices(self)
        if self.precision not in GRAPHS:
            raise UnsupportedError(f"target '{NAME}' has no precision '{self.precision}'", allowed=GRAPHS)
        if self.batch < 0:
            raise UnsupportedError(f"the batch is {self.batch}", allowed=("0 (dynamic)", "1", "2", "…"))


def missing() -> str:
    """Return what to type where the runtime is not installed, else an empty string."""
    return "" if importlib.util.find_spec("MNN") else 'pip install "kfdeploy[mnn]"'


def can_run() -> str:
    """Return an empty string: where the runtime is installed, it runs."""
    return missing()


def convert(onnx_path: Path, out: Path, options: Options) -> list[str]:
    """Write the model into the folder `out` and return the names of its files.

    Raises:
        UnsupportedError: MNN cannot convert the graph, or a weight is beyond float16.
        MissingDependencyError: MNN is not installed.
        OutputError: the temporary folder has no room; MNN itself would crash.
    """
    mnn = _mnn()
    with _temporary(4 * onnx_path.stat().st_size + _ROOM) as place:
        source, made = Path(place) / "model.onnx", Path(place) / MODEL
        source.write_bytes(onnx_path.read_bytes())
        if options.batch:
            fix_batch(source, source, options.batch)
        if options.precision == "fp16":
            _round_weights(source)
        flags = ("-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(made), "--bizCode", "kfdeploy")
        command = [sys.executable, "-P", "-c", _CONVERTER, *flags, *FLAGS[options.precision]]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode < 0 or not made.is_file():  # else its exit status is 0 whatever happened
            raise UnsupportedError(
                f"MNN cannot convert this graph: {_reason(done).replace(place, '')}",
                hint="kfdeploy export --target onnx",
            )
        (out / MODEL).write_bytes(_name_by_content(made.read_bytes(), mnn.get_model_uuid(str(made))))
    return [MODEL]


@contextmanager
def _temporary(size: int) -> Iterator[str]:
    """Give a temporary folder with room for so many bytes.

    Raises:
        OutputError: there is no such folder.
    """
    hint = "free some space there, or name another with TMPDIR"
    try:
        place = tempfile.mkdtemp()
    except OSError as error:
        raise OutputError(f"there is no temporary folder: {error.strerror or error}", hint=hint) from None
    try:
        if (free := shutil.disk_usage(place).free) < size:
            raise OutputError(
                f"the temporary folder '{tempfile.gettempdir()}' has {free:,} bytes, and MNN needs {size:,}", hint=hint
            )
        with place_errors(Path(place), hint):
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def open(folder: Path, options: Options, setup: Setup) -> Session:
    """Open an exported model."""
    return KitSession(KIT, folder, options, setup)


def try_first(folder: Path, options: Options, shape: tuple[int, ...]) -> None:
    """Run a model once on an empty image of a shape, in a process of its own: MNN ends its process over a damaged file.

    What MNN says in words is said again when the model is opened here.

    Raises:
        PoolError: that process crashed, or did not come to an end.
    """
    words = [str(folder), options.precision, str(options.batch), *map(str, shape)]
    command = [sys.executable, "-P", "-m", "kfdeploy.targets.mnn", *words]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_TRIAL_SECONDS)
    except subprocess.TimeoutExpired:
        why = f"had not run it after {_TRIAL_SECONDS:.0f} s"
    else:
        if done.returncode >= 0:
            return
        why = "crashed over it"
    raise PoolError(f"the model in '{folder}' cannot be run: MNN {why}", hint="copy it again, or export anew")


def _try(folder: Path, precision: Precision, batch: int, shape: tuple[int, ...]) -> None:
    with KitSession(KIT, folder, Options(precision, batch), Setup()) as session:
        session.run({"image": np.zeros((batch or 1, *shape), np.uint8)})


def executed(folder: Path, options: Options) -> dict[str, Any]:
    """Return what MNN executes: the operators it ran, and the precision its convolutions are computed in.

    MNN says which operators it ran, but not in which precision: float16 is told from what was asked and from what MNN
    says of this processor, and eight-bit weights are computed with in float32.
    """
    with KitSession(KIT, folder, options, Setup()) as session:
        nodes = Counter(session.inner.operators())
    count = sum(n for kind, n in nodes.items() if "Convolution" in kind)
    kind = "fp16" if options.precision == "fp16" and _has_float16() else "fp32"
    return {
        "device": "CPU",
        "convolutions": {kind: count},
        "nodes": dict(sorted(nodes.items())),
    }


def _mnn() -> Any:
    """Return MNN, imported without its greeting.

    Raises:
        MissingDependencyError: it is not installed, or cannot be loaded.
    """
    with _quiet():
        try:
            import MNN
        except ImportError as error:
            raise unloaded(error, "MNN", "MNN is not installed", 'pip install "kfdeploy[mnn]"') from None
    return MNN


@contextmanager
def _quiet() -> Iterator[None]:
    """Send what C code prints to standard output nowhere; ours may be read by a program."""
    libc = ctypes.CDLL(None if os.name == "posix" else "msvcrt")
    sys.stdout.flush()
    libc.fflush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        libc.fflush(None)  # it is buffered in a pipe, and would appear at the end
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _has_float16() -> bool:
    """Return whether MNN says that this processor computes in float16; it says so in its greeting only."""
    done = subprocess.run([sys.executable, "-P", "-c", "import MNN"], capture_output=True, text=True, check=False)
    return re.search(r"\bfp16: ?1\b", done.stdout) is not None


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """Return the converter's first line that says something, without its clock."""
    said = [re.sub(r"^\[(ERROR|[\d:]+)\] ?([^ ]*:\d+: )?", "", line).strip() for line in done.stdout.splitlines()]
    reasons = [line for line in said if line and not _CHATTER.search(line)]
    return (reasons or done.stderr.strip().splitlines()[-1:] or [f"it wrote no model (exit {done.returncode})"])[0]


def _name_by_content(model: bytes, identifier: str) -> bytes:
    """Return a model with its random identifier replaced by one that the content gives."""
    old = identifier.encode()
    if len(old) != 36 or model.count(old) != 1:
        return model
    digest = hashlib.sha256(model.replace(old, b"0" * 36)).digest()
    return model.replace(old, str(uuid.UUID(bytes=digest[:16], version=4)).encode())


def _round_weights(path: Path) -> None:
    """Round what `--fp16` halves to the nearest float16, in an ONNX file in place; it stays float32 there.

    That is every weight and constant but the biases of convolutions.

    Raises:
        UnsupportedError: one is beyond float16.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    biases = {node.input[2] for node in model.graph.node if "Conv" in node.op_type and len(node.input) > 2}
    for tensor in model.graph.initializer:
        if tensor.name in biases or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(tensor)
        if (largest := float(np.abs(array).max(initial=0))) > float(np.finfo(np.float16).max):
            raise UnsupportedError(
                f"the weight '{tensor.name}' reaches {largest:.3g}, and float16 ends at {np.finfo(np.float16).max:.0f}",
                hint="export it as fp32",
            )
        tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16).astype(np.float32), tensor.name))
    path.write_bytes(model.SerializeToString(deterministic=True))


if __name__ == "__main__":
    place, kind, size, *sides = sys.argv[1:]
    _try(Path(place), cast(Precision, kind), int(size), tuple(map(int, sides)))
