"""From torch to clean ONNX: one export, batch normalisation folded by us, and parameter names kept.

Templates are data from then on, so everything that is not a parameter must be the same whatever the weights: the
exporter's optimiser stays off (it drops all-zero biases, merges equal tensors and lifts constants), and the folding is
a rule that applies to any task's weights.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
import torch
from torch import nn

from kfdeploy.errors import ComposeError, first_line
from kfdeploy.graph.compose import OPSET
from kfdeploy.graph.fold import Graph, clean, fold_batch_norm, initializers, set_initializers
from kfdeploy.graph.reference import Runner, tolerance


def to_onnx(module: nn.Module, example: torch.Tensor, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    """Return a module as ONNX with a dynamic batch and batch normalisation folded.

    The example's batch must be at least 2 (a batch of 1 would be taken as a constant). A network of a structure that
    this process has exported before, such as the rehearsal's, is that graph with other weights: it is proved on noise,
    and exported anew where the numbers are not the network's.
    """
    module = module.eval()
    key = _structure(module, example, inputs, outputs)
    if key in _MADE and (graph := _refilled(_MADE[key], module, example)) is not None:
        return graph
    graph = _export(module, example, inputs, outputs)
    while len(_MADE) >= _MOST:
        _MADE.pop(next(iter(_MADE)))
    _MADE[key] = _copy(graph)
    return graph


_MADE: dict[str, Graph] = {}  # by structure
_MOST = 8  # graphs that are kept, with their weights


def _structure(module: nn.Module, example: torch.Tensor, inputs: Sequence[str], outputs: Sequence[str]) -> str:
    """Return all that an export follows from but the weights, as text."""
    parts = [f"{tuple(example.shape)} {example.dtype} {inputs} {outputs}"]
    for name, part in module.named_modules():
        plain = {key: value for key, value in vars(part).items() if isinstance(value, int | float | str | list | tuple)}
        parts.append(f"{name} {type(part)} {part.extra_repr()} {plain}")
        if isinstance(part, torch.fx.GraphModule):
            parts.append(part.code)
    parts += [f"{name} {tuple(value.shape)}" for name, value in (*module.named_parameters(), *module.named_buffers())]
    return "\n".join(parts)


def _copy(graph: Graph) -> Graph:
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    return Graph(model, graph.folds)


@torch.no_grad()
def _refilled(known: Graph, module: nn.Module, example: torch.Tensor) -> Graph | None:
    """Return a graph of the same structure with a module's weights, or None where it does not give its numbers."""
    graph = _copy(known)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    weights = graph.fold({name: value.detach().cpu().numpy() for name, value in state.items()})
    arrays = initializers(graph.model)
    set_initializers(graph.model, {name: weights.get(name, array) for name, array in arrays.items()})
    generator = torch.Generator().manual_seed(0)
    noise = (
        torch.randn(example.shape, generator=generator)
        if example.is_floating_point()
        else torch.randint(0, 256, example.shape, generator=generator, dtype=example.dtype)
    )
    wanted = module(noise)
    names = [output.name for output in graph.model.graph.output]
    found = Runner(graph.model, names)(noise.numpy())
    for name, value in zip(names, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
        expected = value.numpy()
        if not np.abs(found[name] - expected).max() <= tolerance(expected):  # what is not a number is not equal
            return None
    return graph


def _export(module: nn.Module, example: torch.Tensor, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    with warnings.catch_warnings(), _exporting(type(module).__name__):
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            module,
            (example,),
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            optimize=False,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )
    assert program is not None
    model = clean(_fold_constants(program.model_proto), set(module.state_dict()))
    folds = fold_batch_norm(model)
    onnx.checker.check_model(model, full_check=True)
    return Graph(model, tuple(folds))


@contextmanager
def _exporting(what: str) -> Iterator[None]:
    """Say which network torch could not export; it has many errors of its own for that."""
    try:
        yield
    except Exception as error:
        raise ComposeError(
            f"torch cannot export the network {what} to ONNX: {first_line(error)}",
            hint="choose a network without data-dependent shapes",
        ) from error


def _fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute what does not depend on the input (axes, pads, zero biases), and nothing else."""
    import onnx_ir
    from onnxscript import optimizer

    folded = onnx_ir.from_proto(model)
    optimizer.fold_constants(folded)
    return onnx_ir.to_proto(folded)
