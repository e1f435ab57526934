"""A model's graph in the form that a target wants: float32, float16, or quantised, as a bank or as branches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kfdeploy.compose import Form, Part, compose
from kfdeploy.errors import ComposeError, UnsupportedError
from kfdeploy.half import halve
from kfdeploy.heads import separate
from kfdeploy.model import Model
from kfdeploy.openset import add_known, threshold_of
from kfdeploy.pool import Pool
from kfdeploy.quantize import Kind, Ranges, equalise, quantise
from kfdeploy.targets.base import Graph

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Prepared:
    """A graph ready for `Target.convert`, and the float32 graph it came from, with tensors of the same names."""

    graph: "ModelProto"
    float32: "ModelProto"
    form: Form | None  # None: a student or a teacher, which is neither


def prepare(model: Model, wanted: Graph, form: Form | None = None) -> Prepared:
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
        return Prepared(whole if wanted == "float32" else halve(whole), whole, None)
    made: Form = model.manifest["fuse"]
    if wanted in ("uint8", "int8"):
        return _quantised(model, whole, wanted, form or made, fixed=form is not None)
    if form not in (None, made):
        whole = _composed(model, whole, form)
    return Prepared(whole if wanted == "float32" else halve(whole), whole, form or made)


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


def _quantised(model: Model, whole: "ModelProto", wanted: Graph, form: Form, *, fixed: bool) -> Prepared:
    pool = Pool.open(model.path / "parts")
    common, template = pool.graphs()
    kind: Kind = "uint8" if wanted == "uint8" else "int8"
    parts, each = [pool.part(task) for task in model.tasks], [pool.ranges(task) for task in model.tasks]
    prepared = quantised(common, template, parts, pool.ranges(), each, kind, form, fixed=fixed)
    for graph in (prepared.float32, prepared.graph):
        _finished(graph, model, whole)
    return prepared


def quantised(
    common: "ModelProto",
    template: "ModelProto",
    parts: Sequence[Part],
    shared: Ranges,
    each: Sequence[Ranges],
    kind: Kind,
    form: Form,
    *,
    fixed: bool = False,
) -> Prepared:
    """Compose and quantise, each module with its own ranges: `shared` the CKN's, `each` the tasks'.

    In a bank, and in branches where it can be, a task's ranges are folded into its weights, so that both forms have the
    same integers. Where they cannot, branches keep a scale each; with `fixed` a bank is then refused.

    Raises:
        ComposeError: an operator cannot be banked, or a scale cannot be folded into it, and the form is fixed.
    """
    try:
        folded = [equalise(template, part, ranges) for part, ranges in zip(parts, each, strict=True)]
        parts, each = [part for part, _ in folded], [ranges for _, ranges in folded]
    except ComposeError:
        if form == "bank" and fixed:
            raise
        form = "branches"
    graph = compose(common, template, parts, form)
    if kind == "uint8":  # TensorRT has its own order of sums whatever the graph says
        separate(graph, parts)
    found = {f"common/{name}": values for name, values in shared.items()}
    if form == "bank":
        found |= {f"bank/{name}": values for name, values in each[0].items()}
    else:
        found |= {f"task{j}/{name}": values for j, ranges in enumerate(each) for name, values in ranges.items()}
    return Prepared(quantise(graph, found, kind), graph, form)


def write(graph: "ModelProto", path: Path) -> Path:
    """Write a graph, checked, to a file; the bytes are the same for the same graph."""
    import onnx

    onnx.checker.check_model(graph, full_check=True)
    path.write_bytes(graph.SerializeToString(deterministic=True))
    return path
