"""A graph in the numbers that a target wants: float32, float16, or quantised, as a bank or as branches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kfdeploy.errors import ComposeError
from kfdeploy.graph.compose import Form, Part, compose
from kfdeploy.graph.heads import order_sums
from kfdeploy.graph.opened import check_whole
from kfdeploy.graph.quantize import Kind, equalise, quantise
from kfdeploy.graph.ranges import Ranges

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Prepared:
    """A graph ready for `Target.convert`, and the float32 graph it came from, with tensors of the same names."""

    graph: "ModelProto"
    float32: "ModelProto"
    form: Form | None  # None: a student or a teacher, which is neither


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
    exact: bool = True,
) -> Prepared:
    """Compose and quantise, each module with its own ranges: `shared` the CKN's, `each` the tasks'.

    In a bank, and in branches where it can be, a task's ranges are folded into its weights, so that both forms have the
    same integers. Where they cannot, branches keep a scale each; with `fixed` a bank is then refused.
    With `exact` the heads of a uint8 graph sum up in one order, so that a task's logits are the same bits everywhere.

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
    if kind == "uint8" and exact:  # TensorRT has its own order of sums whatever the graph says
        order_sums(graph, parts)
    found = {f"common/{name}": values for name, values in shared.items()}
    if form == "bank":
        found |= {f"bank/{name}": values for name, values in each[0].items()}
    else:
        found |= {f"task{j}/{name}": values for j, ranges in enumerate(each) for name, values in ranges.items()}
    return Prepared(quantise(graph, found, kind), graph, form)


def write(graph: "ModelProto", path: Path) -> Path:
    """Write a graph, checked, to a file; the bytes are the same for the same graph."""
    check_whole(graph, f"'{path.name}'")
    path.write_bytes(graph.SerializeToString(deterministic=True))
    return path


# What a target's `convert` is given for a precision: the float32 graph, one with float16 tensors, or one that quantises
# activations to uint8 (zero-point 0 behind a ReLU, else 128) or to int8 (zero-point 0), and weights to int8 by channel.
Numerics = Literal["float32", "float16", "uint8", "int8"]
