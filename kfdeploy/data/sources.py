"""Data sources by name. They return numpy; torch enters at the loader."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.arrays import Images
from kfdeploy.data.content import of_arrays
from kfdeploy.data.folders import class_folders, images_in, left_out, numbered
from kfdeploy.data.images import fit
from kfdeploy.data.imageset import ImageSet, stratified
from kfdeploy.data.names import readable_names
from kfdeploy.errors import DataError, first_line, nearest, unloaded
from kfdeploy.targets.device.pixels import readable, to_channels
from kfdeploy.tasks.spec import ImageSpec

TORCHVISION = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")
SOURCES = ("digits", "folder", "webdataset", *TORCHVISION)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def load_split(
    source: str,
    root: str,
    split: str,
    image: ImageSpec,
    *,
    names: str | Mapping[str, str] = "",
    test: float = 0.0,
    download: bool = False,
) -> ImageSet:
    """Return the `train` or `test` split of a source, not yet decoded where that can wait.

    `names` are what the classes are called instead of their folders, see `names.readable_names`. Where a folder or
    shards have no test split, `test` is the share of the train split that is taken for it: by content, so that pictures
    that come later move none of the others. With `download` a library's data set is fetched where it is not there:
    only a recipe of the user's asks for that, never what a file that came from somewhere names as its source.

    Raises:
        DataError: no such source, nothing at `root`, an empty class folder, or a download that failed.
    """
    if test and source in ("folder", "webdataset") and root and not has_test(source, root):
        whole = _load(source, root, "train", image, download=download).identified()
        apart = _apart(whole, test)
        found = whole.take(np.flatnonzero(apart if split == "test" else ~apart))
    else:
        found = _load(source, root, split, image, download=download)
    return replace(found, classes=readable_names(names, found.classes))


def has_test(source: str, root: str) -> bool:
    """Return whether a source has a test split of its own."""
    if source == "folder":
        return (Path(root) / "test").is_dir()
    return source != "webdataset" or any(Path(root).glob("test-*.tar"))


def _apart(whole: ImageSet, share: float) -> Any:
    """Return which images (N,) are for testing: about `share` of each class, at least one, chosen by their content.

    Raises:
        DataError: a class has fewer than three images.
    """
    place = whole.contents().copy().view(">u8")[:, 0] / 2.0**64  # spread evenly over [0, 1)
    chosen = np.zeros(len(whole), bool)
    for label, name in enumerate(whole.classes):
        members = np.flatnonzero(whole.labels == label)
        if len(members) < 3:
            raise DataError(
                f"class '{name}' has {len(members)} images: too few to train on, to choose on and to test on",
                hint="add images, or remove the folder",
            )
        order = members[np.argsort(place[members], kind="stable")]
        count = min(max(1, int((place[members] < share).sum())), len(members) - 2)
        chosen[order[:count]] = True
    return chosen


def _load(source: str, root: str, split: str, image: ImageSpec, *, download: bool) -> ImageSet:
    if source == "digits":
        return _digits(split, image)
    if source == "folder":
        return _folder(Path(root) if root else None, split, image)
    if source == "webdataset":
        return _shards(root, split, image)
    if source in TORCHVISION:
        return _torchvision(source, root, split, image, download=download)
    raise DataError(f"there is no data source '{source}'", allowed=SOURCES, hint=nearest(source, SOURCES))


def _digits(split: str, image: ImageSpec) -> ImageSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        absent = "the digits come with scikit-learn, which is not installed"
        raise unloaded(error, "sklearn", absent, 'pip install "kfdeploy[train]"') from None
    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    train, test = stratified(labels, 0.2, seed=0)
    rows = train if split == "train" else test
    pixels = np.rint(bunch.images[rows] * (255 / 16)).astype(np.uint8)  # (N, 8, 8), 0–16 scaled to 0–255
    return ImageSet(DIGITS, labels[rows], rows, image, _fit_all(pixels, image, "digits"), content=of_arrays(pixels))


def _folder(root: Path | None, split: str, image: ImageSpec) -> ImageSet:
    layout = "a folder is laid out as root/{train,test}/<class>/, with jpg, png, webp, tif and other images"
    if root is None or not (root / split).is_dir():
        missing = "data.root is not set" if root is None else f"there is no folder '{root / split}'"
        hint = "--set data.root=<folder>"
        if root is not None and split == "test" and (root / "train").is_dir():
            hint = (
                "--set data.test=0.1 takes a share of the train images of each class for it, as data.validation does; "
                "or put some there"
            )
        raise DataError(f"{missing}; {layout}", hint=hint)
    folders = class_folders(root / split)
    if not folders:
        raise DataError(f"'{root / split}' has no class folders; {layout}")
    paths: list[Path] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for label, folder in enumerate(folders):
        files, rest = images_in(folder)
        others += rest
        if not files:
            raise DataError(
                f"the class folder '{folder}' has no images", allowed=readable(), hint="add some, or remove the folder"
            )
        paths += files
        labels += [label] * len(files)
    classes = tuple(folder.name for folder in folders)
    note = left_out(others, root / split)
    rows = np.arange(len(paths))
    return ImageSet(
        classes, np.array(labels, dtype=np.int64), rows, image, paths=tuple(paths), root=root / split,
        order="numbers" if numbered(classes) else "names", note=note,
    )  # fmt: skip


def _shards(root: str, split: str, image: ImageSpec) -> ImageSet:
    from kfdeploy.data.shards import LAYOUT, index_shards

    if not root:
        raise DataError(f"data.root is not set; {LAYOUT}", hint="--set data.root=<folder>")
    members, labels, classes = index_shards(Path(root), split)
    rows = np.arange(len(members))
    return ImageSet(classes, np.array(labels, dtype=np.int64), rows, image, paths=tuple(members), root=Path(root))


# Where torchvision keeps each, in the folder that is named.
_PLACES = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python", "MNIST": "MNIST/raw",
           "FashionMNIST": "FashionMNIST/raw"}  # fmt: skip


def _torchvision(source: str, root: str, split: str, image: ImageSpec, *, download: bool) -> ImageSet:
    place = Path(root or "data")
    absent_here = DataError(
        f"{source} is not in '{place}', and only factorize and distill download what their recipe names",
        hint="name the folder that has it, or download it with a recipe of yours",
    )
    # Before torch is loaded: a manifest from elsewhere may name a library's data set.
    if not download and source in _PLACES and not (place / _PLACES[source]).is_dir():
        raise absent_here
    try:
        from torchvision import datasets
    except ImportError as error:
        absent = f"{source} is read by torchvision, which is not installed"
        raise unloaded(error, "torchvision", absent, 'pip install "kfdeploy[train]"') from None
    make = getattr(datasets, source)
    try:
        try:
            found = make(place, train=split == "train", download=False)
        except RuntimeError:
            if not download:
                raise absent_here from None
            place.mkdir(parents=True, exist_ok=True)
            found = make(place, train=split == "train", download=True)
    except DataError:
        raise
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
    rows = np.arange(len(labels))
    return ImageSet(classes, labels, rows, image, _fit_all(pixels, image, source), content=of_arrays(pixels))


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
