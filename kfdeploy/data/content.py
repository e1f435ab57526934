"""What a training was made from: every image by the hash of its content, so that the same one is found again."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfdeploy.arrays import Arrays, Content, Images
from kfdeploy.errors import DataError
from kfdeploy.reading import open_regular, reason

if TYPE_CHECKING:
    from kfdeploy.data.images import File

BYTES = 8  # of a SHA-256: in a million images two share them with a chance below one in ten million
_AT_ONCE = 1 << 20


def of_arrays(images: Images) -> Content:
    """Return the content (N, 8) of images in memory, (N, …): the hash of their pixels."""
    found = b"".join(hashlib.sha256(image.tobytes()).digest()[:BYTES] for image in images)
    return np.frombuffer(found, np.uint8).reshape(-1, BYTES)


def of_files(files: "Sequence[File]") -> Content:
    """Return the content (N, 8) of image files: the hash of their bytes, read in parallel.

    Raises:
        DataError: one cannot be read.
    """
    if not files:
        return np.zeros((0, BYTES), np.uint8)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        found = b"".join(pool.map(_digest, files, chunksize=64))
    return np.frombuffer(found, np.uint8).reshape(-1, BYTES)


def _digest(file: "File") -> bytes:
    try:
        if not isinstance(file, Path):
            return hashlib.sha256(file.read()).digest()[:BYTES]
        digest = hashlib.sha256()
        with open_regular(file) as stream:
            while block := stream.read(_AT_ONCE):
                digest.update(block)
        return digest.digest()[:BYTES]
    except OSError as error:
        raise DataError(f"'{file}' cannot be read: {reason(error)}", hint="remove the file, or save it again") from None


def find(wanted: Content, classes: Sequence[str], there: Content, names: Sequence[str]) -> list[int]:
    """Return where each wanted image lies among those that are there, -1 where it does not.

    `classes` are the wanted images' classes and `names` those of the ones that are there: of equal images the one in
    the same class is taken.
    """
    at: dict[bytes, list[int]] = {}
    for i, each in enumerate(there):
        at.setdefault(each.tobytes(), []).append(i)
    found = []
    for each, name in zip(wanted, classes, strict=True):
        alike = at.get(each.tobytes(), [-1])
        found.append(next((i for i in alike if i >= 0 and names[i] == name), alike[0]))
    return found


@dataclass(frozen=True)
class Record:
    """What a training was made from: its images' names, sizes, content, classes, and which were held back.

    All arrays are (N,), in the order of the source; `content` is (N, 8), and `labels` are those of an `ImageSet`.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    sizes: np.ndarray[Any, np.dtype[np.int64]]  # bytes
    labels: np.ndarray[Any, np.dtype[np.int64]]
    held: np.ndarray[Any, np.dtype[np.uint8]]  # 1: a validation image
    content: Content
    order: str  # of the classes: names, numbers, or the source's own

    def arrays(self) -> Arrays:
        """Return it as arrays for a file."""
        return {
            "classes": _packed(self.classes), "names": _packed(self.names), "sizes": self.sizes, "labels": self.labels,
            "validation": self.held, "content": self.content, "order": _packed((self.order,)),
        }  # fmt: skip

    @classmethod
    def of(cls, arrays: Arrays) -> "Record":
        """Return the record that `arrays` gave.

        Raises:
            DataError: they are no record.
        """
        try:
            return cls(
                _unpacked(arrays["classes"]), _unpacked(arrays["names"]), arrays["sizes"], arrays["labels"],
                arrays["validation"], arrays["content"], _unpacked(arrays["order"])[0],
            )  # fmt: skip
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise DataError(f"the record of the images is damaged: {error}") from None

    def about(self) -> dict[str, Any]:
        """Return it in a few words, for a manifest."""
        digest = hashlib.sha256(self.content.tobytes() + self.labels.tobytes() + self.held.tobytes())
        held = int(self.held.sum())
        return {
            "train": len(self.names) - held,
            "validation": held,
            "order": self.order,
            "sha256": digest.hexdigest(),
        }

    def change(self, now: "Record") -> str:
        """Say in what the images of `now` differ from these, or nothing."""
        before, after = self._each(), now._each()
        if before == after:
            return ""
        fresh, gone = Counter(after) - Counter(before), Counter(before) - Counter(after)
        if not fresh and not gone:
            return "they lie in another order, under other names"
        told = []
        for what, some, where in (("new", fresh, now), ("gone", gone, self)):
            if some:
                of = where._each()
                first = next(where.names[i] for i, each in enumerate(of) if each in some)
                told.append(f"{some.total()} of {len(of)} are {what}" + (f", such as '{first}'" if first else ""))
        return "; ".join(told) + (" (the same images, split or sorted otherwise, count too)" if self._same(now) else "")

    def _each(self) -> list[tuple[bytes, str, int]]:
        names = [self._text(np.atleast_1d(labels)) for labels in self.labels]
        return [
            (each.tobytes(), name, int(held)) for each, name, held in zip(self.content, names, self.held, strict=True)
        ]

    def _text(self, labels: np.ndarray[Any, Any]) -> str:
        return "; ".join(self.classes[label] if label >= 0 else "" for label in labels)

    def _same(self, other: "Record") -> bool:
        return sorted(map(bytes, self.content)) == sorted(map(bytes, other.content))


def _packed(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer("\0".join(texts).encode(), np.uint8)


def _unpacked(array: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[str, ...]:
    return tuple(array.tobytes().decode().split("\0"))
