"""Writing a pool that has grown: every file of the old one, linked, and the new task's, proved together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from kfdeploy.arrays import Arrays, at_once
from kfdeploy.data.imageset import ImageSet
from kfdeploy.files import file_name, save_tensors
from kfdeploy.graph.compose import Part
from kfdeploy.manifest import POOL, BlockEntry, Files, TaskEntry, describe_files, stamp
from kfdeploy.names import tree
from kfdeploy.pool.manifest import SHARED, grown, owned, write
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.evidence import labels_key
from kfdeploy.tasks.kinds.classes import label_columns
from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.training.grow.images import Known, union
from kfdeploy.training.learners.added import AddedTask, Floats
from kfdeploy.training.loop.resume import DATA
from kfdeploy.training.nets.branches import merged
from kfdeploy.training.nets.factor import FactorNet
from kfdeploy.training.recipe.recipe import Recipe
from kfdeploy.training.writing.pool import template_of
from kfdeploy.training.writing.temperatures import fit_temperatures
from kfdeploy.writing import link


def _link_all(pool: Pool, work: Path) -> None:
    """Link every file of a pool but its manifest into `work`."""
    for path in tree(pool.path):
        name = path.relative_to(pool.path).as_posix()
        if name != POOL:
            (work / name).unlink(missing_ok=True)  # what a resumed run has linked already
            link(path, work / name)


@torch.no_grad()
def _logits(learner: AddedTask, images: ImageSet | np.ndarray[Any, Any], scale: float) -> Floats:
    """Return the new task's logits (N, c)."""
    count, size = len(images), at_once(images.image.shape if isinstance(images, ImageSet) else images.shape[1:], 250)
    load = images.load if isinstance(images, ImageSet) else images.__getitem__
    pieces = [learner.own(torch.from_numpy(load(slice(i, i + size)))).numpy() for i in range(0, count, size)]
    return np.concatenate(pieces).astype(np.float32) / np.float32(scale)


def write_grown(
    work: Path, pool: Pool, learner: AddedTask, recipe: Recipe, task: TaskSpec, known: Sequence[Known],
    fresh: Sequence[Known], extra: dict[str, Any],
) -> None:  # fmt: skip
    """Write the grown pool into `work` and prove it: every file of the old one, linked, and the new task's."""
    from kfdeploy.data.splits import sample
    from kfdeploy.graph.ranges import pool_ranges
    from kfdeploy.pool.ranges import write_ranges

    _link_all(pool, work)
    learner.net = cast(FactorNet, merged(learner.net))  # the branches that its layers had in training
    net, images = learner.net, union([each.validation for each in fresh], _vocabulary(fresh))
    labels = images.labels
    joint = recipe.objective.coupling == "joint"
    temperature = 1.0 if joint else _temperature(learner, task, [each.validation for each in [*known, *fresh]])
    template, weights = template_of(net, recipe, pool.image, pool.graphs()[1])
    W, WA, b = (tensor.numpy() / temperature for tensor in net.folded_heads())
    head = {"head.z": W.astype(np.float32), "head.u": WA.astype(np.float32), "head.bias": b.astype(np.float32)}
    about = owned("task", cast(TaskEntry, task.to_json()))
    stem = file_name(task.name)
    file, evidence = f"tasks/{stem}.safetensors", f"evidence/{stem}.safetensors"
    save_tensors(work / file, weights | head, about)
    shared = pool.tensors(SHARED)
    arrays: Arrays = {"golden.logits": _logits(learner, shared["golden.images"], temperature)}
    for each in known:
        arrays[each.key] = _logits(learner, each.validation, temperature)
    arrays[f"validation.logits/{task.name}"] = _logits(learner, images, temperature)
    save_tensors(work / evidence, arrays, about | {"kind": "evidence"})
    block = f"evidence/added/{stem}.safetensors"  # in a folder, where no task's own file can be
    rows = np.concatenate([each.validation.rows for each in fresh])
    others = np.concatenate([learner.frozen(some)[2] for some in images.batches(250)])
    start, columns = 0, {}
    for each_task in pool.tasks:
        columns[f"logits/{each_task.name}"] = others[:, start : start + len(each_task.classes)]
        start += len(each_task.classes)
    which = {labels_key(task.field): labels, "validation.rows": rows, "validation.content": images.contents()}
    save_tensors(work / block, which | columns, stamp("evidence") | {"added": task.name})
    part = Part(task.name, weights, head["head.z"], head["head.u"], head["head.bias"])
    written = [file, evidence, block, f"train/added-{stem}/log.csv", f"train/added-{stem}/{DATA}"]
    entry = cast(TaskEntry, task.to_json() | {"file": file, "evidence": evidence})
    if pool.calibrated:
        common, _ = pool.graphs()
        ranges = pool_ranges(common, template, [part], sample(images))[task.name]
        entry["calibration"] = write_ranges(work, f"task-{stem}", ranges, len(sample(images)))
        written.append(entry["calibration"])
    kept: Files = {name: about for name, about in pool.files.items() if (work / name).exists()}
    came: BlockEntry = {"task": task.name, "file": block, "classes": list(images.classes), "data": extra["data"]}
    files = kept | describe_files(work, [work / name for name in written])
    added = {"task": task.name, **extra}
    write(work, grown(pool.manifest, entry, came, added, files, None if joint else temperature))
    whole = Pool.open(work)
    whole.prove()
    whole.check()


def _temperature(learner: AddedTask, task: TaskSpec, sets: Sequence[ImageSet]) -> float:
    """Return what the task's logits are divided by, fitted on validation images."""
    raw = np.concatenate([_logits(learner, some, 1.0) for some in sets])
    own = np.concatenate([label_columns(some.classes, task.classes)[some.labels] for some in sets])
    return float(fit_temperatures(raw, own, np.zeros(len(task.classes), np.int64))[0])


def _vocabulary(sets: Sequence[Known]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(c for each in sets for c in each.classes))
