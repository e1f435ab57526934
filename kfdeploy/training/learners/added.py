"""One task beside frozen ones: what is trained when a pool grows.

What is frozen is the pool's own graphs, run by ONNX Runtime, so that no training state is needed: neither the teacher's
(with it at hand it is used, without it labels are enough) nor the pool's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy.graph.reference import Runner
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.spec import joined, outputs_of
from kfdeploy.training.loop.learner import Learner, Taught, Term
from kfdeploy.training.loop.processes import rank, world
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.objectives.classification import against_other, task_information
from kfdeploy.training.objectives.information import bottleneck
from kfdeploy.training.recipe.sections import Objective
from kfdeploy.training.transfer.logits import soft_targets, soft_targets_each

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Frozen:
    """The pool as it is: uint8 images (N, H, W, C) → z (N, d, 1, 1), what tasks read, and all logits (N, C)."""

    def __init__(self, pool: Pool, threads: int) -> None:
        graph, _ = pool.fused(pool.tasks)
        common, _ = pool.graphs()
        self.tasks, self.names = pool.tasks, [f"common/{output.name}" for output in common.graph.output]
        self.run = Runner(graph, [*outputs_of(pool.tasks), *self.names], threads=threads, accelerate=True)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Frozen":
        """Return itself, as nothing in it changes: a session of ONNX Runtime cannot be copied."""
        return self

    def __call__(self, images: np.ndarray[Any, Any]) -> tuple[Floats, Floats, Floats]:
        """Return z, tap and logits."""
        found = self.run(images)
        z, tap = (found[name] for name in self.names)
        return z, tap, joined(found, self.tasks)


class AddedTask(Learner):
    """The objective of one task beside frozen ones: see `FactorLearner`, without InfoMax, as the CKN does not move.

    With `coupling = "joint"` L_sup and L_kt are over the frozen tasks' logits (columns `kept`) and its own.
    """

    def __init__(self, net: FactorNet, frozen: Frozen, kept: Sequence[int], config: Objective, seed: int) -> None:
        super().__init__()
        # The CKN is in the frozen graphs; this one's was needed for its widths alone.
        net.ckn, net.normalise = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        self.net, self.config, self.seed = net, config, seed
        self.frozen, self.kept = frozen, list(kept)

    def parts(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return z (N, d), what the task reads, and the frozen logits (N, kept)."""
        z, tap, logits = self.frozen(images.cpu().numpy())
        found = (z[:, :, 0, 0], tap, logits[:, self.kept])
        z_, tap_, logits_ = (torch.from_numpy(array).to(images.device) for array in found)
        return z_, tap_.contiguous(memory_format=torch.channels_last), logits_

    def forward(self, images: Tensor, labels: Tensor, taught: Taught | None, step: int) -> dict[str, Term]:
        """Return `sup`, `kt` where there is a teacher, `task` and `bottleneck` (in nats)."""
        config, old = self.config, len(self.kept)
        z, tap, logits = self.parts(images)
        noise = None
        if config.variant != "reference" and config.lambda_i * config.beta:  # see FactorLearner
            generator = torch.Generator(images.device).manual_seed(self.seed * 1_000_003 + step)
            noise = torch.randn((world() * len(images), 1, self.net.d), generator=generator, device=images.device)
            noise = noise[rank() * len(images) : (rank() + 1) * len(images)]
        out = self.net.answer((), z, self.net.read(tap), noise)
        with torch.autocast(images.device.type, enabled=False):
            whole = torch.cat([logits, out.logits], 1)  # (N, kept + c)
            targets = torch.where(labels >= old, labels - old + 1, 0)[:, None]  # (N, 1), 0: "other"
            terms: dict[str, Term] = {}
            if config.coupling == "joint":
                terms["sup"] = Term(config.lambda_sup, F.cross_entropy(whole, labels))
                if taught is not None:
                    terms["kt"] = Term(config.lambda_kt, soft_targets(whole, taught.logits, config.temperature))
            else:
                own = against_other(out.logits, self.net.owner, self.net.local, 1)
                terms["sup"] = Term(config.lambda_sup, task_information(own, targets))
                if taught is not None:
                    cold = taught.logits / config.temperature
                    merged = torch.cat([cold[:, :old].logsumexp(1, keepdim=True), cold[:, old:]], 1)[:, None]
                    terms["kt"] = Term(config.lambda_kt, soft_targets_each(own, merged, config.temperature))
            beta = config.beta / (self.net.d if config.beta_reduction == "mean" else 1)
            terms["task"] = Term(config.lambda_i, task_information(out.task_logits, targets))
            terms["bottleneck"] = Term(config.lambda_i * beta, bottleneck(out.mu, out.logvar))
        return terms

    def own(self, images: Tensor) -> Tensor:
        """Return the task's own logits (N, c), t at its mean."""
        z, tap, _ = self.parts(images)
        logits: Tensor = self.net.answer((), z, self.net.read(tap)).logits
        return logits

    def evaluate(self, images: Tensor) -> Tensor:
        """Return the logits of the frozen tasks and its own (N, kept + c)."""
        z, tap, logits = self.parts(images)
        return torch.cat([logits, self.net.answer((), z, self.net.read(tap)).logits.float()], 1)
