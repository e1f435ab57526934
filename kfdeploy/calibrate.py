"""Calibration: every activation's range, kept in the pool by module, so that int8 needs neither data nor neighbours.

Each module is observed with its own inputs (the CKN with images, a TSN with the CKN's tap), which no other task
changes. A range is the one whose clipping and rounding errors at 8 bits have the least sum of squares, over a histogram
of the tensor on validation images: the largest value alone would spend most levels on a few outliers.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from kfdeploy.compose import Part, compose
from kfdeploy.data import ImageSet, load_split
from kfdeploy.errors import DataError, PoolError
from kfdeploy.files import SCHEMA, describe_files, dump_json, file_name, read_manifest, write_file
from kfdeploy.model import MANIFEST as MODEL
from kfdeploy.model import Model
from kfdeploy.pool import MANIFEST, Pool
from kfdeploy.quantize import Range, observed, with_outputs
from kfdeploy.spec import ImageSpec
from kfdeploy.store import local_folder

IMAGES = 512
FOLDER = "calibration"
_BINS = 1024
_AT_ONCE = 8  # tasks observed in one graph
Images = np.ndarray[Any, np.dtype[np.uint8]]


def calibrate(
    path: str | Path,
    *,
    images: int = IMAGES,
    data: str | Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> int:
    """Observe a pool's, a student's or a teacher's activations and keep their ranges in it; return on how many images.

    They are validation images, from the data it was made with or from `data`, a folder with `train/<class>/`.

    Raises:
        PoolError: there is none, or it is not whole.
        UnsupportedError: it is on a server.
        DataError: its validation images are not there.
    """
    root = local_folder(path, "calibrating")
    if (root / MANIFEST).is_file():
        pool = Pool.open(root)
        _, rows = pool.validation()
        seen = validation_images(pool.manifest["recipe"]["data"], rows, pool.image, images, data)
        common, template = pool.graphs()
        found = pool_ranges(common, template, [pool.part(task) for task in pool.tasks], seen, report)
        names = write_pool_ranges(root, found, len(seen))
        entries = [entry | {"calibration": names[entry["name"]]} for entry in pool.manifest["tasks"]]
        manifest = pool.manifest | {"tasks": entries, "calibration": names[""]}
        _commit(root / MANIFEST, manifest, list(names.values()))
    else:
        model = Model.open(root)
        if model.kind == "assembly":
            raise PoolError(f"'{root}' is an assembly: ranges belong to its pool", hint="kfdeploy calibrate <pool>")
        if any((above / MANIFEST).is_file() for above in root.absolute().parents):
            raise PoolError(
                f"'{root}' is a part of a pool, which answers for its files", hint="copy it, and name the copy"
            )
        model.check()
        seen = validation_images(model.manifest["data"], model.validation()[1], model.image, images, data)
        calibrate_model(root, seen)
    return len(seen)


def calibrate_model(root: Path, images: Images) -> None:
    """Keep the ranges of a student or a teacher in its folder."""
    model = Model.open(root)
    name = write_ranges(root, "model", model_ranges(model.graph, images), len(images))
    _commit(root / MODEL, model.manifest | {"calibration": name}, [name])


def _commit(place: Path, manifest: dict[str, Any], written: list[str]) -> None:
    """Name the new files of ranges in the manifest, and remove the old ones after that."""
    root = place.parent
    files = {name: about for name, about in manifest["files"].items() if not name.startswith(f"{FOLDER}/")}
    manifest["files"] = files | describe_files(root, [root / name for name in written])
    write_file(place, dump_json(manifest))  # what it named before is still there until this is done
    for old in (root / FOLDER).iterdir():
        if f"{FOLDER}/{old.name}" not in written:
            old.unlink()


def validation_images(
    about: dict[str, Any], rows: Sequence[int] | Any, image: ImageSpec, count: int, folder: str | Path | None = None
) -> Images:
    """Return `count` of the validation images (N, H, W, C), evenly spread over them.

    Raises:
        DataError: they are not there.
    """
    rows = np.asarray(rows)
    return validation_set(about, rows[spread(len(rows), count)], image, folder).load()


def sample(data: ImageSet) -> Images:
    """Return the images (N, H, W, C) to observe, evenly spread over a set."""
    return data.take(spread(len(data), IMAGES)).load()


def spread(total: int, count: int) -> Any:
    """Return `count` indices (or all) evenly spread over `total`."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def validation_set(about: dict[str, Any], rows: Any, image: ImageSpec, folder: str | Path | None = None) -> ImageSet:
    """Return the images at some rows of the train split.

    Raises:
        DataError: they are not there.
    """
    source, root = ("folder", str(folder)) if folder is not None else (about["source"], about["root"])
    split = load_split(source, root, "train", image)
    place = {int(row): i for i, row in enumerate(split.rows)}
    if any(int(row) not in place for row in rows):
        raise DataError(
            f"the train split at '{root or source}' lacks some of the validation images on record",
            hint="name the folder that it was made with: --data <folder>",
        )
    return split.take(np.array([place[int(row)] for row in rows], dtype=np.int64))


