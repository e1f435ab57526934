"""Separate students: one network a task, each against all other classes, side by side in one graph.

It is what is done where every task is a model of its own. Each network's outputs are log-odds against "other" (see
`objectives.classification.against_other`), and each is calibrated, so that side by side they are one answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kfdeploy.tasks.spec import TaskSpec, class_names, columns
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.learners.classifier import AgainstRest
from kfdeploy.training.loop.learner import Fitted, outputs_of
from kfdeploy.training.loop.progress import is_main
from kfdeploy.training.nets.build import describe
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.nets.teacher import Teacher
from kfdeploy.training.nets.weights import start_from
from kfdeploy.training.recipe.sections import Student
from kfdeploy.training.writing.classifier import write_classifier
from kfdeploy.training.writing.temperatures import fit_temperatures


class SideBySide(nn.Module):
    """image → (logits (N, C),): the calibrated log-odds of several networks, one after another."""

    scale: Tensor

    def __init__(self, nets: Sequence[nn.Module], scale: Tensor) -> None:
        """`scale` (C,) is what each logit is multiplied by: one over its task's temperature."""
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.register_buffer("scale", scale)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """Return the logits alone, from uint8 (N, H, W, C)."""
        return (torch.cat([net(image)[0] for net in self.nets], 1) * self.scale,)


def distill_separately(
    experiment: Experiment,
    taught: tuple[Teacher, dict[str, Any]],
    student: Student,
    tasks: Sequence[TaskSpec],
    work: Path,
    name: str,
    *,
    resume: bool,
) -> Fitted:
    """Distil one student for each of `tasks`, on all images, and write them side by side as one student into `work`."""
    recipe, (teacher, about) = experiment.recipe, taught
    parts: list[AgainstRest] = []
    fits: list[Fitted] = []
    for task in tasks:
        number = experiment.tasks.index(task)
        torch.manual_seed(recipe.seed * 1000 + number)
        net = Classifier(student.net, experiment.image, len(task.classes))
        start_from(net.backbone, student.net, experiment.image.channels, f"student '{student.name}'")
        own = columns(experiment.classes, task.classes)
        parts.append(AgainstRest(net, student.soft, own, len(experiment.classes)))
        asked = teacher if student.soft.weight else None
        folder = work / "train" / f"{number + 1}"  # a task's name may be no folder's
        title = f"{name}, {task.name}"
        fits.append(experiment.fit(parts[-1], folder, title, recipe.train, teacher=asked, resume=resume))
    terms = {key: sum(fit.log[-1][key] for fit in fits) for key in fits[0].log[-1]} if fits[0].log else {}
    fitted = Fitted([terms], [fit.seconds for fit in fits])
    if not is_main():
        return fitted
    classes = class_names(tasks)
    owner = torch.repeat_interleave(torch.arange(len(tasks)), torch.tensor([len(task.classes) for task in tasks]))
    labels = torch.tensor([{c: i for i, c in enumerate(classes)}.get(c, -1) for c in experiment.classes])
    data = experiment.validation
    logits = torch.cat([torch.from_numpy(outputs_of(p, data, experiment.fabric.device))[:, 1:] for p in parts], 1)
    temperatures = torch.from_numpy(fit_temperatures(logits.numpy(), labels[data.labels].numpy(), owner.numpy()))
    whole = SideBySide([part.net for part in parts], (1 / temperatures)[owner].float())
    fields = {
        "teacher": about,
        "net": f"{len(parts)} × {describe(student.net)}",
        "training": experiment.training(recipe.train, fitted) | {"models": len(parts)},
        "recipe": recipe.model_copy(update={"students": [student]}).model_dump(),
    }
    write_classifier(work, whole, "student", name, experiment.only(tasks), fields)
    return fitted
