"""Are the factors factors? How alike they are (CKA), what each of them knows (probes), and how sure subsets are."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.data.splits import load, validation_set
from kfdeploy.manifest import stamp
from kfdeploy.measuring.factors.cka import cka_matrix
from kfdeploy.measuring.factors.features import COMMON, features
from kfdeploy.measuring.factors.probes import probe_matrix
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.tasks.worth import calibration_error, subset_accuracy


def inspect(pool: str | Path | Pool, *, data: str | Path | None = None, subsets: int = 100) -> dict[str, Any]:
    """Inspect a pool on its data, or on the folder `data` with `train/` and `test/`; without torch or the teacher.

    Returns `{"schema", "kind", "factors", "tasks", "cka", "probe", "calibration", "training"}`: `factors` are the
    common network and each task's; `cka` (F, F) is their linear CKA on test; `probe` (F, K) the balanced accuracy of a
    linear probe for a task on a factor's features, fitted on the validation images and scored on test; `calibration`
    the expected calibration error and accuracy of random subsets of classes on validation.

    Raises:
        PoolError: a file is missing or altered.
        DataError: the images are not there.
    """
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    classes = tuple(name for task in pool.tasks for name in task.classes)
    evidence = pool.evidence()
    fitted = validation_set(pool.data, pool.seen(), pool.image, data).only(classes)
    test = load(pool.data, "test", pool.image, data).only(classes)
    owner = np.repeat(np.arange(len(pool.tasks)), [len(task.classes) for task in pool.tasks])
    here, there = features(pool, fitted), features(pool, test)
    names = [COMMON, *(task.name for task in pool.tasks)]
    return {
        **stamp("inspection"),
        "pool": pool.name,
        "coupling": pool.coupling,
        "factors": names,
        "tasks": names[1:],
        "images": {"validation": len(fitted), "test": len(test)},
        "cka": cka_matrix([there[name] for name in names]).round(4).tolist(),
        "probe": probe_matrix(here, fitted.labels, there, test.labels, owner).round(4).tolist(),
        "calibration": subset_calibration(evidence, classes, subsets),
        "training": pool.training,
    }


def subset_calibration(evidence: Evidence, classes: Sequence[str], count: int, seed: int = 0) -> dict[str, Any]:
    """Return the mean expected calibration error and accuracy of `count` random subsets of two classes or more.

    All of them where there are no more than that.
    """
    from dataclasses import replace

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
        names = [TaskSpec(classes[c], (classes[c],)) for c in columns]
        errors.append(calibration_error(part, names))
        right.append(subset_accuracy(part, names).value)
    return {
        "subsets": len(chosen),
        "error": round(float(np.mean(errors)), 5),
        "largest_error": round(float(np.max(errors)), 5),
        "accuracy": round(float(np.mean(right)), 5),
    }
