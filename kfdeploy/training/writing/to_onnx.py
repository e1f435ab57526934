"""From torch to clean ONNX: one export, batch normalisation folded by us, and parameter names kept.

Templates are data from then on, so everything that is not a parameter must be the same whatever the weights: the
exporter's optimiser stays off (it drops all-zero biases, merges equal tensors and lifts constants), and the folding is
a rule that applies to any task's weights.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
import torch
from torch import nn

from kfdeploy.errors import ComposeError, first_line
from kfdeploy.graph.compose import OPSET
from kfdeploy.graph.fold import Graph, clean, fold_batch_norm


def to_onnx(module: nn.Module, example: torch.Tensor, inputs: Sequence[str], outputs: Sequence[str]) -> Graph:
    """Return a module as ONNX with a dynamic batch and batch normalisation folded.

    The example's batch must be at least 2 (a batch of 1 would be taken as a constant).
    """
    module = module.eval()
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
