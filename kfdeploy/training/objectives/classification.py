"""Supervision of classes, and each task's view of them against "other"."""

import torch
import torch.nn.functional as F
from torch import Tensor


def other_targets(labels: Tensor, owner: Tensor, local: Tensor, tasks: int) -> Tensor:  # (N,), (C,), (C,) → (N, K)
    """Return each task's view of the labels: its own class's column, or 0 for "other"."""
    mine = owner[labels].unsqueeze(1) == torch.arange(tasks, device=labels.device)  # (N, K)
    return torch.where(mine, local[labels].unsqueeze(1), 0)


def task_information(task_logits: Tensor, targets: Tensor) -> Tensor:  # (N, K, c), (N, K) → ()
    """Return Σ_j −log q(y_j | t_j), averaged over the batch: the variational bound on −I(T_j; Y_j) (Eq. 7, term 1)."""
    N, K, c = task_logits.shape
    each = F.cross_entropy(task_logits.float().reshape(N * K, c), targets.reshape(N * K), reduction="none")
    return each.view(N, K).sum(1).mean()


def against_other(logits: Tensor, owner: Tensor, local: Tensor, tasks: int) -> Tensor:  # (N, C) → (N, K, 1 + c)
    """Return each task's own logits after a column 0 for "other", which is zero; −inf beyond a task's classes.

    A task's C_j outputs are then log-odds against "other": a softmax has one logit too many, and this is the one left
    out. Log-odds of several tasks can stand side by side: given that the answer is one of their classes, the softmax
    over them all is its distribution.
    """
    rows = logits.new_full((len(logits), tasks, 1 + int(local.max())), -torch.inf)
    rows[:, :, 0] = 0
    rows[:, owner, local] = logits
    return rows


def rest_as_other(teacher: Tensor, owner: Tensor, local: Tensor, tasks: int) -> Tensor:  # (N, C) → (N, K, 1 + c)
    """Return a teacher's logits as each task sees them: its own classes, and in column 0 all the others' mass."""
    rows = against_other(teacher, owner, local, tasks)
    own = owner == torch.arange(tasks, device=owner.device).unsqueeze(1)  # (K, C)
    rows[:, :, 0] = teacher.unsqueeze(1).masked_fill(own, -torch.inf).logsumexp(2)
    return rows
