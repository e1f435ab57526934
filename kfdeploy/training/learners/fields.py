"""Supervision and soft targets of one field of labels, among the columns of all."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy.tasks.spec import CLASS, TaskSpec, fields_of, whole_field
from kfdeploy.training.loop.processes import total, world
from kfdeploy.training.objectives.classification import against_other, rest_as_other, task_information
from kfdeploy.training.transfer.logits import soft_targets, soft_targets_each

Coupling = Literal["joint", "independent"]


class FieldLosses(nn.Module):
    """The losses of one field: of its tasks' columns among all C, on the images whose label is known.

    With `coupling = "joint"` its tasks share one softmax; with `"independent"` each is its own classes against "other".
    A task that has its field to itself has no other, and is coupled with nothing. A mean is over the known labels of
    all processes together, and 0 where there are none.
    """

    columns: Tensor
    place: Tensor
    owner: Tensor
    local: Tensor

    def __init__(
        self, tasks: Sequence[TaskSpec], field: str, coupling: Coupling = "joint", weight: float = 1.0,
        *, taught: bool = True,
    ) -> None:  # fmt: skip
        """`tasks` are all; `taught` says whether the teacher knows the field."""
        super().__init__()
        own = [i for i, task in enumerate(tasks) if task.field == field]
        sizes = torch.tensor([len(tasks[i].classes) for i in own])
        self.field, self.weight, self.taught, self.tasks = field, weight, taught, own
        self.alone = fields_of(tasks).keys() == {CLASS}  # nothing else is known of an image, and that always
        self.whole = whole_field(tasks[own[0]], tasks)
        self.independent = coupling == "independent" and not self.whole
        columns = torch.tensor(fields_of(tasks)[field])
        place = torch.full((sum(len(task.classes) for task in tasks) + 1,), -1)
        place[columns] = torch.arange(len(columns))  # the last one is what −1, unknown, leads to
        for name, value in (
            ("columns", columns),
            ("place", place),
            ("owner", torch.repeat_interleave(torch.arange(len(own)), sizes)),  # (c,) the task of each column
            ("local", torch.cat([torch.arange(int(n)) + 1 for n in sizes])),  # (c,) its column behind "other"
        ):
            self.register_buffer(name, value, persistent=False)

    def own(self, logits: Tensor) -> Tensor:  # (N, C) → (N, c)
        """Return the field's columns."""
        return logits if self.alone else logits.index_select(1, self.columns)

    def labels(self, labels: Tensor) -> Tensor:  # (N,) → (N,)
        """Return the column of each label among the field's own; −1 where it is unknown."""
        return labels if self.alone else self.place[labels]

    def targets(self, labels: Tensor) -> Tensor:  # (N,) → (N, K)
        """Return each of its tasks' view of the labels: its own class's column, or 0 for "other"; −1 for unknown."""
        column = self.labels(labels)
        mine = self.owner[column].unsqueeze(1) == torch.arange(len(self.tasks), device=column.device)
        found = torch.where(mine, self.local[column].unsqueeze(1), 0)
        return found if self.alone else found.masked_fill((column < 0).unsqueeze(1), -1)

    def sup(self, logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:  # (N, C), (N,) → ()
        """Return the cross-entropy of its labels, or the sum of its tasks' against "other"."""
        own = self.own(logits.float())
        if self.independent:
            rows = against_other(own, self.owner, self.local, len(self.tasks))
            return self.information(rows, labels)
        if self.alone:
            return F.cross_entropy(own, labels, label_smoothing=smoothing)
        column = self.labels(labels)
        found = F.cross_entropy(own, column, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
        return found / _count(column >= 0)

    def information(self, rows: Tensor, labels: Tensor) -> Tensor:  # (N, K, c), (N,) → ()
        """Return Σ_j −log q(y_j | t_j) of its tasks' rows, "other" first: Eq. 7, term 1, over the known labels."""
        targets = self.targets(labels)
        return task_information(rows, targets) if self.alone else known_information(rows, targets)

    def kt(self, logits: Tensor, taught: Tensor, temperature: float) -> Tensor:  # (N, C), (N, C) → ()
        """Return T² KL(teacher ‖ student) of its columns, or the sum of its tasks' against "other"."""
        own, theirs = self.own(logits), self.own(taught)
        if not self.independent:
            return soft_targets(own, theirs, temperature)
        columns = self.owner, self.local, len(self.tasks)
        rows = against_other(own.float(), *columns)
        return soft_targets_each(rows, rest_as_other(theirs / temperature, *columns), temperature)


def field_losses(
    tasks: Sequence[TaskSpec], couplings: Mapping[str, Coupling], weights: Mapping[str, float], taught: Sequence[str]
) -> nn.ModuleList:
    """Return the losses of each field of the tasks, in the order of the labels' columns.

    A field that `couplings` or `weights` leave out is joint, of weight 1; the teacher knows those in `taught`.
    """
    return nn.ModuleList(
        FieldLosses(tasks, field, couplings.get(field, "joint"), weights.get(field, 1.0), taught=field in taught)
        for field in fields_of(tasks)
    )


def by_field(fields: nn.ModuleList, labels: Tensor) -> Iterator[tuple[FieldLosses, Tensor]]:
    """Give each field's losses with its labels (N,), from (N,) of the only one or (N, F) of them all."""
    each = (labels,) if labels.ndim == 1 else labels.unbind(1)
    return zip(cast(Iterable[FieldLosses], fields), each, strict=True)


def summed(terms: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the sum of fields' losses; of none it is 0."""
    if len(terms) == 1:
        return terms[0]
    return torch.stack(list(terms)).sum() if terms else like.new_zeros(())


def known_information(rows: Tensor, targets: Tensor) -> Tensor:  # (N, K, c), (N, K) → ()
    """Return Σ_j −log q(y_j | t_j) as `task_information` does, over the images whose targets are known, not −1."""
    found = F.cross_entropy(rows.float().flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")
    return found / _count(targets[:, 0] >= 0)


def _count(known: Tensor) -> Tensor:
    """Return by what a sum over known labels is divided, so that the processes' mean is that of all their images."""
    own = known.sum().float()
    return (own if world() == 1 else total(own) / world()).clamp(min=1.0)
