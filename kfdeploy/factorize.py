"""Factorization: a recipe's teacher becomes a pool (Yang et al., ECCV 2022, Eq. 3 and 6–12)."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy import objectives
from kfdeploy.devices import gather, rank, world
from kfdeploy.errors import ComposeError, ParityError, RecipeError
from kfdeploy.experiment import (
    LIBRARIES,
    TEACHER,
    WEIGHTS,
    Experiment,
    same_recipe,
    save_state,
    sweep,
    unfinished,
    write_classifier,
)
from kfdeploy.files import (
    CHECKPOINTS,
    SCHEMA,
    TIMING,
    check_output,
    describe_files,
    dump_json,
    file_name,
    save_tensors,
)
from kfdeploy.nets import Normalise, build, describe
from kfdeploy.nets.factor import FactorNet
from kfdeploy.nets.layers import pooled
from kfdeploy.plan import calibrate
from kfdeploy.pool import MANIFEST, SHARED, Pool, versions
from kfdeploy.progress import Progress, is_main
from kfdeploy.recipe import Recipe
from kfdeploy.replay import Taught
from kfdeploy.sections import Objective, Timm
from kfdeploy.spec import ImageSpec, TaskSpec
from kfdeploy.train import Fitted, Learner, Term

if TYPE_CHECKING:
    from onnx import ModelProto


class FactorLearner(Learner):
    """CKN, bank, heads and the teacher's projectors, with the whole objective.

    L = L_sup + λ_kt L_kt + λ_I [ Σ_j ( −log q(y_j|t_j) + β KL(p(t_j|x) ‖ N(0,I)) ) − α Î(X;Z) ]

    With `coupling = "joint"` L_sup and L_kt are one term each over all classes; with `"independent"` each is a sum over
    the tasks, of its own classes against "other" (its logits are then log-odds, see `objectives.against_other`).
    """

    def __init__(
        self, net: FactorNet, teacher: Sequence[int], config: Objective, seed: int, smoothing: float = 0.0
    ) -> None:
        """`teacher` are the channels of its stages."""
        super().__init__()
        self.net, self.config, self.seed, self.smoothing = net, config, seed, smoothing
        levels = min(len(teacher), len(net.ckn.channels))
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
            for t, c in zip(teacher[-self.levels :], net.ckn.channels[-self.levels :], strict=True)
        )

    def forward(self, images: Tensor, labels: Tensor, taught: Taught | None, step: int) -> dict[str, Term]:
        """Return `sup`, `kt`, `task`, `bottleneck` and `infomax`; the last two in nats, the last to be maximised."""
        assert taught is not None
        config, reference = self.config, self.config.variant == "reference"
        noise = None
        if not reference:  # the published code's t is deterministic
            generator = torch.Generator(images.device).manual_seed(self.seed * 1_000_003 + step)
            # Drawn for the whole batch: several processes then use the numbers that one would.
            whole = (world() * len(images), self.net.K, self.net.d)
            noise = torch.randn(whole, generator=generator, device=images.device)
            noise = noise[rank() * len(images) : (rank() + 1) * len(images)]
        out = self.net(images, noise)
        with torch.autocast(images.device.type, enabled=False):
            targets = objectives.other_targets(labels, self.net.owner, self.net.local, self.net.K)
            estimates = []
            for project, t, z in zip(
                self.projectors, taught.pooled[-self.levels :], out.stages[-self.levels :], strict=True
            ):
                pair = gather(pooled(z.float())), gather(project(t))  # (N, d_l) both
                estimates.append(
                    objectives.infomax_reference(*pair)
                    if reference
                    else objectives.infomax(*pair, bound=config.infomax, temperature=config.infomax_temperature)
                )
            narrow = objectives.infomin_reference(out.mu) if reference else objectives.bottleneck(out.mu, out.logvar)
            # The bottleneck is logged in nats whatever its reduction: a mean over d is the sum with β / d.
            beta = config.beta / (self.net.d if config.beta_reduction == "mean" and not reference else 1)
            if config.coupling == "joint":
                sup = F.cross_entropy(out.logits, labels, label_smoothing=self.smoothing)
                kt = objectives.soft_targets(out.logits, taught.logits, config.temperature)
            else:
                columns = self.net.owner, self.net.local, self.net.K
                own = objectives.against_other(out.logits, *columns)
                sup = objectives.task_information(own, targets)
                merged = objectives.rest_as_other(taught.logits / config.temperature, *columns)
                kt = objectives.soft_targets_each(own, merged, config.temperature)
            return {
                "sup": Term(1.0, sup),
                "kt": Term(config.lambda_kt, kt),
                "task": Term(config.lambda_i, objectives.task_information(out.task_logits, targets)),
                "bottleneck": Term(config.lambda_i * beta, narrow),
                "infomax": Term(-config.lambda_i * config.alpha, torch.stack(estimates).mean()),
            }

    def evaluate(self, images: Tensor) -> Tensor:
        """Return logits (N, C), t at its mean."""
        logits: Tensor = self.net(images).logits
        return logits


class _Common(nn.Module):
    """image → z (N, d, 1, 1), tap."""

    def __init__(self, normalise: Normalise, ckn: nn.Module, tap: int) -> None:
        super().__init__()
        self.normalise, self.ckn, self.tap = normalise, ckn, tap

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.normalise(image)
        stages = self.ckn(x)
        return stages[-1].mean((2, 3), keepdim=True), x if self.tap < 0 else stages[self.tap]


class _Template(nn.Module):
    """tap → u (N, D, 1, 1)."""

    def __init__(self, tsn: nn.Module) -> None:
        super().__init__()
        self.tsn = tsn

    def forward(self, tap: Tensor) -> Tensor:
        u: Tensor = self.tsn(tap)[-1].mean((2, 3), keepdim=True)
        return u


def factorize(
    recipe: Recipe,
    out: str | Path = "pool",
    *,
    force: bool = False,
    resume: bool = False,
    report: Progress | None = None,
) -> Fitted:
    """Factorize the recipe's teacher into a pool at `out`.

    With `resume`, an interrupted run goes on from its checkpoint, a finished pool is checked and left.

    Raises:
        RecipeError, DataError, TeacherError, DeviceError: what was asked for does not fit.
        TrainingError: a term is not finite, or the checkpoint is of another recipe.
        Interrupted: Ctrl-C.
        OutputError: `out` is there and neither `force` nor `resume` is set.
    """
    out = Path(out)
    if resume and out.exists():
        pool = Pool.open(out)
        same_recipe(pool.manifest["recipe"], recipe, f"'{out}' was made with another recipe")
        pool.check()
        sweep(out)
        return Fitted()
    check_output(out, force=force)
    experiment = Experiment(recipe, report)
    # Made once before anything is trained, so that what does not fit is refused now and not after an hour.
    net = FactorNet(recipe.ckn, recipe.tsn, experiment.image, experiment.tasks)
    if isinstance(recipe.ckn, Timm):
        graphs_of(net.eval(), recipe, experiment.image)
    with unfinished(out, recipe, force=force, resume=resume) as work:
        teacher, about = experiment.teacher(work / TEACHER, resume=resume)
        experiment.seed()
        net = FactorNet(recipe.ckn, recipe.tsn, experiment.image, experiment.tasks)
        learner = FactorLearner(net, teacher.channels, recipe.objective, recipe.seed, recipe.train.label_smoothing)
        fitted = experiment.fit(learner, work / "train", "factors", recipe.train, teacher=teacher, resume=resume)
        if not is_main():
            return fitted
        try:  # a pool does not need it: it is there to be compared with
            write_classifier(work / TEACHER, teacher, "teacher", "teacher", experiment, {"teacher": about})
        except (ComposeError, ParityError) as error:
            experiment.report.note(f"the teacher is left out of benchmarks: {error}")
        write_pool(work, learner, experiment, about, fitted)
    return fitted


def write_pool(
    work: Path, learner: FactorLearner, experiment: Experiment, teacher: dict[str, Any], fitted: Fitted
) -> None:
    """Write a whole pool into `work` and prove it: every task assembled at once gives the torch network's logits."""
    from kfdeploy.calibrate import IMAGES, pool_ranges, sample, write_pool_ranges
    from kfdeploy.compose import Part, compose
    from kfdeploy.graphs import check_template
    from kfdeploy.model import golden_difference

    recipe, tasks, image = experiment.recipe, experiment.tasks, experiment.image
    net = learner.net.cpu().float().eval()
    evidence = experiment.evidence(lambda image: net(image).logits)
    common, template, states = graphs_of(net, recipe, image)
    (work / "common.onnx").write_bytes(common.model.SerializeToString(deterministic=True))
    (work / "task.onnx").write_bytes(template.model.SerializeToString(deterministic=True))
    folded = [template.fold(state) for state in states]
    check_template(template, folded)

    joint = recipe.objective.coupling == "joint"
    owner = net.owner.numpy()
    temperatures = np.ones(len(tasks))
    if not joint:
        temperatures = calibrate(evidence["validation.logits"], evidence["validation.labels"], owner)
    each = temperatures[owner]  # (C,)
    W, WA, b = ((tensor.numpy().T / each).T.astype(np.float32) for tensor in net.folded_heads())
    for key in ("golden.logits", "validation.logits"):
        evidence[key] = (evidence[key] / each).astype(np.float32)
    start, parts = 0, []
    for task, arrays in zip(tasks, folded, strict=True):
        own = slice(start, start + len(task.classes))
        start = own.stop
        parts.append(Part(task.name, arrays, W[own], WA[own], b[own]))
        head = {"head.z": W[own], "head.u": WA[own], "head.bias": b[own]}
        about = {"schema": SCHEMA, "kind": "task", "task": task.name, "classes": list(task.classes)}
        save_tensors(work / "tasks" / f"{file_name(task.name)}.safetensors", arrays | head, about)
        logits = {key: evidence[key][:, own] for key in ("golden.logits", "validation.logits")}
        save_tensors(work / "evidence" / f"{file_name(task.name)}.safetensors", logits, about | {"kind": "evidence"})
    shared = {key: evidence[key] for key in ("golden.images", "validation.labels", "validation.rows")}
    save_tensors(work / SHARED, shared, {"schema": SCHEMA, "kind": "evidence"})
    save_state(work / "train" / WEIGHTS, learner)
    ranges = pool_ranges(common.model, template.model, parts, sample(experiment.validation))
    write_manifest(
        work,
        {
            "name": recipe.name,
            "recipe": recipe.model_dump(),
            "image": image.to_json(),
            "coupling": recipe.objective.coupling,
            "temperatures": {}
            if joint
            else {t.name: round(float(v), 6) for t, v in zip(tasks, temperatures, strict=True)},
            "teacher": teacher,
            "versions": versions(*LIBRARIES),
            "nets": {
                "ckn": describe(recipe.ckn),
                "tsn": describe(recipe.tsn.net),
                "d": net.d,
                "D": net.D,
                "tap": {"name": recipe.tsn.tap, "channels": net.tap_channels},
            },
            "training": experiment.training(recipe.train, fitted),
        },
        tasks,
        write_pool_ranges(work, ranges, min(IMAGES, len(experiment.validation))),
    )
    pool = Pool.open(work)
    whole, part = pool.graphs()
    graph = compose(whole, part, [pool.part(task) for task in tasks], "branches")
    proof = work / "proof.onnx"
    proof.write_bytes(graph.SerializeToString())
    try:
        golden_difference(proof, pool.evidence())
    finally:
        proof.unlink()


