"""The ranges of activations that int8 needs, observed on images, module by module.

A range is the one whose clipping and rounding errors at 8 bits have the least sum of squares, over a histogram of the
tensor: the largest value alone would spend most levels on a few outliers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto

from kfdeploy.arrays import Images, at_once
from kfdeploy.errors import PoolError
from kfdeploy.graph.compose import Part, compose
from kfdeploy.graph.reference import Runner, observed

_BINS = 1024
_AT_ONCE = 8  # tasks observed in one graph
Range = tuple[float, float]


def pool_ranges(
    common: ModelProto,
    template: ModelProto,
    parts: Sequence[Part],
    images: Images,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, Range]]:
    """Return `{"": the CKN's ranges, task: its TSN's}`, each by the tensor names of the module's own graph."""
    found: dict[str, dict[str, Range]] = {}
    for start in range(0, len(parts), _AT_ONCE):
        some = parts[start : start + _AT_ONCE]
        report(f"observing {len(some)} tasks on {len(images)} images")
        graph = compose(common, template, some, "branches")
        names = [name for name in observed(graph) if not name.startswith("head/") and "/head/" not in name]
        ranges = observe(graph, names, images)
        for number, part in enumerate(some):
            found[part.name] = _inside(ranges, f"task{number}/")
        found.setdefault("", _inside(ranges, "common/"))
    return found


def model_ranges(model: ModelProto, images: Images) -> dict[str, Range]:
    """Return the ranges of a student's or a teacher's tensors."""
    outputs = {value.name for value in model.graph.output}
    split = {
        name for node in model.graph.node if node.op_type == "Split" and outputs & {*node.output} for name in node.input
    }
    return observe(model, [name for name in observed(model) if name not in outputs | split], images)


def observe(model: ModelProto, names: Sequence[str], images: Images) -> dict[str, Range]:
    """Run images (N, H, W, C) and return the range to quantise each named tensor with; 0 is always inside.

    Raises:
        PoolError: a tensor has values that are not finite.
    """
    run = Runner(model, names)
    size = min(at_once(images.shape[1:], 64), max(1, run.at_once // 4))  # every tensor is kept
    batches = [images[i : i + size] for i in range(0, len(images), size)]
    low = dict.fromkeys(names, 0.0)
    high = dict.fromkeys(names, 0.0)
    for batch in batches:
        for name, value in run(batch).items():
            low[name], high[name] = min(low[name], float(value.min())), max(high[name], float(value.max()))
    if odd := [name for name in names if not np.isfinite([low[name], high[name]]).all()]:
        raise PoolError(f"the values of '{odd[0]}' are not finite: no range holds them", hint="make the network again")
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    for batch in batches:
        for name, value in run(batch).items():
            counts[name] += np.histogram(value, _BINS, (low[name], max(high[name], low[name] + 1e-6)))[0]
    return {name: least_error(counts[name], low[name], high[name]) for name in names}


def least_error(counts: Any, low: float, high: float) -> Range:
    """Return the range inside [low, high] whose clipping and rounding at 8 bits err least, in the sum of squares.

    `counts` (B,) is a histogram over [low, high], which holds 0. Ranges shrink towards 0 on both sides alike.
    """
    centres = low + (np.arange(len(counts)) + 0.5) * (high - low) / len(counts)
    best, chosen = np.inf, (low, high)
    for share in np.linspace(1.0, 0.3, 71):
        bottom, top = low * share, high * share
        clipped = (np.maximum(centres - top, 0) + np.maximum(bottom - centres, 0)) ** 2
        inside = counts[(centres >= bottom) & (centres <= top)].sum()
        error = float((clipped * counts).sum() + inside * ((top - bottom) / 255) ** 2 / 12)
        if error < best:
            best, chosen = error, (bottom, top)
    return float(np.float32(chosen[0])), float(np.float32(chosen[1]))


def _inside(ranges: dict[str, Range], prefix: str) -> dict[str, Range]:
    return {name.removeprefix(prefix): values for name, values in ranges.items() if name.startswith(prefix)}


Ranges = Mapping[str, Range]
