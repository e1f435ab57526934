"""ONNX graphs that hold nothing but the computation: cleaned, and batch normalisation folded by rules.

A fold applies to any weights of the same network, so that a template is exported once and each task's weights follow.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from kfdeploy.arrays import Arrays
from kfdeploy.errors import ComposeError
from kfdeploy.graph.compose import IR_VERSION, OPSET


@dataclass(frozen=True)
class Fold:
    """One batch normalisation that goes into the convolution before it; all fields are initializer names."""

    weight: str
    bias: str  # the convolution's own bias, or ""
    scale: str
    shift: str
    mean: str
    var: str
    epsilon: float
    new_bias: str

    def apply(self, arrays: Arrays) -> None:
        """Replace the convolution's weight and bias, and drop the normalisation's arrays, in place.

        Computed in float64 and rounded once: W' = W s, b' = (b − mean) s + shift, with s = scale / √(var + ε).
        """
        mean, var = arrays.pop(self.mean).astype(np.float64), arrays.pop(self.var).astype(np.float64)
        s = arrays.pop(self.scale).astype(np.float64) / np.sqrt(var + self.epsilon)
        bias = arrays.pop(self.bias).astype(np.float64) if self.bias else 0.0
        weight = arrays[self.weight].astype(np.float64)
        arrays[self.weight] = (weight * s.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
        arrays[self.new_bias] = ((bias - mean) * s + arrays.pop(self.shift).astype(np.float64)).astype(np.float32)


@dataclass(frozen=True)
class Graph:
    """An exported network: the folded model, and the rules that folded it."""

    model: onnx.ModelProto
    folds: tuple[Fold, ...]

    def fold(self, state: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """Return the initializers that another set of weights of the same network gives."""
        arrays = {name: np.asarray(value) for name, value in state.items()}
        for fold in self.folds:
            fold.apply(arrays)
        return arrays


def clean(model: onnx.ModelProto, parameters: Collection[str]) -> onnx.ModelProto:
    """Return a model that holds nothing but the computation: no stack traces, no identities, no unused weights.

    A convolution without bias gets one of zeros from the exporter; it goes again, unless it is one of `parameters`.
    """
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    graph = model.graph
    identities = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    finals = {output.name for output in graph.output}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.output[0] not in finals:
            continue
        if node.op_type == "Constant":
            graph.initializer.append(_constant(node))
            continue
        for i, name in enumerate(node.input):
            while name in identities and name not in finals:
                name = identities[name]
            node.input[i] = name
        node.doc_string = ""
        del node.metadata_props[:]
        kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    zeros = {t.name for t in graph.initializer if t.name not in parameters and not numpy_helper.to_array(t).any()}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] in zeros:
            del node.input[2:]
    used = {name for node in graph.node for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    del graph.metadata_props[:]
    graph.doc_string = ""
    graph.name = "kfdeploy"
    del model.metadata_props[:]
    model.producer_name, model.producer_version, model.doc_string = "kfdeploy", "", ""
    model.ir_version = IR_VERSION
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    return model


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    """Return a Constant node's value as an initializer."""
    value = node.attribute[0]
    if value.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(value.t)
        tensor.name, tensor.doc_string = node.output[0], ""
        return tensor
    kind = np.float32 if value.name.startswith("value_float") else np.int64
    return numpy_helper.from_array(np.array(onnx.helper.get_attribute_value(value), dtype=kind), node.output[0])


def fold_batch_norm(model: onnx.ModelProto) -> list[Fold]:
    """Fold each batch normalisation into the convolution before it, in place, and return the rules.

    A normalisation whose convolution feeds something else too stays: folding it would change that.
    """
    graph = model.graph
    arrays = initializers(model)
    producer = {name: node for node in graph.node for name in node.output}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for output in graph.output:
        readers[output.name] = readers.get(output.name, 0) + 1
    folds = []
    for node in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        before = producer.get(node.input[0])
        own = [*node.input[1:5]]
        if before is None or before.op_type != "Conv" or readers[node.input[0]] > 1 or before.input[1] not in arrays:
            continue
        if any(readers[name] > 1 for name in (*own, before.input[1])):
            continue
        stem = before.input[1].removesuffix(".weight")
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        fold = Fold(
            before.input[1],
            before.input[2] if len(before.input) > 2 else "",
            own[0],
            own[1],
            own[2],
            own[3],
            epsilon,
            f"{stem}.bias",
        )
        fold.apply(arrays)
        del before.input[2:]
        before.input.append(fold.new_bias)
        before.output[0] = node.output[0]
        graph.node.remove(node)
        folds.append(fold)
    set_initializers(model, arrays)
    return folds


def initializers(model: onnx.ModelProto) -> Arrays:
    """Return the initializers of a model by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def set_initializers(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Replace the initializers of a model, in place, in the order of their names."""
    del model.graph.initializer[:]
    model.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in sorted(arrays))


def check_template(graph: Graph, states: Sequence[Arrays]) -> list[str]:
    """Check that every weight of every task is an initializer of the template, of its shape, and return their names.

    Every other initializer is then a constant of the one template, the same for all tasks.

    Raises:
        ComposeError: a task has a weight that the template lacks, or two tasks differ in what they have.
    """
    known = initializers(graph.model)
    own = set(states[0])
    if lost := sorted(own - set(known)):
        raise ComposeError(f"the template graph lost the weights {lost[:3]} in its export")
    for state in states:
        if set(state) != own:
            raise ComposeError(f"two tasks have different weights: {sorted(set(state) ^ own)[:3]}")
        if odd := [name for name in sorted(own) if state[name].shape != known[name].shape]:
            raise ComposeError(
                f"a task's weight '{odd[0]}' has shape {state[odd[0]].shape}, the template's has {known[odd[0]].shape}"
            )
    return sorted(own)
