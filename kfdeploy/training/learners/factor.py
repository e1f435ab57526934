"""The learner of a factorization: CKN, bank, heads and projectors, with the whole objective."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kfdeploy.errors import RecipeError
from kfdeploy.tasks.spec import fields_of
from kfdeploy.training.learners.fields import by_field, field_losses, summed
from kfdeploy.training.loop.learner import Learner, Taught, Term
from kfdeploy.training.loop.processes import gather, rank, world
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.nets.layers import pooled
from kfdeploy.training.objectives.information import bottleneck, infomax, infomax_reference, infomin_reference
from kfdeploy.training.recipe.sections import Objective


class FactorLearner(Learner):
    """CKN, bank, heads and the teacher's projectors, with the whole objective.

    L = λ_sup L_sup + λ_kt L_kt + λ_I [ Σ_j ( −log q(y_j|t_j) + β KL(p(t_j|x) ‖ N(0,I)) ) − α Î(X;Z) ]

    With `coupling = "joint"` L_sup and L_kt are one term each over all classes; with `"independent"` each is a sum over
    the tasks, of its own classes against "other" (its logits are then log-odds, see `against_other`). Of several fields
    of labels each term is the weighted sum of theirs; see `FieldLosses`.
    """

    def __init__(
        self, net: FactorNet, teacher: Sequence[int], config: Objective, seed: int, smoothing: float = 0.0,
        fields: nn.ModuleList | None = None,
    ) -> None:  # fmt: skip
        """`teacher` are the channels of its stages; `fields` the losses of each field, by default all coupled alike."""
        super().__init__()
        couplings = dict.fromkeys(fields_of(net.tasks), config.coupling)
        self.fields = fields or field_losses(net.tasks, couplings, {}, list(couplings))
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
            sup, kt, task = [], [], []
            for losses, own in by_field(self.fields, labels):
                sup.append(losses.weight * losses.sup(out.logits, own, self.smoothing))
                if losses.taught:
                    kt.append(losses.weight * losses.kt(out.logits, taught.logits, config.temperature))
                rows = out.task_logits if losses.alone else out.task_logits[:, losses.tasks]
                task.append(losses.weight * losses.information(rows, own))
            return {
                "sup": Term(config.lambda_sup, summed(sup, out.logits)),
                "kt": Term(config.lambda_kt, summed(kt, out.logits)),
                "task": Term(config.lambda_i, summed(task, out.logits)),
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
