"""Transfer by the teacher's outputs: soft targets."""

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


def soft_targets_each(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:  # (N, K, c), (N, K, c) → ()
    """Return Σ_j T² KL(teacher_T ‖ student_T), averaged over the batch; a column that is −inf in both counts nothing.

    Both are logits as `against_other` and `rest_as_other` give them, the teacher's already divided by T before its
    classes were merged (a mass at temperature T is not a logit over T).
    """
    p = F.log_softmax(teacher.float(), dim=2)
    q = F.log_softmax(student.float() / temperature, dim=2)
    each = (p.exp() * (p - q)).masked_fill(torch.isneginf(p), 0.0)
    return temperature**2 * each.sum((1, 2)).mean()