def pool_ranges(
    common: ModelProto,
    template: ModelProto,
    parts: Sequence[Part],
    images: Images,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, Range]]:
    """Return `{"": the CKN's ranges, task: its TSN's}`, each by the tensor names of the module's own graph."""
    found: dict[str, dict[str, Range]] = {}
    for start in range(0, len(parts), _AT_ONCE):
        some = parts[start : start + _AT_ONCE]
        report(f"observing {len(some)} tasks on {len(images)} images")
        graph = compose(common, template, some, "branches")
        names = [name for name in observed(graph) if not name.startswith("head/") and "/head/" not in name]
        ranges = observe(graph, names, images)
        for number, part in enumerate(some):
            found[part.name] = _inside(ranges, f"task{number}/")
        found.setdefault("", _inside(ranges, "common/"))
    return found


def model_ranges(graph: Path, images: Images) -> dict[str, Range]:
    """Return the ranges of a student's or a teacher's tensors."""
    import onnx

    model = onnx.load(graph)
    return observe(model, [name for name in observed(model) if name != "logits"], images)


def observe(model: ModelProto, names: Sequence[str], images: Images) -> dict[str, Range]:
    """Run images (N, H, W, C) and return the range to quantise each named tensor with; 0 is always inside."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        with_outputs(model, names).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    batches = [images[i : i + 64] for i in range(0, len(images), 64)]
    low = dict.fromkeys(names, 0.0)
    high = dict.fromkeys(names, 0.0)
    for batch in batches:
        for name, value in zip(names, session.run(list(names), {"image": batch}), strict=True):
            low[name], high[name] = min(low[name], float(value.min())), max(high[name], float(value.max()))
    counts = {name: np.zeros(_BINS, np.int64) for name in names}
    for batch in batches:
        for name, value in zip(names, session.run(list(names), {"image": batch}), strict=True):
            counts[name] += np.histogram(value, _BINS, (low[name], max(high[name], low[name] + 1e-6)))[0]
    return {name: least_error(counts[name], low[name], high[name]) for name in names}


def least_error(counts: Any, low: float, high: float) -> Range:
    """Return the range inside [low, high] whose clipping and rounding at 8 bits err least, in the sum of squares.

    `counts` (B,) is a histogram over [low, high], which holds 0. Ranges shrink towards 0 on both sides alike.
    """
    centres = low + (np.arange(len(counts)) + 0.5) * (high - low) / len(counts)
    best, chosen = np.inf, (low, high)
    for share in np.linspace(1.0, 0.3, 71):
        bottom, top = low * share, high * share
        clipped = (np.maximum(centres - top, 0) + np.maximum(bottom - centres, 0)) ** 2
        inside = counts[(centres >= bottom) & (centres <= top)].sum()
        error = float((clipped * counts).sum() + inside * ((top - bottom) / 255) ** 2 / 12)
        if error < best:
            best, chosen = error, (bottom, top)
    return float(np.float32(chosen[0])), float(np.float32(chosen[1]))


def write_pool_ranges(root: Path, found: dict[str, dict[str, Range]], images: int) -> dict[str, str]:
    """Write a pool's ranges, the CKN's ("") and each task's in files of their own, and return their names."""
    return {
        task: write_ranges(root, f"task-{file_name(task)}" if task else "common", ranges, images)
        for task, ranges in found.items()
    }


def write_ranges(root: Path, name: str, ranges: dict[str, Range], images: int) -> str:
    """Write ranges and return the file's name, which holds its hash: what a manifest names is never overwritten."""
    listed = {tensor: list(values) for tensor, values in ranges.items()}
    text = dump_json({"schema": SCHEMA, "kind": "calibration", "images": images, "ranges": listed})
    path = f"{FOLDER}/{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    write_file(root / path, text)
    return path


def read_ranges(path: Path) -> dict[str, Range]:
    """Read what `write_ranges` wrote.

    Raises:
        PoolError: it is not there, or of another kind.
    """
    found = read_manifest(path, "calibration", "kfdeploy calibrate")
    return {name: (float(low), float(high)) for name, (low, high) in found["ranges"].items()}


def _inside(ranges: dict[str, Range], prefix: str) -> dict[str, Range]:
    return {name.removeprefix(prefix): values for name, values in ranges.items() if name.startswith(prefix)}
