"""Running a graph on ONNX Runtime's CPU, the reference of every other runtime, and the golden check."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from kfdeploy.arrays import Arrays
from kfdeploy.errors import ParityError, unloaded

CPU = "CPUExecutionProvider"


class Runner:
    """An opened graph with one input: call it with an array, and it gives the named outputs.

    An output may be any float tensor inside a graph in memory. `threads` 0 is as many as there are cores.
    `accelerate` uses a CUDA device where ONNX Runtime has one.
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
        options.log_severity_level = 3
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        wanted = (*(("CUDAExecutionProvider",) if accelerate else ()), CPU)
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        source = str(model) if isinstance(model, Path) else with_outputs(model, outputs).SerializeToString()
        self._session = onnxruntime.InferenceSession(source, options, providers=providers)
        self._input, self.outputs = self._session.get_inputs()[0].name, list(outputs)

    def __call__(self, array: np.ndarray[Any, Any]) -> Arrays:
        """Return `{output: array}`."""
        return dict(zip(self.outputs, self._session.run(self.outputs, {self._input: array}), strict=True))


def run(
    model: ModelProto | Path, images: np.ndarray[Any, Any], outputs: Sequence[str] = ("logits",), *, threads: int = 0
) -> Arrays:
    """Return a graph's outputs by name, run once; see `Runner` to run it several times."""
    return Runner(model, outputs, threads=threads)(images)


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
    graph: ModelProto | Path, images: np.ndarray[Any, Any], golden: np.ndarray[Any, Any]
) -> tuple[float, float]:
    """Run golden images (G, H, W, C); return the largest difference from the golden logits (G, C), and the tolerance.

    Raises:
        ParityError: the difference is above the tolerance; it names the worst column. Or there are no golden samples,
            they are not finite, or the graph gives other columns.
    """
    allowed = tolerance(golden)
    if not len(images):
        raise ParityError("there are no golden samples: nothing would be proved", hint="make it again")
    logits = run(graph, images, threads=1)["logits"]
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
