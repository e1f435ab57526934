"""Running a graph on ONNX Runtime's CPU, the reference of every other runtime, and the golden check."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from kfdeploy.errors import ParityError
from kfdeploy.tasks.evidence import Evidence


def golden_difference(graph: Path, evidence: Evidence) -> tuple[float, float]:
    """Run the golden samples through an ONNX file, and return the largest difference and the tolerance.

    Raises:
        ParityError: the difference is above the tolerance; it names the worst column.
    """
    from kfdeploy.targets.onnx import session

    allowed = tolerance(evidence.golden)
    logits = session(graph, threads=1).run(None, {"image": evidence.images})[0]
    difference = np.abs(logits - evidence.golden)
    worst = float(difference.max(initial=0)) if np.isfinite(logits).all() else float("inf")
    if not worst <= allowed:
        raise ParityError(
            f"the graph '{graph.name}' differs from the torch network by {worst:.3g}, and {allowed:.3g} "
            f"is allowed (the worst is column {int(difference.max(0).argmax())})",
            hint="please report this: a composed graph must give the same numbers",
        )
    return worst, allowed


def in_memory(model: "ModelProto") -> Any:
    """Return a session of a graph that is in memory."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def logits_of(graph: "ModelProto", images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a graph's logits (N, C) on ONNX Runtime's CPU, the reference of every other runtime."""
    logits: np.ndarray[Any, Any] = in_memory(graph).run(["logits"], {"image": images})[0]
    return logits


def observed(model: ModelProto) -> list[str]:
    """Return the names of the tensors whose ranges are worth knowing: the float outputs of a graph's nodes."""
    return [name for node in model.graph.node for name in node.output if node.op_type not in ("Cast", "Transpose")]


def with_outputs(model: ModelProto, names: Sequence[str]) -> ModelProto:
    """Return a copy that also gives out the named float tensors."""
    out = ModelProto()
    out.CopyFrom(model)
    there = {value.name for value in out.graph.output}
    out.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in there
    )
    return out


def tolerance(logits: np.ndarray[Any, Any]) -> float:
    """Return the largest difference allowed between two runs of one model: 1e-4 × max(1, largest logit)."""
    return 1e-4 * max(1.0, float(np.abs(logits).max(initial=0)))
