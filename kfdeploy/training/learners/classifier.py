"""Learners of one network: a classifier, and one task against the rest."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy.data.imageset import ImageSet
from kfdeploy.training.learners.fields import by_field, known_information, summed
from kfdeploy.training.loop.learner import Learner, Taught, Term
from kfdeploy.training.objectives.classification import against_other
from kfdeploy.training.recipe.sections import SoftTargets
from kfdeploy.training.transfer.logits import soft_targets, soft_targets_each


class ClassifierLearner(Learner):
    """Cross-entropy, and soft targets where there is a teacher: (1 − w) CE + w T² KL (Hinton et al. 2015).

    Of several fields of labels it is the weighted sum of theirs; those that the teacher lacks have their labels alone.
    """

    def __init__(
        self, net: nn.Module, soft: SoftTargets | None = None, smoothing: float = 0.0,
        fields: nn.ModuleList | None = None,
    ) -> None:  # fmt: skip
        """`fields` are the losses of each field; none: the class is all that is known of an image."""
        super().__init__()
        self.net, self.fields = net, fields
        self.soft, self.smoothing = soft or SoftTargets(), smoothing

    def forward(self, images: Tensor, labels: Tensor, taught: Taught | None, step: int) -> dict[str, Term]:
        """Return `sup`, and `kt` where there is a teacher."""
        logits = self.net(images)[0]
        if self.fields is not None:
            return self._of_fields(self.fields, logits, labels, taught)
        with torch.autocast(images.device.type, enabled=False):
            sup = F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)
            if taught is None:
                return {"sup": Term(1.0, sup)}
            kt = soft_targets(logits, taught.logits, self.soft.temperature)
        return {"sup": Term(1 - self.soft.weight, sup), "kt": Term(self.soft.weight, kt)}

    def _of_fields(
        self, fields: nn.ModuleList, logits: Tensor, labels: Tensor, taught: Taught | None
    ) -> dict[str, Term]:
        both: list[Tensor] = []
        alone: list[Tensor] = []  # of fields that no teacher speaks of
        kt: list[Tensor] = []
        with torch.autocast(logits.device.type, enabled=False):
            for losses, own in by_field(fields, labels):
                asked = taught is not None and losses.taught
                sup = losses.weight * losses.sup(logits.float(), own, self.smoothing)
                (both if asked else alone).append(sup)
                if taught is not None and asked:
                    kt.append(losses.weight * losses.kt(logits.float(), taught.logits, self.soft.temperature))
            terms = {"sup": Term(1 - self.soft.weight, summed(both, logits))} if both else {}
            terms |= {"labels" if both else "sup": Term(1.0, summed(alone, logits))} if alone else {}
            return terms | ({"kt": Term(self.soft.weight, summed(kt, logits))} if kt else {})

    def evaluate(self, images: Tensor) -> Tensor:
        """Return logits (N, C)."""
        logits: Tensor = self.net(images)[0]
        return logits


class AgainstRest(Learner):
    """One task's classes (columns `own` of the labels and of the teacher's logits) against all the others as "other".

    (1 − w) CE + w T² KL, as `ClassifierLearner` has them; the teacher's mass on all other classes is merged. Of several
    fields of labels the others are those of its own field, which has the `place`-th column of the labels.
    """

    own: Tensor
    rest: Tensor

    def __init__(
        self, net: nn.Module, soft: SoftTargets, own: Sequence[int], field: int | Sequence[int], place: int = 0
    ) -> None:
        """`field` are the columns of its field, or how many there are in all."""
        super().__init__()
        self.net, self.soft, self.place = net, soft, place
        among = range(field) if isinstance(field, int) else field
        rest = [column for column in among if column not in own]
        for name, value in (("own", torch.as_tensor(list(own))), ("rest", torch.tensor(rest, dtype=torch.int64))):
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor, labels: Tensor, taught: Taught | None, step: int) -> dict[str, Term]:
        """Return `sup`, and `kt` where there is a teacher."""
        logits = self.net(images)[0]
        with torch.autocast(images.device.type, enabled=False):
            local = torch.arange(len(self.own), device=logits.device)
            rows = against_other(logits.float(), torch.zeros_like(local), local + 1, 1)  # (N, 1, 1 + c)
            labels = labels if labels.ndim == 1 else labels[:, self.place]
            hit = labels[:, None] == self.own
            targets = torch.where(hit.any(1), hit.int().argmax(1) + 1, 0).masked_fill(labels < 0, -1)[:, None]
            sup = known_information(rows, targets)
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

    def right(self, logits: np.ndarray[Any, Any], data: ImageSet) -> dict[str, tuple[int, int]]:
        """Return how many images have their own class, or "other" where it is of another task; and of how many."""
        own = self.own.tolist()
        (field,) = {data.field_of(label) for label in own}
        labels = data.labels_of(field)
        answers = np.array([own.index(label) + 1 if label in own else 0 for label in labels])
        known = labels >= 0
        return {field: (int((logits.argmax(1) == answers)[known].sum()), int(known.sum()))}
