"""Separate students: one network a task, each against all other classes, side by side in one graph.

It is what is done where every task is a model of its own. Each network's outputs are log-odds against "other" (see
`objectives.against_other`), and each is calibrated, so that side by side they are one answer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kfdeploy import objectives
from kfdeploy.experiment import Experiment, write_classifier
from kfdeploy.nets import Classifier, describe
from kfdeploy.nets.teacher import Teacher
from kfdeploy.plan import calibrate
from kfdeploy.progress import is_main
from kfdeploy.replay import Taught
from kfdeploy.sections import SoftTargets, Student
from kfdeploy.spec import TaskSpec, class_names, columns
from kfdeploy.train import Fitted, Learner, Term, logits_of


class AgainstRest(Learner):
    """One task's classes (columns `own` of the labels and of the teacher's logits) against all the others as "other".

    (1 − w) CE + w T² KL, as `ClassifierLearner` has them; the teacher's mass on all other classes is merged.
    """

    own: Tensor
    rest: Tensor

    def __init__(self, net: nn.Module, soft: SoftTargets, own: Sequence[int], classes: int) -> None:
        super().__init__()
        self.net, self.soft = net, soft
        chosen = torch.as_tensor(list(own))
        rest = torch.ones(classes, dtype=torch.bool)
        rest[chosen] = False
        for name, value in (("own", chosen), ("rest", rest)):
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, labels: Tensor, taught: Taught | None, step: int) -> dict[str, Term]:
        """Return `sup`, and `kt` where there is a teacher."""
        logits = self.net(images)[0]
        with torch.autocast(images.device.type, enabled=False):
            local = torch.arange(len(self.own), device=logits.device)
            rows = objectives.against_other(logits.float(), torch.zeros_like(local), local + 1, 1)  # (N, 1, 1 + c)
            hit = labels[:, None] == self.own
            targets = torch.where(hit.any(1), hit.int().argmax(1) + 1, 0)[:, None]
            sup = objectives.task_information(rows, targets)
            if taught is None:
                return {"sup": Term(1.0, sup)}
            cold = taught.logits / self.soft.temperature
            merged = torch.cat([cold[:, self.rest].logsumexp(1, keepdim=True), cold[:, self.own]], 1)[:, None]
            kt = objectives.soft_targets_each(rows, merged, self.soft.temperature)
        return {"sup": Term(1 - self.soft.weight, sup), "kt": Term(self.soft.weight, kt)}

    def evaluate(self, images: Tensor) -> Tensor:
        """Return log-odds against "other", which is column 0 and zero (N, 1 + c)."""
        logits: Tensor = self.net(images)[0]
        return nn.functional.pad(logits, (1, 0))

    def answers(self, labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return each label's own column, or 0."""
        own = self.own.tolist()
        return np.array([own.index(label) + 1 if label in own else 0 for label in labels])


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
    classes = class_names(tuple(tasks))
    owner = torch.repeat_interleave(torch.arange(len(tasks)), torch.tensor([len(task.classes) for task in tasks]))
    labels = torch.tensor([{c: i for i, c in enumerate(classes)}.get(c, -1) for c in experiment.classes])
    data = experiment.validation
    logits = torch.cat([torch.from_numpy(logits_of(p, data, experiment.fabric.device))[:, 1:] for p in parts], 1)
    temperatures = torch.from_numpy(calibrate(logits.numpy(), labels[data.labels].numpy(), owner.numpy()))
    whole = SideBySide([part.net for part in parts], (1 / temperatures)[owner].float())
    fields = {
        "teacher": about,
        "net": f"{len(parts)} × {describe(student.net)}",
        "training": experiment.training(recipe.train, fitted) | {"models": len(parts)},
        "recipe": recipe.model_copy(update={"students": [student]}).model_dump(),
    }
    write_classifier(work, whole, "student", name, experiment.only(tasks), fields)
    return fitted
