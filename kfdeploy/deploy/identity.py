"""What a model says of itself inside its own file, and what the manifest beside it says: they must be the same.

The classes, their order, how an image becomes the input and where an open set begins are in the metadata of an ONNX
file, which OpenVINO takes along; MNN's file has no room for them, so every artifact's golden samples have them too. All
of these files are in the manifest with their hashes.
"""

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfdeploy.errors import PoolError
from kfdeploy.files import METADATA_KEY
from kfdeploy.graph.known import known_beside, threshold_beside
from kfdeploy.reading import read_regular, reason
from kfdeploy.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from onnx import ModelProto

_AGAIN = "copy the folder again, or make it again; do not use what somebody has altered"
_TAG = re.compile(rf'<{METADATA_KEY} value="([^"]*)"')  # in an OpenVINO model, which has what ONNX had


def load_graph(path: Path) -> "ModelProto":
    """Return an ONNX graph that is all in one file.

    Raises:
        PoolError: it is no ONNX, or keeps weights in other files.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load(path, load_external_data=False)
    except DecodeError as error:
        raise PoolError(f"'{path}' is no ONNX file: {error}", hint=_AGAIN) from None
    constants = [each.t for node in graph.graph.node for each in node.attribute if each.HasField("t")]
    for tensor in (*graph.graph.initializer, *constants):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise PoolError(f"'{path}' keeps the weight '{tensor.name}' in another file", hint=_AGAIN)
    return graph


def told_by_onnx(graph: "ModelProto", path: Path) -> dict[str, Any]:
    """Return what an ONNX file says of itself.

    Raises:
        PoolError: it says nothing, or nothing that can be read.
    """
    found = [entry.value for entry in graph.metadata_props if entry.key == METADATA_KEY]
    about = _parsed(found, path)
    names = [(entry.key, entry.value) for entry in graph.metadata_props if entry.key in ("classes", "outputs")]
    try:
        same = [(key, json.loads(text)) for key, text in names] == [*names_told(about["tasks"]).items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        same = False
    if not same:
        raise PoolError(f"'{path}' names its classes twice, and not alike", hint=_AGAIN)
    return about


def told_by_openvino(path: Path) -> dict[str, Any]:
    """Return what an OpenVINO model says of itself.

    Raises:
        PoolError: as above.
    """
    try:
        text = read_regular(path).decode("utf-8")
    except (OSError, ValueError) as error:
        raise PoolError(f"'{path}' cannot be read: {reason(error)}", hint=_AGAIN) from None
    return _parsed([html.unescape(found) for found in _TAG.findall(text)], path)


def names_told(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what an ONNX file says of its columns for other programs, by the key of its metadata.

    `classes` is the list of them where the graph has one output; where it has several, `outputs` is such a list by the
    name of each. `entries` are the tasks of a manifest.
    """
    columns: dict[str, list[str]] = {}
    for task in map(TaskSpec.from_json, entries):
        columns.setdefault(task.output, []).extend(task.classes)
    return {"outputs": columns} if len(columns) > 1 else {"classes": [name for own in columns.values() for name in own]}


def _parsed(texts: Sequence[str], path: Path) -> dict[str, Any]:
    if len(texts) != 1:
        raise PoolError(f"'{path}' says {len(texts)} times what it is, not once", hint=_AGAIN)
    return parsed(texts[0], path)


def parsed(text: str, path: Path) -> dict[str, Any]:
    """Return what a model says of itself, as it stands in its file: a JSON object.

    Raises:
        PoolError: it is none.
    """
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PoolError(f"what '{path}' says of itself cannot be read: {error}", hint=_AGAIN) from None
    if not isinstance(about, dict):
        raise PoolError(f"'{path}' says that it is {about!r:.40}", hint=_AGAIN)
    return about


def require_same(said: Mapping[str, Any], own: Mapping[str, Any], place: Path, model: str) -> None:
    """Refuse a manifest at `place` that says something else than `model`, its file, says of itself.

    Raises:
        PoolError: it says what differs, with both values.
    """
    for key, value in said.items():
        if _text(value) != _text(own.get(key)):
            raise PoolError(
                f"'{place}' does not describe the model beside it: {_difference(key, value, own.get(key), model)}",
                hint=_AGAIN,
            )


