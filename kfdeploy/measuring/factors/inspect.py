"""Are the factors factors? How alike they are, what each of them knows, whether they are disentangled, and how sure."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.arrays import Floats, Labels
from kfdeploy.data.imageset import ImageSet
from kfdeploy.data.splits import load, validation_set
from kfdeploy.errors import UnsupportedError
from kfdeploy.manifest import stamp
from kfdeploy.measuring.factors.cka import cka_matrix
from kfdeploy.measuring.factors.codes import (
    CODES,
    Sample,
    check_codes,
    code_sets,
    disentanglement_rows,
    first_components,
)
from kfdeploy.measuring.factors.disentanglement import Trees, check_factors, check_trees
from kfdeploy.measuring.factors.features import COMMON, features, open_beside
from kfdeploy.measuring.factors.probes import probe_matrix
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.spec import CLASS, TaskSpec, fields_of
from kfdeploy.tasks.worth import calibration_error, subset_accuracy


@dataclass(frozen=True)
class Disentangled:
    """What disentanglement is measured on, and with which trees: see `codes.CODES` and `disentanglement.dci`."""

    codes: tuple[str, ...] = CODES
    trees: Trees = "forest"


def inspect(
    pool: str | Path | Pool, *, data: str | Path | None = None, subsets: int = 100,
    disentanglement: Disentangled | None = None, beside: Sequence[str | Path] = (),
    note: Callable[[str], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Inspect a pool on its data, or on the folder `data` with `train/` and `test/`; without torch or the teacher.

    Returns `{"schema", "kind", "factors", "tasks", "fields", "cka", "probe", "calibration", "training"}`: `factors` are
    the common network, each task's, and the students and teachers `beside` (folders); `cka` (F, F) is their linear CKA
    on test; `probe` (F, K) the balanced accuracy of a linear probe for a task on a factor's features, fitted on the
    validation images and scored on test, or None; `calibration` the expected calibration error and accuracy of random
    subsets of classes on validation. With `disentanglement` a row of it for each set of codes: the pool's, and those of
    the models beside. `note` is told what takes minutes.

    Raises:
        PoolError: a file is missing or altered.
        DataError: the images are not there, or too few to tell disentanglement by.
        UnsupportedError: disentanglement of a pool of one field; a model beside that is none.
    """
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    fields = list(fields_of(pool.tasks))
    if disentanglement is not None:
        _require_several(pool, fields, disentanglement)
    models = open_beside(beside, pool)
    fitted = validation_set(pool.data, pool.seen(), pool.image, data).only(pool.classes)
    test = load(pool.data, "test", pool.image, data).only(pool.classes)
    known, asked = _labels(fitted, fields), _labels(test, fields)
    sample = Sample.of(len(test))
    if disentanglement is not None:  # before minutes of running networks, not after
        check_factors(asked[sample.rows[: sample.fitted]], fields)
    tasks = [task.name for task in pool.tasks]
    here, there = features(pool, fitted), features(pool, test)
    own = {each.name: each.features(test) for each in models}
    here |= {each.name: np.concatenate(each.features(fitted), axis=1) for each in models}
    there |= {name: np.concatenate(parts, axis=1) for name, parts in own.items()}
    found = {
        **stamp("inspection"),
        "pool": pool.name,
        "coupling": pool.coupling,
        "factors": list(there),
        "tasks": tasks,
        "beside": list(own),
        "fields": {field: [task.name for task in pool.tasks if task.field == field] for field in fields},
        "images": {"validation": len(fitted), "test": len(test)},
        "cka": cka_matrix(list(there.values())).round(4).tolist(),
        "probe": _probes(pool.tasks, fields, here, known, there, asked),
        "calibration": calibration(pool.evidence(), pool.tasks, subsets),
        "training": pool.training,
    }
    if disentanglement is None:
        return found
    sets = code_sets(there, COMMON, tasks, disentanglement.codes, sample)
    for name, parts in own.items():
        sets[name] = there[name]
        if "each" in disentanglement.codes and len(parts) > 1:  # networks side by side, as the tasks' are
            sets[f"{name}, each"] = first_components(parts, sample)
    rows = disentanglement_rows(sets, asked, fields, sample, trees=disentanglement.trees, note=note)
    return found | {"disentanglement": rows}


