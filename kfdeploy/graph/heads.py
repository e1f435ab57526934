"""Heads whose sums have one order: the same bits in every subset.

A runtime adds up a convolution's products in an order that depends on how many outputs there are, so a task's logits
differ in their last bit between two subsets. Written as products and one sum a class, each class is by itself.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from kfdeploy.arrays import Arrays
from kfdeploy.graph.compose import Part


def order_sums(model: ModelProto, parts: Sequence[Part]) -> None:
    """Replace the head of a composed graph, in place: logits_c = Σ_i W_ci z_i + b_c + Σ_i (W A)_ci u_i.

    What the head reads (z, and u as a bank or as branches) stays as it is.
    """
    graph, K = model.graph, len(parts)
    z, own = head_inputs(model, K)
    bank = len(set(own)) < K or own[0].startswith("bank/")
    kept = [node for node in graph.node if "head/" not in node.output[0] and node.output[0] != "logits"]
    arrays = {t.name: numpy_helper.to_array(t) for t in graph.initializer if "head." not in t.name}
    arrays["head.z"] = np.concatenate([part.head_z for part in parts])  # (C, d)
    arrays["head.bias"] = np.concatenate([part.head_bias for part in parts])
    arrays["head.u"] = np.concatenate([part.head_u for part in parts])  # (C, D)
    arrays["head.spatial"], arrays["head.features"] = np.array([2, 3]), np.array([2])
    arrays["head.class"] = np.array([1])
    nodes: list[NodeProto] = []

    def add(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    flat = add("Squeeze", [z, "head.spatial"], "head/z/flat")  # (N, d)
    wide = add("Unsqueeze", [flat, "head.class"], "head/z/wide")  # (N, 1, d)
    from_z = add("ReduceSum", [add("Mul", [wide, "head.z"], "head/z/products"), "head.features"], "head/z", keepdims=0)
    owner = np.repeat(np.arange(K), [len(part.head_bias) for part in parts])
    if bank:
        arrays["head.shape"] = np.array([0, K, parts[0].head_u.shape[1]])
        each = add("Reshape", [own[0], "head.shape"], "head/u/each")  # (N, K, D)
    else:
        # (N, D, 1) each
        pieces = [add("Squeeze", [u, "head.features"], f"task{j}/head/flat") for j, u in enumerate(own)]
        joined = add("Concat", pieces, "head/u/joined", axis=2) if K > 1 else pieces[0]  # (N, D, K)
        each = add("Transpose", [joined], "head/u/each", perm=[0, 2, 1])
    if len(owner) != K or (owner != np.arange(K)).any():  # each class reads its own task's features
        arrays["head.owner"] = owner.astype(np.int64)
        each = add("Gather", [each, "head.owner"], "head/u/owned", axis=1)  # (N, C, D)
    from_u = add("ReduceSum", [add("Mul", [each, "head.u"], "head/u/products"), "head.features"], "head/u", keepdims=0)
    add("Add", [add("Add", [from_z, from_u], "head/sum"), "head.bias"], "logits")
    _set(graph, [*kept, *nodes], arrays)


def head_inputs(model: ModelProto, K: int) -> tuple[str, list[str]]:
    """Return what the head of a composed graph reads: z, and each task's u (the same K times: a bank's, side by side).

    Of a graph that is not composed, a student's, they are empty.
    """
    source = {node.output[0]: node.input[0] for node in model.graph.node if node.input}
    z = source.get("head/z/flat") or source.get("head/z", "")
    bank = source.get("head/u/each") if "head/u/each" in source else source.get("head/u")
    own = [source.get(f"task{j}/head/flat") or source.get(f"task{j}/head/u") or bank or "" for j in range(K)]
    return z, own if z else []


def _set(graph: GraphProto, nodes: Sequence[NodeProto], arrays: Arrays) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    used = {name for node in copies for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(numpy_helper.from_array(np.asarray(arrays[n]), n) for n in sorted(arrays) if n in used)
