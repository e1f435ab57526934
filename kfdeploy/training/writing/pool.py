"""Writing a factorization as a pool, proved before it is there."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from kfdeploy.files import file_name, save_tensors
from kfdeploy.manifest import TaskEntry, stamp, versions
from kfdeploy.pool.manifest import SHARED, made, owned, write
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.evidence import labels_key
from kfdeploy.tasks.spec import CLASS, ImageSpec, TaskSpec
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.learners.factor import FactorLearner
from kfdeploy.training.loop.learner import Fitted
from kfdeploy.training.nets.branches import merged
from kfdeploy.training.nets.build import build, describe
from kfdeploy.training.nets.classifier import Normalise
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.nets.layers import Backbone
from kfdeploy.training.recipe.recipe import Recipe
from kfdeploy.training.writing.classifier import LIBRARIES, WEIGHTS, save_state
from kfdeploy.training.writing.evidence import recorded
from kfdeploy.training.writing.temperatures import fit_temperatures

if TYPE_CHECKING:
    from onnx import ModelProto

    from kfdeploy.arrays import Arrays
    from kfdeploy.graph.compose import Part
    from kfdeploy.training.learners.fields import FieldLosses


_SHARED = ("golden.images", "validation.rows", "validation.content")  # and the labels of each field


class _Common(nn.Module):
    """image → z (N, d, 1, 1), tap."""

    def __init__(self, normalise: Normalise, ckn: nn.Module, tap: int) -> None:
        super().__init__()
        self.normalise, self.ckn, self.tap = normalise, ckn, tap

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.normalise(image)
        stages = self.ckn(x)
        return stages[-1].mean((2, 3), keepdim=True), x if self.tap < 0 else stages[self.tap]


class _Template(nn.Module):
    """tap → u (N, D, 1, 1)."""

    def __init__(self, tsn: nn.Module) -> None:
        super().__init__()
        self.tsn = tsn

    def forward(self, tap: Tensor) -> Tensor:
        u: Tensor = self.tsn(tap)[-1].mean((2, 3), keepdim=True)
        return u


def write_pool(
    work: Path, learner: FactorLearner, experiment: Experiment, teacher: dict[str, Any], fitted: Fitted,
    weights: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write a whole pool into `work` and prove it: every task assembled at once gives the torch network's logits.

    `weights` are what the common network began from.
    """
    from kfdeploy.data.splits import IMAGES, sample
    from kfdeploy.graph.compose import Part
    from kfdeploy.graph.fold import check_template
    from kfdeploy.graph.ranges import pool_ranges
    from kfdeploy.pool.ranges import write_pool_ranges

    recipe, tasks, image = experiment.recipe, experiment.tasks, experiment.image
    net = cast(FactorNet, merged(learner.net.cpu().float().eval()))
    evidence = recorded(experiment.validation, lambda image: net(image).logits)
    common, template, states = graphs_of(net, recipe, image)
    (work / "common.onnx").write_bytes(common.model.SerializeToString(deterministic=True))
    (work / "task.onnx").write_bytes(template.model.SerializeToString(deterministic=True))
    folded = [template.fold(state) for state in states]
    check_template(template, folded)

    owner = net.owner.numpy()  # (C,) each class's task
    temperatures, by_task = _temperatures(experiment, learner, evidence)
    each = temperatures[owner]
    W, WA, b = ((tensor.numpy().T / each).T.astype(np.float32) for tensor in net.folded_heads())
    for key in ("golden.logits", "validation.logits"):
        evidence[key] = (evidence[key] / each).astype(np.float32)
    parts: list[Part] = []
    for j, (task, arrays) in enumerate(zip(tasks, folded, strict=True)):
        own = owner == j
        parts.append(Part(task.name, arrays, W[own], WA[own], b[own]))
        logits = {key: evidence[key][:, own] for key in ("golden.logits", "validation.logits")}
        _write_task(work, task, parts[-1], logits)
    shared = {key: value for key, value in evidence.items() if key in _SHARED or key.startswith("validation.labels")}
    save_tensors(work / SHARED, shared, stamp("evidence"))
    save_state(work / "train" / WEIGHTS, learner)
    ranges = pool_ranges(common.model, template.model, parts, sample(experiment.validation))
    manifest = made(
        work,
        {
            "name": recipe.name,
            "recipe": recipe.model_dump(),
            "image": image.to_json(),
            "coupling": recipe.objective.coupling,
            "temperatures": by_task,
            "teacher": teacher,
            "versions": versions(*LIBRARIES),
            "nets": _described(net, recipe) | ({"weights": weights} if weights else {}),
            "training": experiment.training(recipe.train, fitted),
            "images": experiment.record.about(),
            **_fields(experiment),
        },
        tasks,
        write_pool_ranges(work, ranges, min(IMAGES, len(experiment.validation))),
    )
    write(work, manifest)
    Pool.open(work).prove()


