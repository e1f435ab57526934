"""Storing a pool's tasks as float16: half the bytes to ship, and what is known of them computed again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfdeploy.arrays import Arrays, at_once
from kfdeploy.errors import ComposeError, DataError, PoolError, UnsupportedError
from kfdeploy.files import about_of, parse_tensors, save_tensors
from kfdeploy.graph.compose import Part, compose
from kfdeploy.graph.half import LARGEST
from kfdeploy.graph.reference import Runner, tolerance
from kfdeploy.manifest import TRAINING, describe_files, size_of
from kfdeploy.outputs import check_not_read, check_output, output_folder
from kfdeploy.pool.manifest import SHARED, rounded, write
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.evidence import Block
from kfdeploy.tasks.spec import TaskSpec
from kfdeploy.tasks.worth import Accuracy, known_accuracy

if TYPE_CHECKING:
    from onnx import ModelProto

    from kfdeploy.data.imageset import ImageSet


HALF = "float16"
_AT_ONCE = 50  # tasks in one graph
Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Converted:
    """What a conversion changed: the accuracy of all tasks together (None: not known) and the bytes of their files."""

    pool: Pool
    before: Accuracy | None
    after: Accuracy | None
    bytes_before: int
    bytes_after: int


def store_half(
    pool: Pool | str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    force: bool = False,
    wait: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Converted:
    """Write a pool whose tasks' weights are stored as float16; it computes in float32 with the rounded weights.

    Golden and validation logits are those of the rounded weights, by ONNX Runtime, on the images that the pool was made
    with: from its data, or from `data`, a folder with `train/<class>/`. Ranges for int8 stay; `train/` is left out.

    Raises:
        PoolError: the tasks are float16 already, or a file is missing or altered.
        UnsupportedError: a weight is beyond float16.
        DataError: the validation images are not there, or are other images.
        OutputError: `out` is there and `force` is not set, or cannot be written.
    """
    out = Path(out)
    check_output(out, force=force)
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    check_not_read(out, pool.place.folder)
    if all(entry.get("weights") == HALF for entry in pool.entries):
        raise PoolError(f"the tasks of '{pool.path}' are stored as {HALF} already", hint="use it as it is")
    stored = {task.name: _rounded(pool.tensors(pool.entry(task)["file"]), task) for task in pool.tasks}
    blocks = list(pool.blocks(pool.tasks))
    images = [_images(pool, block, data) for block in blocks]  # before anything is computed
    exact = [pool.part(task) for task in pool.tasks]
    small = [Part.of(name, arrays) for name, arrays in stored.items()]
    golden = _logits(pool, small, [pool.tensors(SHARED)["golden.images"]])
    found: list[list[Floats] | None] = []
    for block, own in zip(blocks, images, strict=True):
        if own is None:
            found.append(None)
            continue
        report(f"running {len(pool.tasks)} tasks on {len(own)} validation images, as stored and rounded")
        size = at_once(pool.image.shape, 250)
        pieces = [slice(i, i + size) for i in range(0, len(own), size)]
        _check_images(block, _logits(pool, exact, (own.load(piece) for piece in pieces)), pool, data)
        found.append(_logits(pool, small, (own.load(piece) for piece in pieces)))
    with output_folder(out, force=force, wait=wait) as work:
        _write(pool, work, stored, golden, dict(zip([block.task for block in blocks], found, strict=True)))
        done = Pool.open(work)
        before, after = (known_accuracy(which.evidence(), which.tasks) for which in (pool, done))
        about = {
            "from": pool.sha256,
            "weights": HALF,
            "accuracy": {"before": before and before.value, "after": after and after.value},
        }
        write(work, rounded(done.manifest, HALF, done.files, about))
        done.check()
    return Converted(Pool.open(out), before, after, *(_weights(which) for which in (pool, Pool.open(out))))


def _rounded(arrays: Arrays, task: TaskSpec) -> Arrays:
    for name, array in arrays.items():
        if (largest := float(np.abs(array).max(initial=0))) > LARGEST:
            raise UnsupportedError(
                f"the weight '{name}' of task '{task.name}' reaches {largest:.3g}, and {HALF} ends at {LARGEST:.0f}",
                hint="keep this pool as it is",
            )
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def _images(pool: Pool, block: Block, folder: str | Path | None) -> "ImageSet | None":
    """Return a block's images, or None where no task has logits for them."""
    from kfdeploy.data.splits import validation_set

    if all(columns is None for columns in block.logits):
        return None
    about, where = pool.data, folder
    for added in pool.added_images:
        if added["task"] == block.task and "data" in added:
            about, where = added["data"], None  # a task that was added came with images of its own
    try:
        return validation_set(about, block.seen, pool.image, where)
    except DataError as error:
        which = "made with" if block.task is None else f"given with task '{block.task}'"
        raise DataError(
            f"the validation images that '{pool.path}' was {which} are needed, to tell what rounding does: {error}",
            hint="name the folder that has them in train/<class>/: --data <folder>",
        ) from None