def require_shape(
    graph: "ModelProto",
    path: Path,
    image: Sequence[int],
    widths: Mapping[str, int],
    thresholds: Mapping[str, float],
    takes: str = "uint8",
) -> None:
    """Refuse a graph that takes other images than its manifest says, or gives other outputs.

    `image` is its height, width and channels, `takes` the kind of its numbers. `widths` are the columns of its outputs,
    one a field; beside those with a threshold it has the output `known`.

    Raises:
        PoolError: it says what differs, with both values.
    """
    inputs = {value.name: _sides(value) for value in graph.graph.input}
    outputs = {value.name: _sides(value) for value in graph.graph.output}
    wanted = [*widths, *map(known_beside, thresholds)]
    if list(inputs) != ["image"] or [*inputs["image"][1:]] != [*image]:
        raise PoolError(f"'{path}' takes {inputs}, and its manifest says images of {[*image]}", hint=_AGAIN)
    kind = "float32" if graph.graph.input[0].type.tensor_type.elem_type == 1 else "uint8"
    if kind != takes:
        raise PoolError(f"'{path}' takes images as {kind}, and its manifest says {takes}", hint=_AGAIN)
    if sorted(outputs) != sorted(wanted):
        raise PoolError(f"'{path}' gives {', '.join(outputs)}, and its manifest says {', '.join(wanted)}", hint=_AGAIN)
    for name, width in widths.items():
        sides = outputs[name]
        if len(sides) != 2 or sides[1] not in (0, width):  # 0: the graph leaves it open
            raise PoolError(
                f"'{path}' gives {sides[-1] if sides else 'no'} {name}, and its manifest names {width} classes",
                hint=_AGAIN,
            )
    for name, threshold in thresholds.items():
        _require_threshold(graph, path, threshold_beside(name), threshold)


def precision_of(graph: "ModelProto") -> str:
    """Return the precision that an ONNX graph of ours computes in, by its nodes and weights."""
    from onnx import TensorProto

    if any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        return "int8"
    halves = any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.graph.initializer)
    return "fp16" if halves else "fp32"


def _require_threshold(graph: "ModelProto", path: Path, name: str, threshold: float) -> None:
    from onnx import numpy_helper

    own = [float(numpy_helper.to_array(t)) for t in graph.graph.initializer if t.name == name]
    # Float16, the coarsest that a graph is written in, has 11 bits.
    if own and not abs(own[0] - threshold) <= 2**-10 * max(1.0, abs(own[0])):
        raise PoolError(
            f"'{path}' accepts images from a score of {own[0]:.6g} on, and its manifest says {threshold:.6g}",
            hint=_AGAIN,
        )


def _sides(value: Any) -> list[int]:
    return [int(side.dim_value) for side in value.type.tensor_type.shape.dim]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=True)


def _difference(key: str, said: Any, own: Any, model: str) -> str:
    """Return what differs, as narrowly as it can be told."""
    if key == "tasks" and isinstance(own, list):
        names = [[str(e.get("name")) if isinstance(e, dict) else repr(e) for e in side] for side in (said, own)]
        if names[0] != names[1]:
            return f"it names the tasks {', '.join(names[0])}, and '{model}' has {', '.join(names[1])}"
        for mine, its in zip(said, own, strict=True):
            if mine != its:
                return f"task '{mine['name']}' is {_text(mine)[:200]} there, and {_text(its)[:200]} in '{model}'"
    if isinstance(said, Mapping) and isinstance(own, Mapping):
        for name in sorted({*said, *own}):
            if _text(said.get(name)) != _text(own.get(name)):
                return f"{key}.{name} is {said.get(name)!r:.80} there, and {own.get(name)!r:.80} in '{model}'"
    return f"{key} is {said!r:.80} there, and {own!r:.80} in '{model}'"
