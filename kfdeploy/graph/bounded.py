"""What a graph takes to run, told from its shapes before it is run: one from outside may be made to take everything."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from kfdeploy.errors import PoolError, first_line
from kfdeploy.graph.opened import BYTES
from kfdeploy.reading import ReadingError

# Operators whose output may be of any size, whatever the sizes of what they read.
_GROWING = {"Expand", "Tile", "ConstantOfShape", "Range", "Resize", "Upsample", "Pad", "NonZero", "OneHot", "Einsum",
            "GridSample", "AffineGrid", "Col2Im", "RandomNormal", "RandomUniform", "EyeLike", "MaxUnpool", "Bernoulli",
            "ConvTranspose", "RoiAlign", "DFT", "STFT", "BlackmanWindow", "HannWindow", "HammingWindow", "Multinomial",
            "MelWeightMatrix", "Gather", "GatherND", "Unique"}  # fmt: skip
# What a length is computed by, from shapes; of so few numbers, so often, and up to so long a range.
_FOLDED = {"Shape", "Range", "Squeeze", "Unsqueeze", "Reshape", "Cast", "Identity", "Gather", "Concat", "Add", "Sub",
           "Mul", "Div"}  # fmt: skip
_FEW, _MOST_FOLDED, _LONGEST = 64, 1000, 1 << 16


@dataclass(frozen=True)
class Cost:
    """What a graph takes to run on one image: the most bytes that its tensors have at once, all of them, and products.

    A runtime that runs branches side by side has more than `peak` at once, and never more than `total`.
    """

    peak: int
    total: int
    products: int

    def at_once(self, most: int = 24 << 20) -> int:
        """Return how many images fit into so many bytes."""
        return max(1, most // max(1, self.peak, self.total // 2))


_LEAST_PEAK, _PEAK = 48 << 20, 512  # bytes an image, and how many times the image's own as float32
_LEAST_PRODUCTS, _PRODUCTS = 10_000_000_000, 2_000_000  # of an image, and of a number of it


def check_cost(model: ModelProto, origin: str, hint: str = "make it again") -> Cost:
    """Return what a graph takes to run, told from its shapes; refuse one that takes more than a network would.

    Raises:
        PoolError: as above, or its shapes do not fit each other, or are not known before it runs.
    """
    try:
        shapes = dict(_shapes(model))
        source = shapes.get(model.graph.input[0].name) if model.graph.input else None
        numbers = max(1, math.prod(source[0])) if source else 1
        total = sum(_size(shapes, name) for node in model.graph.node for name in node.output)
        cost = Cost(_peak(model, shapes), total, sum(_products(node, shapes) for node in model.graph.node))
        if cost.peak > (most := max(_LEAST_PEAK, _PEAK * 4 * numbers)):
            raise ReadingError(f"it would take {cost.peak:,} bytes an image, and at most {most:,} are given")
        if cost.products > (most := max(_LEAST_PRODUCTS, _PRODUCTS * numbers)):
            raise ReadingError(
                f"it would take {cost.products:,} multiplications an image, and at most {most:,} are done"
            )
    except ReadingError as why:
        raise PoolError(f"'{origin}' is not run: {why}", hint=hint) from None
    return cost


Shape = tuple[tuple[int, ...], int]  # sides, and bytes an element


def _shapes(model: ModelProto) -> Iterator[tuple[str, Shape]]:
    """Give the shape of every tensor that is known, for one image.

    Raises:
        ReadingError: they contradict each other, or that of an operator that may make anything is not known.
    """
    fixed = ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]  # what they say is not believed
    for value in fixed.graph.input:
        for side in value.type.tensor_type.shape.dim:
            if not side.HasField("dim_value"):
                side.dim_value = 1
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    if any(node.op_type == "Range" for node in fixed.graph.node):
        _settle_ranges(fixed, _inferred(fixed, follow=False)[0])
        for node in fixed.graph.node:  # following values, ONNX's inference would count one out, however long
            if node.op_type == "Range":
                raise ReadingError(f"how large '{node.output[0]:.80}' (Range) is cannot be told before it runs")
    found, lost = _inferred(fixed)
    if lost:
        raise ReadingError(f"how large {lost[0]} is cannot be told before it runs")
    yield from found.items()


def _inferred(model: ModelProto, *, follow: bool = True) -> tuple[dict[str, Shape], list[str]]:
    """Return the shapes that are known, and what operators that may make anything make where theirs is not.

    With `follow` also by the values that shapes are computed from.

    Raises:
        ReadingError: they contradict each other.
    """
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=follow).graph
    except Exception as error:  # C++'s, through classes of its own
        raise ReadingError(f"its shapes do not fit: {first_line(error)[:300]}") from None
    found: dict[str, Shape] = {t.name: (tuple(t.dims), BYTES[t.data_type]) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if (shape := _known(value)) is not None:
            found[value.name] = shape
    growing = [(node.op_type, name) for node in graph.node if node.op_type in _GROWING for name in node.output]
    return found, [f"'{name:.80}' ({kind})" for kind, name in growing if name and name not in found]


def _settle_ranges(model: ModelProto, found: dict[str, Shape]) -> None:
    """Put numbers in the place of every `Range`, not too long, whose bounds are told by shapes.

    torch writes strided views as a `Gather` at a `Range` up to the batch, which ONNX's own inference does not follow.
    """
    from onnx.reference import ReferenceEvaluator

    tensors = [t for t in model.graph.initializer if math.prod(t.dims) <= _FEW and not t.external_data]
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}
    ranges: list[tuple[NodeProto, TensorProto]] = []
    for node in [node for node in model.graph.node if node.op_type in _FOLDED][:_MOST_FOLDED]:
        if node.op_type == "Shape" and node.input[0] in found:  # of the sides alone, never of what has them
            sides, own = found[node.input[0]][0], {each.name: each.i for each in node.attribute}
            values[node.output[0]] = np.array(sides[own.get("start", 0) : own.get("end", len(sides))], np.int64)
            continue
        if not all(name in values for name in node.input if name):
            continue
        given = {name: values[name] for name in node.input if name}
        try:
            if node.op_type == "Range":
                start, end, step = (values[name].item() for name in node.input)
                if not 0 <= (end - start) / step <= _LONGEST:
                    continue
            outcome: Any = ReferenceEvaluator(node).run(None, given)
            made = outcome[0]
        except Exception:
            continue
        if node.op_type == "Range":
            ranges.append((node, onnx.numpy_helper.from_array(made, node.output[0])))
        if made.size <= _FEW:  # two long ranges would span a plane
            values[node.output[0]] = made
    for node, tensor in ranges:
        model.graph.node.remove(node)
        model.graph.initializer.append(tensor)


def _known(value: ValueInfoProto) -> Shape | None:
    kind = value.type.tensor_type
    sides = [side.dim_value if side.HasField("dim_value") else -1 for side in kind.shape.dim]
    if not kind.HasField("shape") or any(side < 0 for side in sides):
        return None
    return tuple(sides), BYTES.get(kind.elem_type, 8)


def _peak(model: ModelProto, shapes: dict[str, Shape]) -> int:
    """Return the most bytes of tensors that are alive at once, weights aside."""
    nodes = model.graph.node
    last = {name: i for i, node in enumerate(nodes) for name in node.input}
    stay = {value.name for value in (*model.graph.output, *model.graph.input)}
    stay |= {tensor.name for tensor in model.graph.initializer}
    held = peak = 0
    for i, node in enumerate(nodes):
        held += sum(_size(shapes, name) for name in node.output)
        peak = max(peak, held)
        gone = {name for name in (*node.input, *node.output) if last.get(name, i) == i and name not in stay}
        held -= sum(_size(shapes, name) for name in gone)
    return peak


def _size(shapes: dict[str, Shape], name: str) -> int:
    sides, each = shapes.get(name, ((0,), 0))
    return math.prod(sides) * each


def _products(node: NodeProto, shapes: dict[str, Shape]) -> int:
    """Return a node's multiplications; of one that only looks at each number of its output, these."""
    out = math.prod(shapes[node.output[0]][0]) if node.output[0] in shapes else 0
    sides: Sequence[int] = shapes[node.input[1]][0] if len(node.input) > 1 and node.input[1] in shapes else ()
    if node.op_type in ("Conv", "ConvInteger", "QLinearConv", "ConvTranspose"):
        place = 3 if node.op_type == "QLinearConv" else 1
        sides = shapes[node.input[place]][0] if len(node.input) > place and node.input[place] in shapes else ()
        return out * math.prod(sides[1:])
    if node.op_type in ("MatMul", "Gemm", "MatMulInteger") and len(sides) > 1:
        return out * max(sides[-2], sides[-1] if node.op_type == "Gemm" else 0)
    if node.op_type in ("MaxPool", "AveragePool", "LpPool"):
        return out * math.prod(_ints(node, "kernel_shape"))
    return out


def _ints(node: NodeProto, name: str) -> list[int]:
    found: Any = next((attribute.ints for attribute in node.attribute if attribute.name == name), ())
    return [max(1, value) for value in found]
