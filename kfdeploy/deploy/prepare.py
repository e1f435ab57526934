"""A model's graph in the form that a target wants: float32, float16, or quantised, as a bank or as branches."""

from typing import TYPE_CHECKING

from kfdeploy.deploy.model import Model
from kfdeploy.errors import UnsupportedError
from kfdeploy.graph.compose import Form, compose
from kfdeploy.graph.half import to_float16
from kfdeploy.graph.known import add_known
from kfdeploy.graph.precision import Numerics, Prepared, quantised
from kfdeploy.graph.quantize import Kind, quantise
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.openset import threshold_of

if TYPE_CHECKING:
    from onnx import ModelProto


def prepare(model: Model, wanted: Numerics, form: Form | None = None) -> Prepared:
    """Return a model's graph for `wanted`; `form` composes an assembly anew, None leaves it as it was assembled.

    Raises:
        UnsupportedError: `form` was asked of a model that has no tasks' networks, or a weight is beyond float16.
        ComposeError: an operator cannot be banked, or a scale cannot be folded into it.
        PoolError: ranges of activations are missing, or a file was altered.
    """
    import onnx

    whole = onnx.load(model.graph)
    if model.kind != "assembly":
        if form is not None:
            raise UnsupportedError(
                f"'{model.path}' is a {model.kind}: it is neither a bank nor branches", hint="leave --fuse out"
            )
        if wanted in ("uint8", "int8"):
            return Prepared(quantise(whole, model.ranges(), wanted), whole, None)
        return Prepared(whole if wanted == "float32" else to_float16(whole), whole, None)
    made: Form = model.manifest["fuse"]
    if wanted in ("uint8", "int8"):
        return _quantised(model, whole, wanted, form or made, fixed=form is not None)
    if form not in (None, made):
        whole = _composed(model, whole, form)
    return Prepared(whole if wanted == "float32" else to_float16(whole), whole, form or made)


def _composed(model: Model, whole: "ModelProto", form: Form | None) -> "ModelProto":
    pool = Pool.open(model.path / "parts")
    common, template = pool.graphs()
    graph = compose(common, template, [pool.part(task) for task in model.tasks], form or "branches")
    return _finished(graph, model, whole)


def _finished(graph: "ModelProto", model: Model, whole: "ModelProto") -> "ModelProto":
    """Give a graph that was composed anew what the assembly's own has: `known` where it was asked for, and metadata."""
    threshold = threshold_of(model.manifest)
    if threshold is not None:
        add_known(graph, threshold)
    graph.metadata_props.extend(whole.metadata_props)
    return graph


def _quantised(model: Model, whole: "ModelProto", wanted: Numerics, form: Form, *, fixed: bool) -> Prepared:
    pool = Pool.open(model.path / "parts")
    common, template = pool.graphs()
    kind: Kind = "uint8" if wanted == "uint8" else "int8"
    parts, each = [pool.part(task) for task in model.tasks], [pool.ranges(task) for task in model.tasks]
    prepared = quantised(common, template, parts, pool.ranges(), each, kind, form, fixed=fixed)
    for graph in (prepared.float32, prepared.graph):
        _finished(graph, model, whole)
    return prepared
