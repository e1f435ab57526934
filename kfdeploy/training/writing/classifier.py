"""Writing a trained network as a student or a teacher, in the form of an assembly."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kfdeploy.files import save_tensors
from kfdeploy.manifest import stamp, versions
from kfdeploy.places import shipped_data, shipped_recipe
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.spec import widths_of
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.nets.branches import merged
from kfdeploy.training.nets.teacher import Teacher
from kfdeploy.training.writing.evidence import recorded

TEACHER = Path("train") / "teacher"  # in a pool: the teacher, in the form of an assembly, and its weights
WEIGHTS = "state.safetensors"
LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")


class _Logits(nn.Module):
    """image → logits (N, C) alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(image)[0]
        return logits


def save_state(path: Path, net: nn.Module) -> None:
    """Write a network's weights and buffers."""
    state = {name: value.detach().cpu().numpy() for name, value in net.state_dict().items()}
    save_tensors(path, state, stamp("state"))


def write_classifier(
    out: Path, net: nn.Module, kind: str, name: str, experiment: Experiment, fields: dict[str, Any]
) -> None:
    """Write a network image → (logits, …) as a student or a teacher, in the form of an assembly, with its weights.

    All columns are one matrix of the network's, the tasks' in their order; the graph has one output a field.
    """
    from kfdeploy.data.splits import sample
    from kfdeploy.deploy.model import Model, write_model
    from kfdeploy.graph.columns import cut_columns
    from kfdeploy.graph.fields import split_outputs
    from kfdeploy.graph.portable import lower
    from kfdeploy.training.writing.to_onnx import to_onnx

    net = net.cpu().float().eval()
    save_state(out / WEIGHTS, net.net if isinstance(net, Teacher) else net)
    only_logits = _Logits(merged(net))
    arrays = recorded(experiment.validation, only_logits)
    # Where a teacher gives more classes than were asked for, the graph has only those.
    graph = to_onnx(only_logits, torch.zeros(2, *experiment.image.shape, dtype=torch.uint8), ["image"], ["logits"])
    cut_columns(graph.model)
    lower(graph.model)
    split_outputs(graph.model, widths_of(experiment.tasks))
    evidence = Evidence(
        arrays["golden.images"],
        arrays["golden.logits"],
        {field: experiment.validation.texts_of(field) for field in experiment.validation.field_names},
        arrays["validation.rows"],
        arrays["validation.logits"],
        arrays["validation.content"],
    )
    images = experiment.record.about()
    about = {"data": shipped_data(experiment.recipe.data.model_dump(), images["sha256"]), "images": images}
    if "recipe" in fields:
        about["recipe"] = shipped_recipe(fields["recipe"], images["sha256"])
    fields = fields | about | {"versions": versions(*LIBRARIES)}
    write_model(out, graph.model, kind, name, experiment.image, experiment.tasks, evidence, fields)
    Model.open(out).calibrate(sample(experiment.validation))
