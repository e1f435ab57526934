"""Are the factors factors? How alike they are (CKA), what each of them knows (probes), and how sure subsets are."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfdeploy.calibrate import validation_set
from kfdeploy.data.source import ImageSet, load_split
from kfdeploy.errors import MissingDependencyError
from kfdeploy.files import SCHEMA
from kfdeploy.plan import calibration_error, subset_accuracy
from kfdeploy.pool import Evidence, Pool

if TYPE_CHECKING:
    from onnx import ModelProto

Floats = np.ndarray[Any, np.dtype[np.float64]]
COMMON = "common network"


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
    about = pool.manifest["recipe"]["data"]
    source, root = ("folder", str(data)) if data is not None else (about["source"], about["root"])
    evidence = pool.evidence()
    _, rows = pool.validation()
    fitted = validation_set({"source": source, "root": root}, rows, pool.image).only(classes)
    test = load_split(source, root, "test", pool.image).only(classes)
    owner = np.repeat(np.arange(len(pool.tasks)), [len(task.classes) for task in pool.tasks])
    here, there = features(pool, fitted), features(pool, test)
    names = [COMMON, *(task.name for task in pool.tasks)]
    return {
        "schema": SCHEMA,
        "kind": "inspection",
        "pool": pool.manifest["name"],
        "coupling": pool.manifest["coupling"],
        "factors": names,
        "tasks": names[1:],
        "images": {"validation": len(fitted), "test": len(test)},
        "cka": cka_matrix([there[name] for name in names]).round(4).tolist(),
        "probe": probe_matrix(here, fitted.labels, there, test.labels, owner).round(4).tolist(),
        "calibration": subset_calibration(evidence, classes, subsets),
        "training": pool.manifest["training"],
    }


def features(pool: Pool, images: ImageSet, batch: int = 250) -> dict[str, Floats]:
    """Return every factor's pooled features (N, d) and (N, D), by name; the common network's under `COMMON`."""
    import onnx

    common, template = pool.graphs()
    parts = [pool.part(task) for task in pool.tasks]
    runs = {COMMON: _session(common)}
    for part in parts:
        own = onnx.ModelProto()
        own.CopyFrom(template)
        for initializer in own.graph.initializer:
            if initializer.name in part.weights:
                initializer.CopyFrom(onnx.numpy_helper.from_array(part.weights[initializer.name], initializer.name))
        runs[part.name] = _session(own)
    found: dict[str, list[Any]] = {name: [] for name in runs}
    for start in range(0, len(images), batch):
        z, tap = runs[COMMON].run(["z", "tap"], {"image": images.load(slice(start, start + batch))})
        found[COMMON].append(z[:, :, 0, 0])
        for part in parts:
            found[part.name].append(runs[part.name].run(["u"], {"tap": tap})[0][:, :, 0, 0])
    return {name: np.concatenate(rows).astype(np.float64) for name, rows in found.items()}


def _session(model: "ModelProto") -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise MissingDependencyError("ONNX Runtime is not installed", hint="pip install onnxruntime") from None
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def linear_cka(a: Floats, b: Floats) -> float:  # (N, p), (N, q)
    """Return linear centred kernel alignment, exactly, over all rows at once (Kornblith et al. 2019, Eq. 3).

    ‖BᵀA‖² / (‖AᵀA‖ ‖BᵀB‖) of the centred columns: 1 for features that differ by a rotation and a scale, 0 where one
    set does not vary.
    """
    a, b = a - a.mean(0), b - b.mean(0)
    across = float(np.linalg.norm(b.T @ a) ** 2)
    within = float(np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    return across / within if within > 0 else 0.0


def cka_matrix(sets: Sequence[Floats]) -> Floats:
    """Return the linear CKA of every pair, (F, F)."""
    out = np.eye(len(sets))
    for i, j in itertools.combinations(range(len(sets)), 2):
        out[i, j] = out[j, i] = linear_cka(sets[i], sets[j])
    return out


def probe_matrix(
    here: Mapping[str, Floats], labels: Any, there: Mapping[str, Floats], test_labels: Any, owner: Any
) -> Floats:  # → (F, K)
    """Return how well a linear probe reads each task off each factor's features.

    A ridge classifier with balanced classes tells the task's classes and "other" apart; it is fitted on `here` and
    scored on `there` by balanced accuracy, whose chance level is 1 / (classes + 1).
    """
    try:
        from sklearn.linear_model import RidgeClassifier
        from sklearn.metrics import balanced_accuracy_score
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise MissingDependencyError(
            "probes are fitted by scikit-learn, which is not installed", hint='pip install "kfdeploy[train]"'
        ) from None
    tasks = int(owner.max()) + 1
    out = np.zeros((len(here), tasks))
    for i, name in enumerate(here):
        for task in range(tasks):
            fit_to, score_on = (np.where(owner[which] == task, which, -1) for which in (labels, test_labels))
            probe = make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced"))
            probe.fit(here[name], fit_to)
            out[i, task] = balanced_accuracy_score(score_on, probe.predict(there[name]))
    return out


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
        names = [classes[c] for c in columns]
        errors.append(calibration_error(part, names))
        right.append(subset_accuracy(part, names).value)
    return {
        "subsets": len(chosen),
        "error": round(float(np.mean(errors)), 5),
        "largest_error": round(float(np.max(errors)), 5),
        "accuracy": round(float(np.mean(right)), 5),
    }


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return what an inspection says, a line each."""
    cka, probe = np.array(found["cka"]), np.array(found["probe"])
    lines = []
    K = len(found["tasks"])
    if K > 1:
        apart = cka[1:, 1:][~np.eye(K, dtype=bool)]
        own, others = probe[1:].diagonal(), probe[1:][~np.eye(K, dtype=bool)]
        lines += [
            f"alike:       linear CKA of two tasks' networks {apart.mean():.3f} on average, {apart.max():.3f} at most; "
            f"of one and the common network {cka[0, 1:].mean():.3f} on average",
            f"knows:       a linear probe for a task reads {100 * own.mean():.1f} % off its own network, "
            f"{100 * others.mean():.1f} % off another's, {100 * probe[0].mean():.1f} % off the common one "
            "(balanced accuracy)",
        ]
    calibration = found["calibration"]
    lines.append(
        f"calibration: expected error {calibration['error']:.4f} over {calibration['subsets']} subsets "
        f"(at most {calibration['largest_error']:.4f}), {found['coupling']} tasks"
    )
    terms = found["training"].get("terms", {})
    if "bottleneck" in terms:
        lines.append(
            f"information: {terms['infomax']:.3f} nats shared with the teacher at least (InfoMax), "
            f"{terms['bottleneck']:.1f} nats through the bottlenecks at most, over {K} tasks"
        )
    return lines


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw both matrices as heat maps, as a PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    from kfdeploy.report import new_figure, save_figure

    rows, tasks = found["factors"], found["tasks"]
    size = min(16.0, 3.2 + 0.45 * len(rows))
    figure = new_figure(2 * size, size, 120)
    panels = (("linear CKA on test", "cka", rows), ("a linear probe's balanced accuracy on test", "probe", tasks))
    for number, (title, key, columns) in enumerate(panels):
        axes = figure.add_subplot(1, 2, number + 1)
        values = np.array(found[key])
        shown = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_title(title)
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylabel("features of")
        axes.set_xlabel("features of" if key == "cka" else "probe for the task")
        if len(rows) <= 14:
            for (i, j), value in np.ndenumerate(values):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="w" if value < 0.6 else "k", fontsize=8)
        figure.colorbar(shown, ax=axes)
    save_figure(figure, path)
