"""Growing a pool: one more task, its TSN and head alone, while everything that is there stays as it is, to the byte.

What is frozen is the pool's own graphs, run by ONNX Runtime, so that no training state is needed: neither the teacher's
(with it at hand it is used, without it labels are enough) nor the pool's.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kfdeploy import objectives
from kfdeploy.assemble import graph_of
from kfdeploy.compose import Arrays, Part, compose
from kfdeploy.data import ImageSet, load_split, stratified
from kfdeploy.data.loader import make_loader
from kfdeploy.devices import make_fabric, rank, world
from kfdeploy.errors import DataError, PoolError, TaskError, TeacherError, nearest
from kfdeploy.experiment import SPLIT_SEED, TEACHER, WEIGHTS, sweep, unfinished
from kfdeploy.factorize import template_of
from kfdeploy.files import SCHEMA, check_output, describe_files, dump_json, file_name, load_tensors, save_tensors
from kfdeploy.nets.factor import FactorNet
from kfdeploy.nets.teacher import Teacher, pretrained
from kfdeploy.plan import calibrate
from kfdeploy.pool import MANIFEST, SHARED, Pool
from kfdeploy.progress import Progress, is_main
from kfdeploy.quantize import with_outputs
from kfdeploy.recipe import Recipe, apply_settings, parse_recipe
from kfdeploy.replay import Live, Taught
from kfdeploy.sections import Objective
from kfdeploy.spec import TaskSpec
from kfdeploy.store import local_folder
from kfdeploy.train import Fitted, Learner, Term, fit

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Frozen:
    """The pool as it is: uint8 images (N, H, W, C) → z (N, d, 1, 1), what tasks read, and all logits (N, C)."""

    def __init__(self, pool: Pool, threads: int) -> None:
        import onnxruntime

        graph, _ = graph_of(pool, pool.tasks)
        common, _ = pool.graphs()
        self.names = ["logits", *(f"common/{output.name}" for output in common.graph.output)]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        there = onnxruntime.get_available_providers()
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in there]
        text = with_outputs(graph, self.names).SerializeToString()
        self.session = onnxruntime.InferenceSession(text, options, providers=providers)

    def __call__(self, images: np.ndarray[Any, Any]) -> tuple[Floats, Floats, Floats]:
        """Return z, tap and logits."""
        logits, z, tap = self.session.run(self.names, {"image": images})
        return z, tap, logits


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
        generator = torch.Generator(images.device).manual_seed(self.seed * 1_000_003 + step)
        noise = torch.randn((world() * len(images), 1, self.net.d), generator=generator, device=images.device)
        noise = noise[rank() * len(images) : (rank() + 1) * len(images)]
        out = self.net.answer((), z, self.net.read(tap), None if config.variant == "reference" else noise)
        with torch.autocast(images.device.type, enabled=False):
            whole = torch.cat([logits, out.logits], 1)  # (N, kept + c)
            targets = torch.where(labels >= old, labels - old + 1, 0)[:, None]  # (N, 1), 0: "other"
            terms: dict[str, Term] = {}
            if config.coupling == "joint":
                terms["sup"] = Term(1.0, F.cross_entropy(whole, labels))
                if taught is not None:
                    terms["kt"] = Term(
                        config.lambda_kt, objectives.soft_targets(whole, taught.logits, config.temperature)
                    )
            else:
                own = objectives.against_other(out.logits, self.net.owner, self.net.local, 1)
                terms["sup"] = Term(1.0, objectives.task_information(own, targets))
                if taught is not None:
                    cold = taught.logits / config.temperature
                    merged = torch.cat([cold[:, :old].logsumexp(1, keepdim=True), cold[:, old:]], 1)[:, None]
                    terms["kt"] = Term(config.lambda_kt, objectives.soft_targets_each(own, merged, config.temperature))
            beta = config.beta / (self.net.d if config.beta_reduction == "mean" else 1)
            terms["task"] = Term(config.lambda_i, objectives.task_information(out.task_logits, targets))
            terms["bottleneck"] = Term(config.lambda_i * beta, objectives.bottleneck(out.mu, out.logvar))
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


@dataclass(frozen=True)
class Known:
    """Images that the pool knows: what it was made with, or what a task was added with; `validation` as on record."""

    key: str  # of a task's logits for `validation` in its evidence
    classes: tuple[str, ...]  # of tasks that the pool still has
    train: ImageSet
    validation: ImageSet


def add_task(
    pool: Pool | str | Path,
    name: str,
    *,
    data: str | Path,
    classes: Sequence[str] = (),
    instead_of: Sequence[str] = (),
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    force: bool = False,
    resume: bool = False,
    report: Progress | None = None,
) -> Fitted:
    """Train one TSN and head for `classes`, and write the pool with it to `out` (default: in the pool's place).

    `data` is a folder with `train/<class>/`; `classes` are by default those in it that the pool does not know. The
    classes of the pool are what the new ones are told from: their images are those the pool was made with, or lie in
    `data` too. `instead_of` are classes that the new ones divide more finely: their images and logits are left out of
    training. `settings` change the pool's recipe, such as `train.epochs=4`. Every file of every other task stays
    byte-identical.

    Raises:
        TaskError: the task is already there, or a class of it is, or none is new.
        DataError: a class has no images, or none of the pool's classes has.
        PoolError: the pool is not whole, or cannot be written to.
        OutputError: `out` is there and `force` is not set.
        TrainingError, Interrupted: see `kfdeploy.train.fit`.
    """
    pool = pool if isinstance(pool, Pool) else Pool.open(local_folder(pool, "adding a task"))
    report = report or Progress()
    pool.check([name for name in pool.manifest["files"] if not name.startswith("train/")])
    place = pool.path if out is None else Path(out)
    if out is not None:
        check_output(place, force=force)
    recipe = parse_recipe(apply_settings(pool.manifest["recipe"], settings), str(pool.path / MANIFEST))
    fresh = load_split("folder", str(data), "train", pool.image)
    task = _new_task(pool, name, fresh.classes, classes, instead_of)
    rest = [c for each in pool.tasks for c in each.classes]
    kept = [i for i, c in enumerate(rest) if c not in instead_of]
    known = _known(pool, report)
    mine = _split(fresh, task.classes, recipe)
    beside: list[Known] = []  # classes of the pool that lie in the new folder, where their own data are gone
    lost = [c for c in rest if c not in instead_of and not any(c in each.classes for each in known)]
    if found := [c for c in lost if c in fresh.classes]:
        beside = [_split(fresh, found, recipe)]
    names = [rest[i] for i in kept]
    train, validation = _together([*known, *beside], mine, names)
    fabric = make_fabric(recipe.run)
    frozen = Frozen(pool, torch.get_num_threads())
    torch.manual_seed(recipe.seed)
    net = FactorNet(recipe.ckn, recipe.tsn, pool.image, [task])
    learner = AddedTask(net, frozen, kept, recipe.objective, recipe.seed)
    teacher = _teacher(pool, recipe, [*names, *task.classes], report)
    teach = None if teacher is None else Live(teacher.to(fabric.device), fabric.autocast)
    # What the work is begun from: the recipe alone would not tell two tasks apart.
    about = recipe.model_copy(update={"name": f"{recipe.name}-add-{file_name(name)[:40]}"})
    log = f"train/added-{file_name(name)}"
    with unfinished(place, about, force=force, resume=resume, replace=True) as work:
        loader = make_loader(
            train, recipe.train.batch, recipe.augment, recipe.seed, fabric.device, recipe.data.stream_above_mb
        )
        fitted = fit(
            learner, loader, validation, recipe.train, recipe.run, fabric=fabric, folder=work / log,
            title=name, teach=teach, resume=resume, report=report,
        )  # fmt: skip
        if is_main():
            extra = {
                "data": {"source": "folder", "root": str(data)},
                "instead_of": list(instead_of),
                "teacher": teacher is not None,
                "training": {"epochs": recipe.train.epochs, "images": len(train), "terms": fitted.log[-1]},
            }
            _write(work, pool, learner.cpu().float().eval(), recipe, task, known, [*beside, mine], extra)
    sweep(place)
    return fitted


def _new_task(
    pool: Pool, name: str, there: Sequence[str], classes: Sequence[str], instead_of: Sequence[str]
) -> TaskSpec:
    owner = {c: task.name for task in pool.tasks for c in task.classes}
    if not name.strip():
        raise TaskError("the task has no name", hint="--add-task fish")
    if name in {task.name for task in pool.tasks}:
        raise TaskError(
            f"task '{name}' is already in pool '{pool.where}'", hint="kfdeploy pool remove, or another name"
        )
    for each in instead_of:
        if each not in owner:
            raise TaskError(
                f"--instead-of names '{each}', which pool '{pool.where}' does not have",
                allowed=owner, hint=nearest(each, list(owner)),
            )  # fmt: skip
    chosen = list(classes) or [c for c in there if c not in owner]
    if not chosen:
        raise TaskError(f"every class in the data is one of pool '{pool.where}' already: {', '.join(there)}")
    for i, each in enumerate(chosen):
        if each not in there:
            raise DataError(f"the data have no class '{each}'", allowed=there, hint=nearest(each, there))
        if each in owner:
            raise TaskError(
                f"class '{each}' is task '{owner[each]}' of pool '{pool.where}' already",
                hint="give a finer class a name of its own",
            )
        if each in chosen[:i]:
            raise TaskError(f"class '{each}' is named twice", hint="name each class once")
    return TaskSpec(name, tuple(chosen))


def _known(pool: Pool, report: Progress) -> list[Known]:
    """Return the images that the pool's tasks were made with, as far as they are still there."""
    added = {entry["task"]: entry for entry in pool.manifest.get("added", ())}
    first = tuple(c for task in pool.tasks if task.name not in added for c in task.classes)
    places = [("validation.logits", pool.manifest["recipe"]["data"], SHARED, first)]
    for block in pool.manifest.get("blocks", ()):
        own = tuple(c for task in pool.tasks if task.name == block["task"] for c in task.classes)
        places.append((f"validation.logits/{block['task']}", added[block["task"]]["data"], block["file"], own))
    found = []
    for key, about, file, classes in places:
        rows = load_tensors(pool.file(file)).get("validation.rows")
        if rows is None:
            continue
        try:
            whole = load_split(about["source"], about["root"], "train", pool.image)
            position = {int(row): i for i, row in enumerate(whole.rows)}
            held = np.array([position[int(row)] for row in rows], dtype=np.int64)
            rest = whole.take(np.setdiff1d(np.arange(len(whole)), held))
            found.append(Known(key, classes, rest.only(classes), whole.take(held)))
        except (DataError, KeyError) as error:
            report.note(
                f"the images of {', '.join(classes[:3])}… are not there any more ({error}): what the new task is worth "
                "beside them will not be known exactly"
            )
    return found


def _split(fresh: ImageSet, classes: Sequence[str], recipe: Recipe) -> Known:
    """Split the new images as the pool's were split."""
    train, validation = stratified(fresh.labels, recipe.data.validation, SPLIT_SEED, fresh.classes, classes)
    return Known("", tuple(classes), fresh.take(train).only(classes), fresh.take(validation).only(classes))


def _together(known: Sequence[Known], mine: Known, names: Sequence[str]) -> tuple[ImageSet, ImageSet]:
    """Return the train and validation images of the kept classes and the new ones, as one set each.

    Of each old class there are at most as many as of the largest new one: all classes weigh alike, as they did when the
    pool was made.
    """
    classes = (*names, *mine.classes)
    most = int(np.bincount(mine.train.labels).max())
    sets: list[list[ImageSet]] = [[], []]
    for each in known:
        usable = [c for c in each.classes if c in names]
        for side, images in enumerate((each.train, each.validation)):
            own = images.only([c for c in usable if c in images.classes])
            if side == 0 and len(own):
                picks = [np.flatnonzero(own.labels == label) for label in np.unique(own.labels)]
                # Evenly spread over what there is, so that it is the same choice every time.
                spread = [
                    p[np.unique(np.linspace(0, len(p) - 1, min(most, len(p))).round().astype(int))] for p in picks
                ]
                own = own.take(np.sort(np.concatenate(spread)))
            sets[side].append(own)
    if not sum(len(images) for images in sets[0]):
        raise DataError(
            "there are no images of any class that the pool knows, so there is nothing to tell the new ones from",
            hint="put some into the same folder, or set data.root to what the pool was made with",
        )
    return _union([*sets[0], mine.train], classes), _union([*sets[1], mine.validation], classes)


def _union(sets: Sequence[ImageSet], classes: tuple[str, ...]) -> ImageSet:
    kept = [images for images in sets if len(images)]
    labels = np.concatenate([np.array([classes.index(c) for c in each.classes])[each.labels] for each in kept])
    arrays = np.concatenate([each.load() for each in kept])
    return replace(kept[0], classes=classes, labels=labels, rows=np.arange(len(labels)), images=arrays, paths=())


def _teacher(pool: Pool, recipe: Recipe, classes: Sequence[str], report: Progress) -> Teacher | None:
    """Return the pool's teacher where it is at hand and knows all of these classes."""
    config = recipe.teacher
    if config.source == "train" or config.net is None:
        known = list(config.classes)
        if not known:
            report.note("the teacher knows the pool's own classes alone: labels are used")
            return None
    weights = pool.path / TEACHER / WEIGHTS
    if weights.is_file():
        config = config.model_copy(update={"source": f"file:{weights}"})
    try:
        everything = config.classes or list(
            load_split(recipe.data.source, recipe.data.root, "train", pool.image).classes
        )
        return pretrained(config, pool.image, everything, classes)
    except (DataError, TeacherError) as error:
        report.note(f"the teacher is left out, and labels are used: {error}")
        return None


@torch.no_grad()
def _logits(learner: AddedTask, images: ImageSet | np.ndarray[Any, Any], scale: float) -> Floats:
    """Return the new task's logits (N, c)."""
    count = len(images)
    load = images.load if isinstance(images, ImageSet) else images.__getitem__
    pieces = [learner.own(torch.from_numpy(load(slice(i, i + 250)))).numpy() for i in range(0, count, 250)]
    return np.concatenate(pieces).astype(np.float32) / np.float32(scale)


def _write(
    work: Path, pool: Pool, learner: AddedTask, recipe: Recipe, task: TaskSpec, known: Sequence[Known],
    fresh: Sequence[Known], extra: dict[str, Any],
) -> None:  # fmt: skip
    """Write the grown pool into `work` and prove it: every file of the old one, linked, and the new task's."""
    from kfdeploy.calibrate import pool_ranges, sample, write_ranges
    from kfdeploy.model import golden_difference

    there = [path.relative_to(pool.path).as_posix() for path in sorted(pool.path.rglob("*")) if path.is_file()]
    link_files(pool.path, work, [name for name in there if name != MANIFEST])
    net, images = learner.net, _union([each.validation for each in fresh], _vocabulary(fresh))
    labels = images.labels
    joint = recipe.objective.coupling == "joint"
    temperature = 1.0
    if not joint:
        everything = [*known, *fresh]
        raw = np.concatenate([_logits(learner, each.validation, 1.0) for each in everything])
        truth = [np.array(each.validation.classes)[each.validation.labels] for each in everything]
        column = {c: i for i, c in enumerate(task.classes)}
        own = np.array([column.get(c, -1) for c in np.concatenate(truth)])
        temperature = float(calibrate(raw, own, np.zeros(len(task.classes), np.int64))[0])
    template, weights = template_of(net, recipe, pool.image, pool.graphs()[1])
    W, WA, b = (tensor.numpy() / temperature for tensor in net.folded_heads())
    head = {"head.z": W.astype(np.float32), "head.u": WA.astype(np.float32), "head.bias": b.astype(np.float32)}
    about = {"schema": SCHEMA, "kind": "task", "task": task.name, "classes": list(task.classes)}
    stem = file_name(task.name)
    file, evidence = f"tasks/{stem}.safetensors", f"evidence/{stem}.safetensors"
    save_tensors(work / file, weights | head, about)
    shared = load_tensors(pool.file(SHARED))
    arrays: Arrays = {"golden.logits": _logits(learner, shared["golden.images"], temperature)}
    for each in known:
        arrays[each.key] = _logits(learner, each.validation, temperature)
    arrays[f"validation.logits/{task.name}"] = _logits(learner, images, temperature)
    save_tensors(work / evidence, arrays, about | {"kind": "evidence"})
    block = f"evidence/added-{stem}.safetensors"
    rows = np.concatenate([each.validation.rows for each in fresh])
    others = np.concatenate([learner.frozen(images.load(slice(i, i + 250)))[2] for i in range(0, len(images), 250)])
    start, columns = 0, {}
    for each_task in pool.tasks:
        columns[f"logits/{each_task.name}"] = others[:, start : start + len(each_task.classes)]
        start += len(each_task.classes)
    save_tensors(
        work / block, {"validation.labels": labels, "validation.rows": rows} | columns,
        {"schema": SCHEMA, "kind": "evidence", "added": task.name},
    )  # fmt: skip
    part = Part(task.name, weights, head["head.z"], head["head.u"], head["head.bias"])
    written = [file, evidence, block, f"train/added-{stem}/log.csv"]
    entry = task.to_json() | {"file": file, "evidence": evidence}
    if "calibration" in pool.manifest:
        common, _ = pool.graphs()
        ranges = pool_ranges(common, template, [part], sample(images))[task.name]
        entry["calibration"] = write_ranges(work, f"task-{stem}", ranges, len(sample(images)))
        written.append(entry["calibration"])
    files = {name: known for name, known in pool.manifest["files"].items() if (work / name).exists()}
    manifest = pool.manifest | {
        "tasks": [*pool.manifest["tasks"], entry],
        "blocks": [
            *pool.manifest.get("blocks", ()),
            {"task": task.name, "file": block, "classes": list(images.classes)},
        ],
        "added": [*pool.manifest.get("added", ()), {"task": task.name, **extra}],
        "files": files | describe_files(work, [work / name for name in written]),
    }
    if not joint:
        manifest["temperatures"] = pool.manifest.get("temperatures", {}) | {task.name: round(temperature, 6)}
    (work / MANIFEST).write_text(dump_json(manifest), encoding="utf-8")
    grown = Pool.open(work)
    common, template = grown.graphs()
    proof = work / "proof.onnx"
    proof.write_bytes(
        compose(common, template, [grown.part(each) for each in grown.tasks], "branches").SerializeToString()
    )
    try:
        golden_difference(proof, grown.evidence())
    finally:
        proof.unlink()
    grown.check()


def _vocabulary(sets: Sequence[Known]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(c for each in sets for c in each.classes))


def link_files(source: Path, target: Path, names: Sequence[str]) -> None:
    """Put files of one folder into another without copying their bytes, where the system can link them.

    Raises:
        PoolError: a file cannot be put there.
    """
    for name in names:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            place.unlink()
        try:
            os.link(source / name, place)
        except OSError:
            try:
                shutil.copyfile(source / name, place)
            except OSError as error:
                raise PoolError(f"'{place}' cannot be written: {error}", hint="free some space") from error
