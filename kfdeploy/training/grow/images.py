"""The images that a new task is told from: those that a pool was made with, as far as they are still there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kfdeploy.data.imageset import ImageSet, stratified
from kfdeploy.data.splits import SPLIT_SEED, found_again, load, spread
from kfdeploy.errors import DataError, TaskError, listed, nearest
from kfdeploy.places import found_data
from kfdeploy.pool.fields import block_columns
from kfdeploy.pool.manifest import SHARED
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.evidence import Seen
from kfdeploy.tasks.kinds.classes import label_columns
from kfdeploy.tasks.spec import CLASS, class_names
from kfdeploy.training.loop.progress import Progress


@dataclass(frozen=True)
class Known:
    """Images that the pool knows: what it was made with, or what a task was added with; `validation` as on record."""

    key: str  # of a task's logits for `validation` in its evidence
    classes: tuple[str, ...]  # of tasks that the pool still has
    train: ImageSet
    validation: ImageSet


def known_images(pool: Pool, report: Progress) -> list[Known]:
    """Return the images that the pool's tasks were made with, as far as they are still there."""
    blocks = {block["task"]: block for block in pool.added_images}
    first = class_names(task for task in pool.tasks if task.name not in blocks)
    places = [("validation.logits", pool.data, SHARED, first, pool.labels)]
    for block in blocks.values():
        own = class_names(task for task in pool.tasks if task.name == block["task"])
        labels = block_columns(pool.manifest, block)
        places.append((f"validation.logits/{block['task']}", block["data"], block["file"], own, labels))
    found = []
    for key, about, file, classes, labels in places:
        arrays = pool.tensors(file)
        if "validation.rows" not in arrays:
            continue
        try:
            place = found_data(about)["root"] or about["source"]
            whole = load(about, "train", pool.image).identified()
            held = found_again(whole, Seen.of(arrays, labels), f"the train split at '{place}'")
            found.append(Known(key, classes, _without(whole, held).only(classes), held))
        except (DataError, KeyError) as error:
            report.note(
                f"the images of {', '.join(classes[:3])}… are not there any more ({error}): what the new task is worth "
                "beside them will not be known exactly"
            )
    return found


def _without(whole: ImageSet, held: ImageSet) -> ImageSet:
    """Return the images that are not held back, whatever place or name they have now."""
    gone = {each.tobytes() for each in held.contents()}
    return whole.take(np.flatnonzero([each.tobytes() not in gone for each in whole.contents()]))


def one_field(fresh: ImageSet, field: str, task: str) -> tuple[ImageSet, str]:
    """Return the images that have a label of the field, as a set of which nothing else is known, and the field.

    Where there are several and none is named, it is the one that is called as the task.

    Raises:
        TaskError: there is no such field, or none is named and none is called so.
    """
    if not fresh.fields:
        if field not in ("", CLASS):
            raise TaskError(
                f"the data have no field '{field}': the class alone is known of their images",
                hint="leave --field out, or name a folder with attributes.csv",
            )
        return fresh, CLASS
    names = fresh.field_names
    chosen = field or (task if task in names else names[0] if len(names) == 1 else "")
    if chosen not in names:
        what = f"the data have no field '{chosen}'" if chosen else f"none of the data's fields is called '{task}'"
        raise TaskError(what, allowed=listed(names), hint=nearest(chosen or task, names) or "name one with --field")
    own = fresh.only([name for name, of in zip(fresh.classes, fresh.fields, strict=True) if of == chosen])
    plain = own.classes if chosen == CLASS else [name.removeprefix(f"{chosen}: ") for name in own.classes]
    return replace(own, classes=tuple(plain), labels=own.labels[:, 0], fields=()), chosen


def split_new(fresh: ImageSet, classes: Sequence[str], share: float) -> Known:
    """Split the new images as the pool's were split."""
    train, validation = stratified(fresh.labels, share, SPLIT_SEED, fresh.classes, classes)
    return Known("", tuple(classes), fresh.take(train).only(classes), fresh.take(validation).only(classes))


def together(known: Sequence[Known], mine: Known, names: Sequence[str]) -> tuple[ImageSet, ImageSet]:
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
                own = own.take(np.sort(np.concatenate([p[spread(len(p), most)] for p in picks])))
            sets[side].append(own)
    if not sum(len(images) for images in sets[0]):
        raise DataError(
            "there are no images of any class that the pool knows, so there is nothing to tell the new ones from",
            hint="put some into the same folder, or set data.root to what the pool was made with",
        )
    return union([*sets[0], mine.train], classes), union([*sets[1], mine.validation], classes)


def union(sets: Sequence[ImageSet], classes: tuple[str, ...]) -> ImageSet:
    """Return the images of several sets as one, in memory, labelled among `classes` and with rows of their own."""
    kept = [images for images in sets if len(images)]
    labels = np.concatenate([label_columns(each.classes, classes)[each.labels] for each in kept])
    arrays = np.concatenate([each.load() for each in kept])
    known = np.concatenate([each.contents() for each in kept])
    return replace(
        kept[0], classes=classes, labels=labels, rows=np.arange(len(labels)), images=arrays, paths=(),
        content=known,
    )  # fmt: skip