def _temperatures(
    experiment: Experiment, learner: FactorLearner, evidence: "Arrays"
) -> tuple[np.ndarray[Any, np.dtype[np.float64]], dict[str, float]]:
    """Return by what each task's logits are divided (K,), and that by name of the tasks that are coupled with none."""
    tasks, found = experiment.tasks, np.ones(len(experiment.tasks))
    named: dict[str, float] = {}
    for losses in cast("Sequence[FieldLosses]", learner.fields):
        if losses.independent:
            own = losses.columns.cpu().numpy()
            logits, labels = evidence["validation.logits"][:, own], evidence[labels_key(losses.field)]
            known = labels >= 0
            found[losses.tasks] = fit_temperatures(logits[known], labels[known], losses.owner.cpu().numpy())
            named |= {tasks[i].name: round(float(found[i]), 6) for i in losses.tasks}
    return found, named


def _fields(experiment: Experiment) -> dict[str, Any]:
    """Return what is put on record of several fields."""
    found: dict[str, list[str]] = {}
    for task in experiment.tasks:
        found.setdefault(task.field, []).extend(task.classes)
    if found.keys() == {CLASS}:
        return {}
    couplings = experiment.couplings
    about = {f: {"kind": "classes", "classes": names, "coupling": couplings[f]} for f, names in found.items()}
    return {"fields": about}


def _described(net: FactorNet, recipe: Recipe) -> dict[str, Any]:
    return {
        "ckn": describe(recipe.ckn),
        "tsn": describe(recipe.tsn.net),
        "d": net.d,
        "D": net.D,
        "tap": {"name": recipe.tsn.tap, "channels": net.tap_channels},
    }


def _write_task(work: Path, task: TaskSpec, part: "Part", logits: "Arrays") -> None:
    """Write a task's network and head, and its logits of the golden and the validation images."""
    head = {"head.z": part.head_z, "head.u": part.head_u, "head.bias": part.head_bias}
    about = owned("task", cast(TaskEntry, task.to_json()))
    stem = file_name(task.name)
    save_tensors(work / "tasks" / f"{stem}.safetensors", part.weights | head, about)
    save_tensors(work / "evidence" / f"{stem}.safetensors", logits, about | {"kind": "evidence"})


def graphs_of(
    net: FactorNet, recipe: Recipe, image: ImageSpec
) -> "tuple[Any, Any, list[dict[str, np.ndarray[Any, Any]]]]":
    """Return the common graph, the task template, and each task's unfolded weights by the template's names."""
    from kfdeploy.training.writing.to_onnx import to_onnx

    example = torch.zeros(2, *image.shape, dtype=torch.uint8)
    common = to_onnx(_Common(net.normalise, net.ckn, net.tap).eval(), example, ["image"], ["z", "tap"])
    with torch.no_grad():
        tap = _Common(net.normalise, net.ckn, net.tap).eval()(example)[1]
    single = cast(Backbone, merged(build(recipe.tsn.net, net.tap_channels)))
    bank = {key: value for key, value in net.bank.state_dict().items() if not key.endswith("num_batches_tracked")}
    states = [
        {f"tsn.{key}": value.chunk(net.K)[j].numpy() for key, value in bank.items()} for j in range(net.K)
    ]  # every tensor of a bank lies along its first axis
    single.load_state_dict(
        {key.removeprefix("tsn."): torch.from_numpy(v) for key, v in states[0].items()}, strict=False
    )
    template = to_onnx(_Template(single).eval(), tap, ["tap"], ["u"])
    return common, template, states


def template_of(
    net: FactorNet, recipe: Recipe, image: ImageSpec, template: "ModelProto"
) -> "tuple[ModelProto, dict[str, np.ndarray[Any, Any]]]":
    """Return a pool's template and, folded as its tasks' are, the weights of a network with one task, merged.

    Raises:
        ComposeError: they are not the template's.
    """
    from kfdeploy.graph.fold import check_template
    from kfdeploy.training.writing.to_onnx import to_onnx

    with torch.no_grad():
        probe = FactorNet(recipe.ckn, recipe.tsn, image, [TaskSpec("", ("",))]).eval()
        example = torch.zeros(2, *image.shape, dtype=torch.uint8)
        tap = _Common(probe.normalise, probe.ckn, probe.tap)(example)[1]
    single = cast(Backbone, merged(build(recipe.tsn.net, net.tap_channels)))
    bank = {key: value for key, value in net.bank.state_dict().items() if not key.endswith("num_batches_tracked")}
    single.load_state_dict(bank, strict=False)
    made = to_onnx(_Template(single).eval(), tap, ["tap"], ["u"])
    weights = made.fold({f"tsn.{key}": value.numpy() for key, value in bank.items()})
    made.model.CopyFrom(template)  # the pool's own, whatever this torch would export
    check_template(made, [weights])
    return template, weights
