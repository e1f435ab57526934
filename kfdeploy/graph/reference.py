"""Running a graph on ONNX Runtime's CPU, the reference of every other runtime, and the golden check."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from kfdeploy.arrays import Arrays
from kfdeploy.errors import ParityError, PoolError, first_line, unloaded
from kfdeploy.graph.bounded import check_cost
from kfdeploy.graph.opened import read_onnx
from kfdeploy.reading import MOST_FILE, read_named

CPU = "CPUExecutionProvider"
SECONDS = 600.0
_AGAIN = "copy it again, or make it again"


class Runner:
    """An opened graph with one input: call it with an array, and it gives the named outputs.

    An output may be any float tensor inside a graph in memory. `threads` 0 is as many as there are cores.
    `accelerate` uses a CUDA device where ONNX Runtime has one. A graph that takes more than a network does is not run,
    and no call takes longer than `SECONDS`: `at_once` is how many images fit into the memory of a call.
    """

    def __init__(
        self, model: ModelProto | Path, outputs: Sequence[str] = ("logits",), *, threads: int = 0,
        accelerate: bool = False,
    ) -> None:  # fmt: skip
        try:
            import onnxruntime
        except ImportError as error:
            hint = "pip install onnxruntime"
            raise unloaded(error, "onnxruntime", "ONNX Runtime is not installed", hint) from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails is raised, and told by us
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        wanted = (*(("CUDAExecutionProvider",) if accelerate else ()), CPU)
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        self._name = str(model) if isinstance(model, Path) else f"the graph '{model.graph.name or 'without a name'}'"
        if isinstance(model, Path):
            data = read_named(model, f"'{model}' is missing", _AGAIN, most=MOST_FILE)
            model = read_onnx(data, self._name)
        self.at_once = check_cost(model, self._name).at_once()
        try:
            source = with_outputs(model, outputs).SerializeToString()
            self._session = onnxruntime.InferenceSession(source, options, providers=providers)
        except Exception as error:  # ONNX Runtime has a class of its own for each way to fail
            raise self._failed(error) from None
        self._options = onnxruntime.RunOptions
        self._input, self.outputs = self._session.get_inputs()[0].name, list(outputs)
        self._floats = self._session.get_inputs()[0].type == "tensor(float)"  # of images a graph may want floats

    def __call__(self, array: np.ndarray[Any, Any]) -> Arrays:
        """Return `{output: array}`.

        Raises:
            PoolError: it does not take the array, or does not end.
        """
        if self._floats:
            array = array.astype(np.float32, copy=False)
        options = self._options()
        alarm = threading.Timer(SECONDS, setattr, (options, "terminate", True))  # it stops at the next node
        alarm.daemon = True
        alarm.start()
        try:
            found = self._session.run(self.outputs, {self._input: array}, options)
        except Exception as error:
            raise self._failed(error) from None
        finally:
            alarm.cancel()
        return dict(zip(self.outputs, found, strict=True))

    def _failed(self, error: Exception) -> PoolError:
        return PoolError(f"{self._name} cannot be run: {first_line(error)[:300]}", hint=_AGAIN)


def run(
    model: ModelProto | Path, images: np.ndarray[Any, Any], outputs: Sequence[str] = ("logits",), *, threads: int = 0
) -> Arrays:
    """Return a graph's outputs by name, of as many images as memory holds at a time; see `Runner` to run it often."""
    runner = Runner(model, outputs, threads=threads)
    size = runner.at_once
    if len(images) <= size:
        return runner(images)
    found = [runner(images[start : start + size]) for start in range(0, len(images), size)]
    return {name: np.concatenate([each[name] for each in found]) for name in outputs}


def run_joined(
    model: ModelProto | Path, images: np.ndarray[Any, Any], outputs: Sequence[str], *, threads: int = 0
) -> np.ndarray[Any, Any]:
    """Return a graph's outputs (N, ·) side by side (N, C): one a field, in the order of their names; see `run`."""
    found = run(model, images, outputs, threads=threads)
    return np.concatenate([found[name] for name in outputs], axis=1)


def tolerance(logits: np.ndarray[Any, Any]) -> float:
    """Return the largest difference allowed between two runs of one model: 1e-4 × max(1, largest logit).

    Raises:
        ParityError: a logit is not finite, which would allow everything.
    """
    require_finite(logits, "the golden logits")
    return 1e-4 * max(1.0, float(np.abs(logits).max(initial=0)))


def require_finite(logits: np.ndarray[Any, Any], what: str) -> None:
    """Refuse logits (N, C) with a value that is not finite: no bound follows from it, and it compares as nothing.

    Raises:
        ParityError: with the first such value and its place.
    """
    if not np.isfinite(logits).all():
        where = np.argwhere(~np.isfinite(logits))[0]
        raise ParityError(
            f"{what} are not finite: sample {where[0]}, column {where[-1]} is {logits[tuple(where)]}",
            hint="copy the folder again, or make it again",
        )


def golden_difference(
    graph: ModelProto | Path, images: np.ndarray[Any, Any], golden: np.ndarray[Any, Any],
    outputs: Sequence[str] = ("logits",),
) -> tuple[float, float]:  # fmt: skip
    """Run golden images (G, H, W, C); return the largest difference from the golden logits (G, C), and the tolerance.

    The logits are those of the named `outputs` side by side.

    Raises:
        ParityError: the difference is above the tolerance; it names the worst column. Or there are no golden samples,
            they are not finite, or the graph gives other columns.
    """
    allowed = tolerance(golden)
    if not len(images):
        raise ParityError("there are no golden samples: nothing would be proved", hint="make it again")
    logits = run_joined(graph, images, outputs, threads=1)
    if logits.shape != golden.shape:
        raise ParityError(f"the graph's logits have shape {logits.shape}, the golden samples' have {golden.shape}")
    difference = np.abs(logits - golden)
    worst = float(difference.max(initial=0)) if np.isfinite(logits).all() else float("inf")
    if not worst <= allowed:
        name = f"the graph '{graph.name}'" if isinstance(graph, Path) else "the composed graph"
        raise ParityError(
            f"{name} differs from the torch network by {worst:.3g}, and {allowed:.3g} "
            f"is allowed (the worst is column {int(difference.max(0).argmax())})",
            hint="please report this: a composed graph must give the same numbers",
        )
    return worst, allowed


def observed(model: ModelProto) -> list[str]:
    """Return the names of the tensors whose ranges are worth knowing: the float outputs of a graph's nodes.

    A library's network also computes with shapes and indices, which are integers.
    """
    from onnx import shape_inference

    typed = shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in [*typed.value_info, *typed.output]}
    names = [name for node in model.graph.node for name in node.output if node.op_type not in ("Cast", "Transpose")]
    return [name for name in names if name and kinds.get(name, TensorProto.FLOAT) == TensorProto.FLOAT]


def with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return a copy that also gives out the named float tensors."""
    out = ModelProto()
    out.CopyFrom(model)
    there = {value.name for value in out.graph.output}
    out.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in there
    )
    return out
