"""The information terms of Yang et al. (ECCV 2022), and the published code's versions of them for comparison."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def infomax(
    a: Tensor, b: Tensor, *, bound: Literal["dv", "infonce"] = "dv", temperature: float = 0.1
) -> Tensor:  # (N, d), (N, d) → ()
    """Return a lower bound on the mutual information of paired vectors, in nats; larger is better.

    The critic is cos(a_i, b_j) / temperature. `dv` is Donsker–Varadhan (Eq. 9): the mean over the pairs minus the
    log-mean-exp over all i ≠ j. `infonce` (van den Oord et al. 2018) is bounded by log N.

    Raises:
        ValueError: fewer than two pairs.
    """
    N = len(a)
    if N < 2:
        raise ValueError("mutual information needs at least two pairs")
    scores = F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T / temperature  # (N, N)
    if bound == "infonce":
        return math.log(N) - F.cross_entropy(scores, torch.arange(N, device=scores.device))
    apart = ~torch.eye(N, dtype=torch.bool, device=scores.device)
    return scores.diagonal().mean() - (scores[apart].logsumexp(0) - math.log(N * (N - 1)))


def bottleneck(mu: Tensor, logvar: Tensor) -> Tensor:  # (N, K, d), (N, K, d) → ()
    """Return Σ_j KL( N(μ_j, diag σ_j²) ‖ N(0, I) ), averaged over the batch (Eq. 11, with its sign and σ² mended).

    It is an upper bound on Σ_j I(X; T_j), in nats.
    """
    mu, logvar = mu.float(), logvar.float()
    divergence = 0.5 * (mu.square() + logvar.exp() - logvar - 1)  # (N, K, d)
    return divergence.sum(-1).sum(-1).mean()


def infomax_reference(a: Tensor, b: Tensor) -> Tensor:  # (N, d), (N, d) → ()
    """Return the published code's estimate, for reproduction only: it rewards collapse.

    It averages s ∘ I and exp(s ∘ (1 − I)) over all N² entries, the masked ones included, so that an antiparallel
    collapse of all vectors scores higher than perfect alignment.
    """
    scores = F.normalize(a.float(), dim=1, eps=1e-10) @ F.normalize(b.float(), dim=1, eps=1e-10).T
    same = torch.eye(len(a), device=scores.device)
    return (scores * same).mean() - (scores * (1 - same)).exp().mean().log()


def infomin_reference(t: Tensor) -> Tensor:  # (N, K, d) → ()
    """Return the published code's bottleneck, for reproduction only: statistics of the batch, not of a sample.

    Σ_j KL( N(mean_batch t_j, diag var_batch t_j) ‖ N(0, I) ), averaged over the d dimensions.
    """
    mu, var = t.float().mean(0), t.float().var(0)
    return (-0.5 * (1 + var.log() - mu.square() - var)).mean(-1).sum()