def write_manifest(root: Path, fields: dict[str, Any], tasks: Sequence[TaskSpec], calibration: dict[str, str]) -> None:
    """Write `pool.json` for the files that lie in `root`, which is the last thing that makes it a pool.

    `calibration` names the files with the ranges of the CKN ("") and of each task.
    """
    from kfdeploy import __version__

    left_out = (MANIFEST, "recipe.json", TIMING)
    files = [
        path for path in root.rglob("*") if path.is_file() and path.name not in left_out and not path.match(CHECKPOINTS)
    ]
    entries = [
        task.to_json()
        | {
            "file": f"tasks/{file_name(task.name)}.safetensors",
            "evidence": f"evidence/{file_name(task.name)}.safetensors",
            "calibration": calibration[task.name],
        }
        for task in tasks
    ]
    manifest = {
        "schema": SCHEMA,
        "kind": "pool",
        "version": __version__,
        "tasks": entries,
        "classes": [name for task in tasks for name in task.classes],
        "calibration": calibration[""],
        "files": describe_files(root, files),
    } | fields
    (root / MANIFEST).write_text(dump_json(manifest), encoding="utf-8")


def graphs_of(
    net: FactorNet, recipe: Recipe, image: ImageSpec
) -> "tuple[Any, Any, list[dict[str, np.ndarray[Any, Any]]]]":
    """Return the common graph, the task template, and each task's unfolded weights by the template's names."""
    from kfdeploy.graphs import export

    example = torch.zeros(2, *image.shape, dtype=torch.uint8)
    common = export(_Common(net.normalise, net.ckn, net.tap).eval(), example, ["image"], ["z", "tap"])
    with torch.no_grad():
        tap = _Common(net.normalise, net.ckn, net.tap).eval()(example)[1]
    single = build(recipe.tsn.net, net.tap_channels)
    bank = {key: value for key, value in net.bank.state_dict().items() if not key.endswith("num_batches_tracked")}
    states = [
        {f"tsn.{key}": value.chunk(net.K)[j].numpy() for key, value in bank.items()} for j in range(net.K)
    ]  # every tensor of a bank lies along its first axis
    single.load_state_dict(
        {key.removeprefix("tsn."): torch.from_numpy(v) for key, v in states[0].items()}, strict=False
    )
    template = export(_Template(single).eval(), tap, ["tap"], ["u"])
    return common, template, states


def template_of(
    net: FactorNet, recipe: Recipe, image: ImageSpec, template: "ModelProto"
) -> "tuple[ModelProto, dict[str, np.ndarray[Any, Any]]]":
    """Return a pool's template and, folded as its tasks' are, the weights of a network with one task.

    Raises:
        ComposeError: they are not the template's.
    """
    from kfdeploy.graphs import check_template, export

    with torch.no_grad():
        probe = FactorNet(recipe.ckn, recipe.tsn, image, [TaskSpec("", ("",))]).eval()
        example = torch.zeros(2, *image.shape, dtype=torch.uint8)
        tap = _Common(probe.normalise, probe.ckn, probe.tap)(example)[1]
    single = build(recipe.tsn.net, net.tap_channels)
    bank = {key: value for key, value in net.bank.state_dict().items() if not key.endswith("num_batches_tracked")}
    single.load_state_dict(bank, strict=False)
    made = export(_Template(single).eval(), tap, ["tap"], ["u"])
    weights = made.fold({f"tsn.{key}": value.numpy() for key, value in bank.items()})
    made.model.CopyFrom(template)  # the pool's own, whatever this torch would export
    check_template(made, [weights])
    return template, weights