def _require_several(pool: Pool, fields: Sequence[str], asked: Disentangled) -> None:
    """Refuse to look for what tells fields apart where there is one, or by what is not there."""
    check_codes(asked.codes)
    check_trees(asked.trees)
    if len(fields) < 2:
        raise UnsupportedError(
            f"pool '{pool.where}' has the one field '{fields[0]}', and disentanglement is of two factors or more that "
            "vary in one image",
            hint="leave --disentanglement out; CKA and probes tell how alike its tasks' networks are",
        )


def _labels(images: ImageSet, fields: Sequence[str]) -> Labels:  # (N, fields)
    return np.stack([images.labels_of(field) for field in fields], axis=1)


def _probes(
    tasks: Sequence[TaskSpec], fields: Sequence[str], here: Mapping[str, Floats], known: Labels,
    there: Mapping[str, Floats], asked: Labels,
) -> list[list[float | None]]:  # (F, K)  # fmt: skip
    owner = np.repeat(np.arange(len(tasks)), [len(task.classes) for task in tasks])
    probe = probe_matrix(here, known, there, asked, owner, [fields.index(task.field) for task in tasks]).round(4)
    return [[None if np.isnan(value) else value for value in row] for row in probe.tolist()]


def calibration(evidence: Evidence, tasks: Sequence[TaskSpec], count: int) -> dict[str, Any]:
    """Return what `subset_calibration` tells; of several fields for each, and what holds of them all."""
    each = {}
    for field, columns in fields_of(tasks).items():
        classes = [name for task in tasks if task.field == field for name in task.classes]
        part = replace(evidence, logits=evidence.logits[:, columns])
        each[field] = subset_calibration(part, classes, max(1, count // len(fields_of(tasks))), field=field)
    if len(each) == 1:
        return next(iter(each.values()))
    told = [found for found in each.values() if found["subsets"]]
    weights = [found["subsets"] for found in told]

    def mean(key: str) -> float | None:
        return round(float(np.average([found[key] for found in told], weights=weights)), 5) if told else None

    return {
        "subsets": sum(weights),
        "error": mean("error"),
        "largest_error": max((found["largest_error"] for found in told), default=None),
        "accuracy": mean("accuracy"),
        "fields": each,
    }


def subset_calibration(
    evidence: Evidence, classes: Sequence[str], count: int, seed: int = 0, field: str = CLASS
) -> dict[str, Any]:
    """Return the mean expected calibration error and accuracy of `count` random subsets of two classes or more.

    All of them where there are no more than that; those without an image are left out. `evidence` has the logits of
    these classes of a field alone. Where no subset is left, the numbers are None.
    """
    random = np.random.default_rng(seed)
    every = 2 ** len(classes) - len(classes) - 1 if len(classes) < 20 else count + 1
    if every <= count:
        sizes = range(2, len(classes) + 1)
        chosen = [list(c) for size in sizes for c in itertools.combinations(range(len(classes)), size)]
    else:
        chosen = [
            sorted(random.permutation(len(classes))[: random.integers(2, len(classes) + 1)].tolist())
            for _ in range(count)
        ]
    errors, right = [], []
    for columns in chosen:
        part = replace(evidence, logits=evidence.logits[:, columns])
        names = [TaskSpec(classes[c], (classes[c],), field=field) for c in columns]
        accuracy = subset_accuracy(part, names)
        if accuracy.images:
            errors.append(calibration_error(part, names))
            right.append(accuracy.value)
    if not errors:
        return {"subsets": 0, "error": None, "largest_error": None, "accuracy": None}
    return {
        "subsets": len(errors),
        "error": round(float(np.mean(errors)), 5),
        "largest_error": round(float(np.max(errors)), 5),
        "accuracy": round(float(np.mean(right)), 5),
    }
