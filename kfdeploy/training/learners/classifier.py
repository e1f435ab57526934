"""Learners of one network: a classifier, and one task against the rest."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy.training.loop.learner import Learner, Taught, Term
from kfdeploy.training.objectives.classification import against_other, task_information
from kfdeploy.training.recipe.sections import SoftTargets
from kfdeploy.training.transfer.logits import soft_targets, soft_targets_each


class ClassifierLearner(Learner):
    """Cross-entropy, and soft targets where there is a teacher: (1 − w) CE + w T² KL (Hinton et al. 2015)."""

    def __init__(self, net: nn.Module, soft: SoftTargets | None = None, smoothing: float = 0.0) -> None:
        super().__init__()
        self.net = net
        self.soft, self.smoothing = soft or SoftTargets(), smoothing

    def forward(self, images: Tensor, labels: Tensor, taught: Taught | None, step: int) -> dict[str, Term]:
        """Return `sup`, and `kt` where there is a teacher."""
        logits = self.net(images)[0]
        with torch.autocast(images.device.type, enabled=False):
            sup = F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)
            if taught is None:
                return {"sup": Term(1.0, sup)}
            kt = soft_targets(logits, taught.logits, self.soft.temperature)
        return {"sup": Term(1 - self.soft.weight, sup), "kt": Term(self.soft.weight, kt)}

    def evaluate(self, images: Tensor) -> Tensor:
        """Return logits (N, C)."""
        logits: Tensor = self.net(images)[0]
        return logits


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
            rows = against_other(logits.float(), torch.zeros_like(local), local + 1, 1)  # (N, 1, 1 + c)
            hit = labels[:, None] == self.own
            targets = torch.where(hit.any(1), hit.int().argmax(1) + 1, 0)[:, None]
            sup = task_information(rows, targets)
            if taught is None:
                return {"sup": Term(1.0, sup)}
            cold = taught.logits / self.soft.temperature
            merged = torch.cat([cold[:, self.rest].logsumexp(1, keepdim=True), cold[:, self.own]], 1)[:, None]
            kt = soft_targets_each(rows, merged, self.soft.temperature)
        return {"sup": Term(1 - self.soft.weight, sup), "kt": Term(self.soft.weight, kt)}

    def evaluate(self, images: Tensor) -> Tensor:
        """Return log-odds against "other", which is column 0 and zero (N, 1 + c)."""
        logits: Tensor = self.net(images)[0]
        return nn.functional.pad(logits, (1, 0))

    def answers(self, labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return each label's own column, or 0."""
        own = self.own.tolist()
        return np.array([own.index(label) + 1 if label in own else 0 for label in labels])
