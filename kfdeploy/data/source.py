"""Data sources by name. They return numpy; torch enters at the loader."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.data.images import EXTENSIONS, File, Images, fit, read_images
from kfdeploy.data.pixels import to_channels
from kfdeploy.errors import DataError, MissingDependencyError, first_line, nearest
from kfdeploy.spec import ImageSpec

TORCHVISION = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")
SOURCES = ("digits", "folder", "webdataset", *TORCHVISION)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

Labels = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class ImageSet:
    """Labelled images: in memory (`images`), or still on disk (`paths`).

    `labels` (N,) index `classes`. `rows` (N,) are the images' positions in the source's own order, which name them
    in a pool's evidence.
    """

    classes: tuple[str, ...]
    labels: Labels
    rows: Labels
    image: ImageSpec
    images: Images | None = None
    paths: tuple[File, ...] = ()

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
        return read_images([self.paths[i] for i in chosen], self.image)

    def in_memory(self) -> "ImageSet":
        """Return the same set with every image decoded.

        Raises:
            DataError: files that do not decode, named and counted.
        """
        return self if self.images is not None else replace(self, images=self.load(), paths=())

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
        )

    def only(self, classes: Sequence[str]) -> "ImageSet":
        """Return the images of `classes`, their labels in that order.

        Raises:
            DataError: a class is not there.
        """
        if lost := [name for name in classes if name not in self.classes]:
            raise DataError(
                f"the data have no class '{lost[0]}'", allowed=self.classes, hint=nearest(lost[0], self.classes)
            )
        if tuple(classes) == self.classes:
            return self
        new = np.full(len(self.classes), -1, dtype=np.int64)
        new[[self.classes.index(name) for name in classes]] = np.arange(len(classes))
        kept = self.take(np.flatnonzero(new[self.labels] >= 0))
        return replace(kept, classes=tuple(classes), labels=new[kept.labels])


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


def load_split(source: str, root: str, split: str, image: ImageSpec) -> ImageSet:
    """Return the `train` or `test` split of a source, not yet decoded where that can wait.

    Raises:
        DataError: no such source, nothing at `root`, an empty class folder, or a download that failed.
    """
    if source == "digits":
        return _digits(split, image)
    if source == "folder":
        return _folder(Path(root) if root else None, split, image)
    if source == "webdataset":
        return _shards(root, split, image)
    if source in TORCHVISION:
        return _torchvision(source, root, split, image)
    raise DataError(f"there is no data source '{source}'", allowed=SOURCES, hint=nearest(source, SOURCES))


def _digits(split: str, image: ImageSpec) -> ImageSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingDependencyError(
            "the digits come with scikit-learn, which is not installed", hint='pip install "kfdeploy[train]"'
        ) from None
    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    train, test = stratified(labels, 0.2, seed=0)
    rows = train if split == "train" else test
    pixels = np.rint(bunch.images[rows] * (255 / 16)).astype(np.uint8)  # (N, 8, 8), 0–16 scaled to 0–255
    return ImageSet(DIGITS, labels[rows], rows, image, _fit_all(pixels, image, "digits"))


def _folder(root: Path | None, split: str, image: ImageSpec) -> ImageSet:
    layout = "a folder is laid out as root/{train,test}/<class>/*.{jpg,png,webp,bmp}"
    if root is None or not (root / split).is_dir():
        missing = "data.root is not set" if root is None else f"there is no folder '{root / split}'"
        raise DataError(f"{missing}; {layout}", hint="--set data.root=<folder>")
    folders = sorted(entry for entry in (root / split).iterdir() if entry.is_dir())
    if not folders:
        raise DataError(f"'{root / split}' has no class folders; {layout}")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
        if not files:
            raise DataError(f"the class folder '{folder}' has no images", hint="add some, or remove the folder")
        paths += files
        labels += [label] * len(files)
    classes = tuple(folder.name for folder in folders)
    return ImageSet(classes, np.array(labels, dtype=np.int64), np.arange(len(paths)), image, paths=tuple(paths))


def _shards(root: str, split: str, image: ImageSpec) -> ImageSet:
    from kfdeploy.data.shards import LAYOUT, index_shards

    if not root:
        raise DataError(f"data.root is not set; {LAYOUT}", hint="--set data.root=<folder>")
    members, labels, classes = index_shards(Path(root), split)
    return ImageSet(classes, np.array(labels, dtype=np.int64), np.arange(len(members)), image, paths=tuple(members))


def _torchvision(source: str, root: str, split: str, image: ImageSpec) -> ImageSet:
    try:
        from torchvision import datasets
    except ImportError:
        raise MissingDependencyError(
            f"{source} is read by torchvision, which is not installed", hint='pip install "kfdeploy[train]"'
        ) from None
    place = Path(root or "data")
    make = getattr(datasets, source)
    try:
        try:
            found = make(place, train=split == "train", download=False)
        except RuntimeError:
            place.mkdir(parents=True, exist_ok=True)
            found = make(place, train=split == "train", download=True)
    except Exception as error:  # urllib, ssl, sockets and torchvision each have errors of their own
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise DataError(
            f"{source} is not in '{place}', and downloading it failed: {reason}",
            hint="download it elsewhere, or pass images as a folder: "
            "--set data.source=folder --set data.root=<folder with train/ and test/>",
        ) from None
    pixels = np.asarray(found.data, dtype=np.uint8)
    labels = np.asarray(found.targets, dtype=np.int64)
    classes = tuple(str(name) for name in found.classes)
    return ImageSet(classes, labels, np.arange(len(labels)), image, _fit_all(pixels, image, source))


def _fit_all(pixels: Images, image: ImageSpec, origin: str) -> Images:
    """Bring (N, H, W) or (N, H, W, C) pixels to the spec, through Pillow only where they differ from it."""
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.shape[1:] == image.shape:
        return pixels
    from PIL import Image

    def one(array: Images) -> Images:
        decoded = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
        return fit(to_channels(decoded, image.channels), image, origin)

    return np.stack([one(array) for array in pixels])
