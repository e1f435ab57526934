"""Supervision and knowledge transfer."""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:  # (N, C), (N, C) → ()
    """Return T² KL(teacher_T ‖ student_T), averaged over the batch (Hinton et al. 2015)."""
    return temperature**2 * F.kl_div(
        F.log_softmax(student.float() / temperature, dim=1),
        F.log_softmax(teacher.float() / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )


def other_targets(labels: Tensor, owner: Tensor, local: Tensor, tasks: int) -> Tensor:  # (N,), (C,), (C,) → (N, K)
    """Return each task's view of the labels: its own class's column, or 0 for "other"."""
    mine = owner[labels].unsqueeze(1) == torch.arange(tasks, device=labels.device)  # (N, K)
    return torch.where(mine, local[labels].unsqueeze(1), 0)


def task_information(task_logits: Tensor, targets: Tensor) -> Tensor:  # (N, K, c), (N, K) → ()
    """Return Σ_j −log q(y_j | t_j), averaged over the batch: the variational bound on −I(T_j; Y_j) (Eq. 7, term 1)."""
    N, K, c = task_logits.shape
    each = F.cross_entropy(task_logits.float().reshape(N * K, c), targets.reshape(N * K), reduction="none")
    return each.view(N, K).sum(1).mean()
