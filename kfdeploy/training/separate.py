"""Separate students: one network a task, each against all other classes, side by side in one graph.

It is what is done where every task is a model of its own. Each network's outputs are log-odds against "other" (see
`objectives.classification.against_other`), and each is calibrated, so that side by side they are one answer. A task
that has a field of labels to itself has no other, and is calibrated with nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kfdeploy.tasks.kinds.classes import label_columns
from kfdeploy.tasks.spec import TaskSpec, columns, fields_of, whole_field
from kfdeploy.training.experiment import Experiment
from kfdeploy.training.learners.classifier import AgainstRest, ClassifierLearner
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
    parts: list[AgainstRest | ClassifierLearner] = []
    fits: list[Fitted] = []
    for task in tasks:
        number = experiment.tasks.index(task)
        torch.manual_seed(recipe.seed * 1000 + number)
        net = Classifier(student.net, experiment.image, len(task.classes))
        start_from(net.backbone, student.net, experiment.image.channels, f"student '{student.name}'")
        part, own, learner = _learner(experiment, teacher, student, task, net)
        parts.append(learner)
        asked = own if student.soft.weight and own is not None else None
        folder = work / "train" / f"{number + 1}"  # a task's name may be no folder's
        title = f"{name}, {task.name}"
        fits.append(part.fit(parts[-1], folder, title, recipe.train, teacher=asked, resume=resume))
    terms = {key: sum(fit.log[-1][key] for fit in fits) for key in fits[0].log[-1]} if fits[0].log else {}
    fitted = Fitted([terms], [fit.seconds for fit in fits])
    if not is_main():
        return fitted
    whole = SideBySide([part.net for part in parts], _scale(experiment, tasks, parts))
    fields = {
        "teacher": about,
        "net": f"{len(parts)} × {describe(student.net)}",
        "training": experiment.training(recipe.train, fitted) | {"models": len(parts)},
        "recipe": recipe.model_copy(update={"students": [student]}).model_dump(),
    }
    write_classifier(work, whole, "student", name, experiment.only(tasks), fields)
    return fitted


def _learner(
    experiment: Experiment, teacher: Teacher, student: Student, task: TaskSpec, net: nn.Module
) -> tuple[Experiment, Teacher | None, AgainstRest | ClassifierLearner]:
    """Return what one task is learned from, the teacher where it answers its field, and its learner."""
    taught = task.field in experiment.taught(teacher)
    if whole_field(task, experiment.tasks):
        alone = experiment.only([task])
        part = alone.slice_teacher(teacher) if taught else None
        return alone, part, ClassifierLearner(net, student.soft, fields=alone.losses(part))
    fields = fields_of(experiment.tasks)
    own = columns(experiment.classes, task.columns)
    learner = AgainstRest(net, student.soft, own, fields[task.field], list(fields).index(task.field))
    return experiment, teacher if taught else None, learner


def _scale(
    experiment: Experiment, tasks: Sequence[TaskSpec], parts: Sequence[AgainstRest | ClassifierLearner]
) -> Tensor:  # → (C,)
    """Return what each logit is multiplied by: tasks that share a field are calibrated, so as to stand side by side."""
    data, scales = experiment.validation, []
    for task, part in zip(tasks, parts, strict=True):
        temperature = 1.0
        if isinstance(part, AgainstRest):
            logits = outputs_of(part, data, experiment.fabric.device)[:, 1:]
            labels = data.labels_of(task.field)
            known = labels >= 0
            own = label_columns(data.texts_of(task.field), task.columns)[known]
            temperature = float(fit_temperatures(logits[known], own, np.zeros(len(task.classes), np.int64))[0])
        scales += [1 / temperature] * len(task.classes)
    return torch.tensor(scales, dtype=torch.float32)
