"""The factor network: common-knowledge network, bank of task-specific networks, and heads (Yang et al., ECCV 2022)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kfdeploy.errors import RecipeError
from kfdeploy.tasks.spec import ImageSpec, TaskSpec, class_names, whole_field
from kfdeploy.training.nets.build import build
from kfdeploy.training.nets.classifier import Normalise
from kfdeploy.training.nets.layers import pooled
from kfdeploy.training.recipe import sections
from kfdeploy.training.recipe.nets import Net


@dataclass
class Factors:
    """What one forward pass gives; K tasks, C classes in all, d the width of z."""

    logits: Tensor  # (N, C) H_j(z + t_j), tasks one after another
    stages: tuple[Tensor, ...]  # the CKN's features
    mu: Tensor  # (N, K, d) mean of the posterior of t
    logvar: Tensor  # (N, K, d) its log variance, within [−10, 10]
    t: Tensor  # (N, K, d) a sample of it in training, its mean otherwise
    task_logits: Tensor  # (N, K, 1 + largest c) H'_j(t_j): "other", then the task's classes; −inf where there is none


class FactorNet(nn.Module):
    """CKN z = S_C(x), TSNs u_j = E_j(tap) as one bank, t_j ~ N(A_j u_j, diag σ_j²(u_j)), heads H_j and H'_j.

    Raises:
        RecipeError: the CKN has no such stage to tap.
    """

    owner: Tensor
    local: Tensor
    beyond: Tensor

    def __init__(self, ckn: Net, tsn: sections.Tsn, image: ImageSpec, tasks: Sequence[TaskSpec]) -> None:
        super().__init__()
        K = len(tasks)
        self.normalise = Normalise(image)
        self.ckn = build(ckn, image.channels)
        self.tap = -1 if tsn.tap == "image" else int(tsn.tap.removeprefix("stage")) - 1
        if self.tap >= len(self.ckn.channels):
            raise RecipeError(
                f"tsn.tap is '{tsn.tap}', and the CKN has {len(self.ckn.channels)} stages",
                allowed=("image", *(f"stage{i + 1}" for i in range(len(self.ckn.channels)))),
            )
        self.tap_channels = image.channels if self.tap < 0 else self.ckn.channels[self.tap]
        self.bank = build(tsn.net, self.tap_channels, tasks=K)
        d, D = self.ckn.channels[-1], self.bank.channels[-1]
        self.tasks, self.K, self.d, self.D = tuple(tasks), K, d, D

        # A_j and the map to log σ_j², as one batched matrix (K, D, d). The head's weights have a variance of 1/3d, so
        # with 3/D the product W_j A_j begins with 1/D, as a linear layer on u of its own: with the third of that which
        # nn.Linear would give A_j, the tasks' networks learn late, and are 1.6 points less accurate (front100.json).
        self.project = nn.Parameter(torch.empty(K, D, d).normal_(0, (3 / D) ** 0.5))
        self.spread = nn.Parameter(torch.zeros(K, D, d))
        self.spread_bias = nn.Parameter(torch.full((K, d), -5.0))  # training starts nearly deterministic

        sizes = torch.tensor([len(task.classes) for task in tasks])
        C = len(class_names(tasks))
        self.head = nn.Linear(d, C)
        self.task_head = nn.Parameter(torch.empty(K, d, 1 + int(sizes.max())).uniform_(-(d**-0.5), d**-0.5))
        self.task_head_bias = nn.Parameter(torch.zeros(K, 1 + int(sizes.max())))
        beyond = torch.arange(1 + int(sizes.max())) > sizes[:, None]  # (K, 1 + largest c)
        beyond[:, 0] = torch.tensor([whole_field(task, tasks) for task in tasks])  # there is no "other"
        self.register_buffer("beyond", beyond, persistent=False)
        self.register_buffer("owner", torch.repeat_interleave(torch.arange(K), sizes), persistent=False)  # (C,)
        local = torch.cat([torch.arange(int(n)) + 1 for n in sizes])
        self.register_buffer("local", local, persistent=False)  # (C,) column of each class in its H'_j

    def features(self, x: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the CKN's stages and u (N, K, D), from normalised images (N, C, H, W)."""
        stages = self.ckn(x)
        return stages, self.read(x if self.tap < 0 else stages[self.tap])

    def read(self, tap: Tensor) -> Tensor:
        """Return u (N, K, D) from what the tasks read, (N, c, h, w)."""
        return pooled(self.bank(tap)[-1]).view(len(tap), self.K, self.D)

    def forward(self, image: Tensor, noise: Tensor | None = None) -> Factors:
        """Return everything the objective needs, from uint8 (N, H, W, C).

        `noise` (N, K, d) is the standard normal ε of t = μ + σ ε; without it t is the mean.
        """
        stages, u = self.features(self.normalise(image))
        return self.answer(stages, pooled(stages[-1].float()), u, noise)

    def answer(self, stages: tuple[Tensor, ...], z: Tensor, u: Tensor, noise: Tensor | None = None) -> Factors:
        """Return everything the objective needs, from z (N, d) and u (N, K, D)."""
        # Autocast would run the heads in bfloat16; they are small, and the information terms need float32.
        with torch.autocast(z.device.type, enabled=False):
            u, z = u.float(), z.float()
            mu = torch.einsum("nkD,kDd->nkd", u, self.project)
            logvar = (torch.einsum("nkD,kDd->nkd", u, self.spread) + self.spread_bias).clamp(-10, 10)
            t = mu if noise is None else mu + (0.5 * logvar).exp() * noise
            joined = (z.unsqueeze(1) + t)[:, self.owner]  # (N, C, d): each class reads its own task's z + t_j
            logits = torch.einsum("ncd,cd->nc", joined, self.head.weight) + self.head.bias
            task_logits = torch.einsum("nkd,kdc->nkc", t, self.task_head) + self.task_head_bias
            return Factors(logits, stages, mu, logvar, t, task_logits.masked_fill(self.beyond, -torch.inf))

    @torch.no_grad()
    def folded_heads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return W (C, d), W_j A_j (C, D) and b (C,): logits_j = W_j z + (W_j A_j) u_j + b_j, in float64."""
        W = self.head.weight.double()
        A = self.project.double()  # (K, D, d)
        return W, torch.einsum("cd,cDd->cD", W, A[self.owner]), self.head.bias.double()
