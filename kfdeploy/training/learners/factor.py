"""The learner of a factorization: CKN, bank, heads and projectors, with the whole objective."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy.errors import RecipeError
from kfdeploy.training.loop.learner import Learner, Taught, Term
from kfdeploy.training.loop.processes import gather, rank, world
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.nets.layers import pooled
from kfdeploy.training.objectives.classification import against_other, other_targets, rest_as_other, task_information
from kfdeploy.training.objectives.information import bottleneck, infomax, infomax_reference, infomin_reference
from kfdeploy.training.recipe.sections import Objective
from kfdeploy.training.transfer.logits import soft_targets, soft_targets_each


class FactorLearner(Learner):
    """CKN, bank, heads and the teacher's projectors, with the whole objective.

    L = λ_sup L_sup + λ_kt L_kt + λ_I [ Σ_j ( −log q(y_j|t_j) + β KL(p(t_j|x) ‖ N(0,I)) ) − α Î(X;Z) ]

    With `coupling = "joint"` L_sup and L_kt are one term each over all classes; with `"independent"` each is a sum over
    the tasks, of its own classes against "other" (its logits are then log-odds, see `against_other`).
    """

    def __init__(
        self, net: FactorNet, teacher: Sequence[int], config: Objective, seed: int, smoothing: float = 0.0
    ) -> None:
        """`teacher` are the channels of its stages."""
        super().__init__()
        self.net, self.config, self.seed, self.smoothing = net, config, seed, smoothing
        levels = min(len(teacher), len(net.ckn.channels))
        if not teacher and config.lambda_i * config.alpha:
            raise RecipeError(
                "the information term of teacher and CKN needs the teacher's features, and an ONNX file gives logits "
                "alone",
                hint="--set objective.alpha=0 leaves it out",
            )
        if config.infomax_levels > levels:
            raise RecipeError(
                f"objective.infomax_levels is {config.infomax_levels}, and teacher and CKN have {levels} "
                "stages in common",
                hint=f"set it to at most {levels}",
            )
        self.levels = config.infomax_levels or levels
        # FFN of Eq. 9: the teacher's pooled features to the CKN's width.
        self.projectors = nn.ModuleList(
            nn.Sequential(nn.Linear(t, c), nn.BatchNorm1d(c), nn.ReLU(), nn.Linear(c, c))
            for t, c in zip(_last(teacher, self.levels), _last(net.ckn.channels, self.levels), strict=True)
        )

    def forward(self, images: Tensor, labels: Tensor, taught: Taught | None, step: int) -> dict[str, Term]:
        """Return `sup`, `kt`, `task`, `bottleneck` and `infomax`; the last two in nats, the last to be maximised."""
        assert taught is not None
        config, reference = self.config, self.config.variant == "reference"
        noise = None
        # The published code's t is deterministic; and without the bottleneck its spread has nothing to hold it.
        if not reference and config.lambda_i * config.beta:
            generator = torch.Generator(images.device).manual_seed(self.seed * 1_000_003 + step)
            # Drawn for the whole batch: several processes then use the numbers that one would.
            whole = (world() * len(images), self.net.K, self.net.d)
            noise = torch.randn(whole, generator=generator, device=images.device)
            noise = noise[rank() * len(images) : (rank() + 1) * len(images)]
        out = self.net(images, noise)
        with torch.autocast(images.device.type, enabled=False):
            targets = other_targets(labels, self.net.owner, self.net.local, self.net.K)
            estimates = []
            for project, t, z in zip(
                self.projectors, _last(taught.pooled, self.levels), _last(out.stages, self.levels), strict=True
            ):
                pair = gather(pooled(z.float())), gather(project(t))  # (N, d_l) both
                estimates.append(
                    infomax_reference(*pair)
                    if reference
                    else infomax(*pair, bound=config.infomax, temperature=config.infomax_temperature)
                )
            narrow = infomin_reference(out.mu) if reference else bottleneck(out.mu, out.logvar)
            # The bottleneck is logged in nats whatever its reduction: a mean over d is the sum with β / d.
            beta = config.beta / (self.net.d if config.beta_reduction == "mean" and not reference else 1)
            if config.coupling == "joint":
                sup = F.cross_entropy(out.logits, labels, label_smoothing=self.smoothing)
                kt = soft_targets(out.logits, taught.logits, config.temperature)
            else:
                columns = self.net.owner, self.net.local, self.net.K
                own = against_other(out.logits, *columns)
                sup = task_information(own, targets)
                merged = rest_as_other(taught.logits / config.temperature, *columns)
                kt = soft_targets_each(own, merged, config.temperature)
            return {
                "sup": Term(config.lambda_sup, sup),
                "kt": Term(config.lambda_kt, kt),
                "task": Term(config.lambda_i, task_information(out.task_logits, targets)),
                "bottleneck": Term(config.lambda_i * beta, narrow),
                "infomax": Term(-config.lambda_i * config.alpha, _mean(estimates, out.logits)),
            }

    def evaluate(self, images: Tensor) -> Tensor:
        """Return logits (N, C), t at its mean."""
        logits: Tensor = self.net(images).logits
        return logits


def _last(values: Sequence[Any], count: int) -> Sequence[Any]:
    return values[len(values) - count :]


def _mean(estimates: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the mean of the stages' estimates; of no stages nothing is known, which is zero nats."""
    return torch.stack(list(estimates)).mean() if estimates else like.new_zeros(())
