"""Labelled images, in memory or on disk, and the stratified split."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.arrays import Content, Images, Labels, at_once
from kfdeploy.data import content
from kfdeploy.data.content import Record
from kfdeploy.data.images import File, Store, fit_all, read_images
from kfdeploy.data.names import readable_names
from kfdeploy.errors import DataError, listed, nearest
from kfdeploy.tasks.kinds.classes import label_columns
from kfdeploy.tasks.spec import CLASS, ImageSpec

_STORE_BYTES = 32 << 20  # of a store's images that are looked at together


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: in memory (`images`), still on disk (`paths`), or in a `store` that gives pixels when asked.

    `labels` index `classes`: (N,) where there is nothing but the class of each image. Where there are fields, `classes`
    are the columns of them all (`TaskSpec.columns`), `fields` says of each whose it is, and `labels` are (N, F), a
    column for each field in the order of `field_names`, with -1 where an image has none. `rows` (N,) are the images'
    positions in the source's own order, which name them in the evidence of a pool of 0.1.0; `content` (N, 8), once it
    is `identified`, is what names them since.
    """

    classes: tuple[str, ...]
    labels: Labels
    rows: Labels
    image: ImageSpec
    images: Images | None = None
    paths: tuple[File, ...] = ()
    content: Content | None = None
    root: Path | None = None  # the folder that the files lie in
    order: str = "source"  # of the classes: names, numbers, or the source's own
    note: str = ""  # what was found beside the images and left out
    fields: tuple[str, ...] = ()  # (C,) the field of each column; none: all are of the field `class`
    store: Store | None = None  # of the images, in their order, where they are neither in memory nor files
    ignored: tuple[str, ...] = ()  # fields that the source has, and that were to be left out
    described: bool = False  # its labels stand in a table beside the images, and not in folders of classes

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, indices: Any = slice(None)) -> Images:
        """Return uint8 (n, H, W, C).

        Raises:
            DataError: a file does not decode.
        """
        if self.images is not None:
            chosen_images: Images = self.images[indices]
            return chosen_images
        chosen = np.arange(len(self))[indices]
        if self.store is not None:
            out = np.empty((len(chosen), *self.image.shape), np.uint8)
            for part in self._parts(chosen):
                out[part] = fit_all(self.store.pixels(chosen[part]), self.image, str(self.store))
            return out
        return read_images([self.paths[i] for i in chosen], self.image)

    def _parts(self, chosen: Labels) -> Iterator[slice]:
        """Yield slices of images of a store, which may be larger there than what is made of them."""
        assert self.store is not None
        each = self.store.pixels(chosen[:1]).nbytes if len(chosen) > 1 else 1
        size = max(1, min(512, _STORE_BYTES // max(1, each)))
        yield from (slice(start, start + size) for start in range(0, len(chosen), size))

    def batches(self, most: int = 512) -> Iterator[Images]:
        """Yield all images in order, `most` at a time, or fewer where they are large: a set may exceed memory."""
        size = at_once(self.image.shape, most)
        for start in range(0, len(self), size):
            yield self.load(slice(start, start + size))

    def in_memory(self) -> "ImageSet":
        """Return the same set with every image decoded.

        Raises:
            DataError: files that do not decode, named and counted.
        """
        return self if self.images is not None else replace(self, images=self.load(), paths=(), store=None)

    def identified(self) -> "ImageSet":
        """Return the same set with the content of every image known: each file is read once.

        Raises:
            DataError: a file cannot be read.
        """
        return self if self.content is not None else replace(self, content=self.contents())

    def contents(self) -> Content:
        """Return what each image contains, by a hash (N, 8).

        Raises:
            DataError: a file cannot be read.
        """
        if self.content is not None:
            return self.content
        if self.images is not None:
            return content.of_arrays(self.images)
        if self.store is not None:
            every = np.arange(len(self))
            parts = [content.of_arrays(self.store.pixels(every[part])) for part in self._parts(every)]
            return np.concatenate([np.zeros((0, content.BYTES), np.uint8), *parts])
        return content.of_files(self.paths)

    def record(self, held: Any) -> Record:
        """Return what a training on this set is made from, its validation images being those at the indices `held`.

        Raises:
            DataError: a file cannot be read.
        """
        mark = np.zeros(len(self), np.uint8)
        mark[held] = 1
        return Record(self.classes, self.names(), self.sizes(), self.labels, mark, self.contents(), self.order)

    def names(self) -> tuple[str, ...]:
        """Return each file's name below the folder; of images in memory there are none."""
        if not self.paths:
            return ("",) * len(self)
        root = f"{self.root}{os.sep}"
        return tuple(str(path).removeprefix(root).replace(os.sep, "/") for path in self.paths)

    def sizes(self) -> Labels:
        """Return each image's bytes (N,): of its file, or of its pixels."""
        if not self.paths:
            return np.full(len(self), int(np.prod(self.image.shape)), np.int64)
        sizes = [path.stat().st_size if isinstance(path, Path) else path.size for path in self.paths]
        return np.array(sizes, np.int64)

    @property
    def megabytes(self) -> float:
        """Size when decoded, in 10⁶ bytes."""
        return len(self) * float(np.prod(self.image.shape)) / 1e6

    def take(self, indices: Labels) -> "ImageSet":
        """Return the images at `indices`, as a set with the same classes."""
        return replace(
            self,
            labels=self.labels[indices],
            rows=self.rows[indices],
            images=None if self.images is None else self.images[indices],
            paths=tuple(self.paths[i] for i in indices) if self.paths else (),
            content=None if self.content is None else self.content[indices],
            store=None if self.store is None else self.store.take(np.arange(len(self))[indices]),
        )

    def called(self, names: str | Mapping[str, str], *, all_there: bool = False) -> "ImageSet":
        """Return the same set with readable names of the classes of the field `class`; see `names.readable_names`.

        Raises:
            DataError: two classes would get one name; or `all_there`, and `names` has a class that is not.
        """
        own = [i for i in range(len(self.classes)) if not self.fields or self.fields[i] == CLASS]
        if not names or (not own and not all_there):
            return self
        fresh = readable_names(names, [self.classes[i] for i in own], all_there=all_there)
        found = dict(enumerate(self.classes)) | dict(zip(own, fresh, strict=True))
        return replace(self, classes=tuple(found.values()))

    def only(self, classes: Sequence[str]) -> "ImageSet":
        """Return the images of `classes`, their labels in that order.

        Raises:
            DataError: a class is not there.
        """
        if lost := [name for name in classes if name not in self.classes]:
            raise DataError(
                f"the data have no class '{lost[0]}'", allowed=listed(self.classes),
                hint=nearest(lost[0], self.classes) or "name a folder that has it: --data <folder>",
            )  # fmt: skip
        if tuple(classes) == self.classes:
            return self
        new = label_columns(self.classes, classes)
        labels = np.where(self.labels >= 0, new[self.labels], -1)
        if not self.fields:
            kept = self.take(np.flatnonzero(labels >= 0))
            return replace(kept, classes=tuple(classes), labels=new[kept.labels])
        fields = tuple(self.fields[self.classes.index(name)] for name in classes)
        labels = labels[:, [self.field_names.index(name) for name in dict.fromkeys(fields)]]
        some = np.flatnonzero((labels >= 0).any(1))
        return replace(self.take(some), classes=tuple(classes), labels=labels[some], fields=fields)

    @property
    def field_names(self) -> tuple[str, ...]:
        """The fields that its labels are of, in the order of their columns."""
        return tuple(dict.fromkeys(self.fields)) or (CLASS,)

    def labels_of(self, field: str) -> Labels:
        """Return one field's labels (N,): indices of `classes`, -1 where an image has none."""
        if self.labels.ndim == 1:
            return self.labels
        found: Labels = self.labels[:, self.field_names.index(field)]
        return found

    def field_of(self, column: int) -> str:
        """Return the field of a column."""
        return self.fields[column] if self.fields else CLASS

    def right(self, logits: np.ndarray[Any, Any]) -> dict[str, tuple[int, int]]:
        """Return of each field how many images are answered right by the largest of its columns, and of how many.

        `logits` are (N, C), of `classes`; an image without a label does not count.
        """
        found = {}
        for field in self.field_names:
            columns = np.array([i for i in range(len(self.classes)) if self.field_of(i) == field])
            labels = self.labels_of(field)
            known = labels >= 0
            answers = columns[logits[:, columns].argmax(1)]
            found[field] = int((answers == labels)[known].sum()), int(known.sum())
        return found

    def texts_of(self, field: str) -> tuple[str, ...]:
        """Return the name of each image's column (N,), "" where it has none."""
        return tuple(self.classes[label] if label >= 0 else "" for label in self.labels_of(field))

    def texts(self) -> tuple[str, ...]:
        """Return what each image is said to be, in one text: its class, or its columns of all fields, sorted."""
        return tuple(map("; ".join, zip(*map(self.texts_of, sorted(self.field_names)), strict=True)))

    def parted(self, share: float, seed: int, needed: Sequence[str] = ()) -> tuple[Labels, Labels]:
        """Return the indices of a split (rest, share): of every class alike, or where there are fields of all images.

        Raises:
            DataError: a class, or the whole, has fewer than two images.
        """
        if not self.fields:
            return stratified(self.labels, share, seed, self.classes, needed)
        return stratified(np.zeros(len(self), np.int64), share, seed, ("all",))


def stratified(
    labels: Labels, share: float, seed: int, names: Sequence[str] = (), needed: Sequence[str] = ()
) -> tuple[Labels, Labels]:
    """Return the indices of a split (rest, share) that takes the same share of every class, at least one image.

    `names` are the classes of the labels; only those that are `needed` (none: all) must be large enough.

    Raises:
        DataError: a class has fewer than two images.
    """
    random = np.random.default_rng(seed)
    chosen: list[Labels] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            name = names[label] if len(names) else f"number {label}"
            if needed and name not in needed:
                continue
            raise DataError(
                f"class '{name}' has {len(members)} image: too few to split",
                hint="add images, or leave the class out with data.ignore",
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        chosen.append(random.permutation(members)[:count])
    second = np.sort(np.concatenate(chosen))
    return np.setdiff1d(np.arange(len(labels)), second), second