def _logits(pool: Pool, parts: Sequence[Part], batches: Any) -> list[Floats]:
    """Run images (N, H, W, C) through the graph of all tasks and return each task's logits (V, c)."""
    common, template = pool.graphs()
    sizes = [len(part.head_bias) for part in parts]
    graphs = [_graph(common, template, parts[i : i + _AT_ONCE]) for i in range(0, len(parts), _AT_ONCE)]
    runs = [Runner(graph) for graph in graphs]
    rows = [np.concatenate([run(images)["logits"] for run in runs], axis=1) for images in batches]
    return np.split(np.concatenate(rows), np.cumsum(sizes)[:-1], axis=1)


def _graph(common: "ModelProto", template: "ModelProto", parts: Sequence[Part]) -> "ModelProto":
    try:
        return compose(common, template, parts, "bank")
    except ComposeError:
        return compose(common, template, parts, "branches")


def _check_images(block: Block, again: Sequence[Floats], pool: Pool, folder: str | Path | None) -> None:
    """Refuse images that the pool's own logits are not of: they were changed, or are others."""
    for task, known, found in zip(pool.tasks, block.logits, again, strict=True):
        # Ten times what two runtimes may differ by: these are thousands of images, and other images are far beyond.
        if known is None:
            continue
        worst = float(np.nan_to_num(np.abs(found - known), nan=np.inf, posinf=np.inf).max(initial=0))
        if not worst <= 10 * tolerance(known):
            where = f"'{folder}'" if folder is not None else "the pool's data"
            raise DataError(
                f"the images of {where} are not those that '{pool.path}' was made with: on them the logits of "
                f"'{task.name}' differ by {worst:.3g} from those on record",
                hint="name the folder that it was made with: --data <folder>",
            )


def _write(
    pool: Pool,
    work: Path,
    stored: dict[str, Arrays],
    golden: list[Floats],
    found: dict[str | None, list[Floats] | None],
) -> None:
    """Write the pool with the rounded weights, and with the logits that are theirs."""
    entries = {entry["name"]: entry for entry in pool.entries}
    blocks = {block["file"]: block["task"] for block in pool.added_images}
    own = {name: task for task, entry in entries.items() for name in (entry["file"], entry["evidence"])}
    place = {name: i for i, name in enumerate(stored)}  # in the order of the logits
    names = [name for name in pool.files if not name.startswith(TRAINING)]
    for name in names:
        data, target = pool.read(name), work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if name not in own and name not in blocks:
            target.write_bytes(data)
            continue
        arrays = parse_tensors(data, name)
        if name in blocks:
            logits = found[blocks[name]]
            for task, i in place.items():
                if f"logits/{task}" in arrays and logits is not None:
                    arrays[f"logits/{task}"] = logits[i]
        elif name == entries[own[name]]["file"]:
            arrays = stored[own[name]]
        else:
            i = place[own[name]]
            arrays["golden.logits"] = golden[i]
            for block, logits in found.items():
                key = "validation.logits" if block is None else f"validation.logits/{block}"
                if key in arrays and logits is not None:
                    arrays[key] = logits[i]
        save_tensors(target, arrays, about_of(data))
    files = describe_files(work, [work / name for name in names])
    write(work, rounded(pool.manifest, HALF, files, {}))


def _weights(pool: Pool) -> int:
    return sum(size_of(pool.where, pool.files, entry["file"]) for entry in pool.entries)
