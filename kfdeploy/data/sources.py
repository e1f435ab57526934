"""Data sources by name. They return numpy; torch enters at the loader."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.data.content import of_arrays
from kfdeploy.data.described import described, is_described
from kfdeploy.data.dsprites import dsprites
from kfdeploy.data.fields import Asked
from kfdeploy.data.folders import class_folders, images_in, left_out, numbered
from kfdeploy.data.images import fit_all
from kfdeploy.data.imageset import ImageSet, stratified
from kfdeploy.data.npy import LAYOUT as ARRAYS
from kfdeploy.data.npy import arrays
from kfdeploy.data.shards import LAYOUT as SHARDS
from kfdeploy.data.shards import shards
from kfdeploy.errors import DataError, first_line, nearest, unloaded
from kfdeploy.targets.device.pixels import readable
from kfdeploy.tasks.spec import ImageSpec, column_names

TORCHVISION = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")
OPEN_ENDED = ("folder", "webdataset", "arrays")  # sources of one's own, which may have no test split
SOURCES = ("digits", "dsprites", *OPEN_ENDED, *TORCHVISION)
DSPRITES = 100_000  # of its images, where nothing else is asked for
_ALL = Asked()
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
    asked: Asked = _ALL,
) -> ImageSet:
    """Return the `train` or `test` split of a source, not yet decoded where that can wait.

    `names` are what the classes are called instead of their folders, see `names.readable_names`. Where a source has no
    test split, `test` is the share of the train split that is taken for it: by content, so that pictures that come
    later move none of the others. With `download` a library's data set is fetched where it is not there: only a recipe
    of the user's asks for that, never what a file that came from somewhere names as its source. `asked` is what is
    asked of a source that knows several things of an image; of those the classes are the train split's.

    Raises:
        DataError: no such source, nothing at `root`, an empty class folder, or a download that failed; what is known of
            the images is not as it should be.
    """
    if test and source in OPEN_ENDED and root and not has_test(source, root):
        whole = _load(source, root, "train", image, asked, download=download).identified()
        apart = _apart(whole, test, asked)
        found = whole.take(np.flatnonzero(apart if split == "test" else ~apart))
    else:
        found = _load(source, root, split, image, asked, download=download)
    return found.called(names)


def has_test(source: str, root: str) -> bool:
    """Return whether a source has a test split of its own."""
    if source in ("folder", "arrays"):
        return (Path(root) / "test").is_dir()
    return source != "webdataset" or any(Path(root).glob("test-*.tar"))


def _apart(whole: ImageSet, share: float, asked: Asked) -> Any:
    """Return which images (N,) are for testing: about `share`, at least one, chosen by their content.

    That is a share of each class, or where a table describes the images one of them all: which fields are read of it
    does not change which images are for testing.

    Raises:
        DataError: a class, or the whole, has fewer than three images; or no train image has some value of a field.
    """
    place = whole.contents().copy().view(">u8")[:, 0] / 2.0**64  # spread evenly over [0, 1)
    chosen = np.zeros(len(whole), bool)
    groups = {f"class '{name}'": whole.labels == label for label, name in enumerate(whole.classes)}
    if whole.described:
        groups = {f"'{whole.root or whole.store}'": np.ones(len(whole), bool)}
    for what, inside in groups.items():
        members = np.flatnonzero(inside)
        if len(members) < 3:
            raise DataError(
                f"{what} has {len(members)} images: too few to train on, to choose on and to test on",
                hint="add images" if whole.described else "add images, or remove the folder",
            )
        order = members[np.argsort(place[members], kind="stable")]
        count = min(max(1, int((place[members] < share).sum())), len(members) - 2)
        chosen[order[:count]] = True
    if whole.described and not asked.again:
        _require_in_train(whole, chosen, asked)
    return chosen


def _require_in_train(whole: ImageSet, chosen: Any, asked: Asked) -> None:
    """Refuse a share for testing that has all images of some value: nothing could be learned of it."""
    both = whole.labels, whole.labels[chosen]
    counts = [np.bincount(labels[labels >= 0], minlength=len(whole.classes)) for labels in both]
    for name, everywhere, tested in zip(whole.classes, *counts, strict=True):
        if everywhere and everywhere == tested and name not in asked.ignore:
            raise DataError(
                f"data.test takes all {everywhere} images of '{name}' for testing, and none is left to train on",
                hint=f"add images, choose another share, or leave it out: data.ignore = ['{name}']",
            )


def _load(source: str, root: str, split: str, image: ImageSpec, asked: Asked, *, download: bool) -> ImageSet:
    if source == "digits":
        return _arranged(_digits(split, image), asked)
    if source == "folder":
        return _folder(Path(root) if root else None, split, image, asked)
    if source in ("webdataset", "arrays"):
        layout, read = (SHARDS, shards) if source == "webdataset" else (ARRAYS, arrays)
        if not root:
            raise DataError(f"data.root is not set; {layout}", hint="--set data.root=<folder>")
        found = read(Path(root), split, image, asked)
        return found if found.fields or source == "arrays" else _arranged(found, asked)
    if source == "dsprites":
        return _arranged(dsprites(split, image, asked.images or DSPRITES), asked)
    if source in TORCHVISION:
        return _arranged(_torchvision(source, root, split, image, download=download), asked)
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
    return ImageSet(DIGITS, labels[rows], rows, image, fit_all(pixels, image, "digits"), content=of_arrays(pixels))


def _folder(root: Path | None, split: str, image: ImageSpec, asked: Asked) -> ImageSet:
    layout = (
        "a folder is laid out as root/{train,test}/<class>/, with jpg, png, webp, tif and other images, or as "
        "root/{train,test}/images/ with attributes.csv beside it"
    )
    if root is None or not (root / split).is_dir():
        missing = "data.root is not set" if root is None else f"there is no folder '{root / split}'"
        hint = "--set data.root=<folder>"
        if root is not None and split == "test" and (root / "train").is_dir():
            hint = (
                "--set data.test=0.1 takes a share of the train images of each class for it, as data.validation does; "
                "or put some there"
            )
        raise DataError(f"{missing}; {layout}", hint=hint)
    if any(is_described(root / each) for each in ("train", "test")):
        return described(root, split, image, asked)
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
    found = ImageSet(
        classes, np.array(labels, dtype=np.int64), rows, image, paths=tuple(paths), root=root / split,
        order="numbers" if numbered(classes) else "names", note=note,
    )  # fmt: skip
    return _arranged(found, asked)


def _arranged(found: ImageSet, asked: Asked) -> ImageSet:
    """Return a set whose fields are the source's own with those only that are asked for, in the order asked for.

    Raises:
        DataError: a field or a class is not there, or the order lacks a class.
    """
    there = found.field_names
    for name in () if asked.again else (*asked.orders, *(asked.only or ())):
        if name not in there and asked.reads(name):
            raise DataError(f"the data have no field '{name}'", allowed=there, hint=nearest(name, there))
    kept = [name for name in there if asked.reads(name)] if found.fields else list(there)
    wanted: list[str] = []
    for name in kept:
        own = [c for i, c in enumerate(found.classes) if not found.fields or found.fields[i] == name]
        order = list(column_names(name, asked.orders.get(name, ()))) or own
        if asked.again:  # classes may have come, or gone
            order = [*(c for c in order if c in own), *(c for c in own if c not in order)]
        if odd := [*(c for c in order if c not in own), *(c for c in own if c not in order)]:
            which = "names '{}', which the data do not have" if odd[0] in order else "lacks '{}'"
            raise DataError(
                f"data.fields.{name}.classes {which.format(odd[0])}", allowed=own, hint=nearest(odd[0], own)
            )
        wanted += order
    if not wanted:
        raise DataError("the data have no field that is asked for", allowed=there)
    return replace(found.only(wanted), ignored=tuple(name for name in there if name in asked.ignore and found.fields))


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
    return ImageSet(classes, labels, rows, image, fit_all(pixels, image, source), content=of_arrays(pixels))
