"""A model's graph in the form that a target wants: float32, float16, or quantised, as a bank or as branches."""

from typing import TYPE_CHECKING, Any

from kfdeploy.deploy.model import Model
from kfdeploy.errors import UnsupportedError
from kfdeploy.graph.columns import cut_columns
from kfdeploy.graph.compose import IR_VERSION, Form
from kfdeploy.graph.fields import finish
from kfdeploy.graph.half import to_float16
from kfdeploy.graph.inputs import take_floats
from kfdeploy.graph.portable import lower
from kfdeploy.graph.precision import Numerics, Prepared, quantised
from kfdeploy.graph.quantize import Kind, quantise
from kfdeploy.pool.pool import Pool
from kfdeploy.targets.base import Target
from kfdeploy.tasks.spec import widths_of

if TYPE_CHECKING:
    from onnx import ModelProto


def prepare_for(model: Model, target: Target, setting: Any, form: Form | None = None) -> Prepared:
    """Return a model's graph as a target wants it with its options `setting`; see `prepare`.

    Raises:
        UnsupportedError: as `prepare` does; or int8 heads were asked for of a model whose heads are no tasks'.
        ComposeError: as `prepare` does.
        PoolError: as `prepare` does.
    """
    exact = getattr(setting, "int8_head", "exact") == "exact"
    if not exact and model.parts is None:
        raise UnsupportedError(
            f"'{model.path}' is a {model.kind}: its head is a plain one as it is", hint="leave --int8-head out"
        )
    prepared = prepare(model, target.GRAPHS[setting.precision], form, exact=exact)
    if setting.input == "float32":
        take_floats(prepared.graph)
    return prepared


def prepare(model: Model, wanted: Numerics, form: Form | None = None, *, exact: bool = True) -> Prepared:
    """Return a model's graph for `wanted`; `form` composes an assembly anew, None leaves it as it was assembled.

    With `exact`, the heads of an assembly's uint8 graph give the same bits in every subset.

    Raises:
        UnsupportedError: `form` was asked of a model that has no tasks' networks, or a weight is beyond float16.
        ComposeError: an operator cannot be banked, or a scale cannot be folded into it.
        PoolError: ranges of activations are missing, or a file was altered.
    """
    whole = model.load()
    older = whole.ir_version != IR_VERSION  # written by 0.1.0: composed anew, or written lower
    if model.parts is None:
        if form is not None:
            raise UnsupportedError(
                f"'{model.path}' is a {model.kind}: it is neither a bank nor branches", hint="leave --fuse out"
            )
        cut_columns(whole)
        lower(whole)
        whole.ir_version = IR_VERSION
        if wanted in ("uint8", "int8"):
            return Prepared(quantise(whole, model.ranges(), wanted), whole, None)
        return Prepared(whole if wanted == "float32" else to_float16(whole), whole, None)
    made = form or model.form or "branches"
    if wanted in ("uint8", "int8"):
        return _quantised(model, model.parts, whole, wanted, made, fixed=form is not None, exact=exact)
    if made != model.form or older:
        again = model.parts.graph(model.tasks, made, model.thresholds)
        again.metadata_props.extend(whole.metadata_props)
        whole = again
    return Prepared(whole if wanted == "float32" else to_float16(whole), whole, made)


def _quantised(
    model: Model, parts: Pool, whole: "ModelProto", wanted: Numerics, form: Form, *, fixed: bool, exact: bool
) -> Prepared:
    """Compose anew and quantise; the graphs get what the assembly's own has: its outputs, and metadata."""
    kind: Kind = "uint8" if wanted == "uint8" else "int8"
    own, each = [parts.part(task) for task in model.tasks], [parts.ranges(task) for task in model.tasks]
    prepared = quantised(*parts.graphs(), own, parts.ranges(), each, kind, form, fixed=fixed, exact=exact)
    for graph in (prepared.float32, prepared.graph):
        finish(graph, widths_of(model.tasks), model.thresholds)
        graph.metadata_props.extend(whole.metadata_props)
    return prepared
