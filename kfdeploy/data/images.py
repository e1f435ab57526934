"""Image files as model inputs: decoding and channel conversion, resizing and cropping, in parallel."""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kfdeploy.arrays import Images, Labels
from kfdeploy.errors import DataError, first_line
from kfdeploy.reading import open_regular
from kfdeploy.targets.device import pixels
from kfdeploy.targets.device.pixels import to_channels
from kfdeploy.tasks.spec import ImageSpec


class Packed(Protocol):
    """A file inside another one, such as a tar's member."""

    @property
    def size(self) -> int:
        """Its bytes."""
        ...

    def read(self) -> bytes:
        """Return its bytes; an OSError where it is gone."""
        ...


File = Path | Packed


class Store(Protocol):
    """Images that are no files of their own: their pixels are read, or made, when they are asked for."""

    def take(self, indices: Labels) -> "Store":
        """Return the images at `indices`."""
        ...

    def pixels(self, indices: Labels) -> Images:
        """Return the images at `indices` as they are, uint8 (n, h, w) or (n, h, w, c); an error of ours if gone."""
        ...


def read_image(path: File, image: ImageSpec) -> Images:
    """Return one file as uint8 (H, W, C), upright, converted to the spec's channels, resized and cropped.

    Raises:
        DataError: the file does not decode, or its size does not fit and the spec does not resize.
    """
    return fit(decode(path, image.channels, image.resize), image, str(path))


def decode(path: File, channels: int, resize: int = 0) -> Any:
    """Return one file as an upright 8-bit Pillow image of 1 or 3 channels; see `targets.device.pixels.decode`.

    Raises:
        DataError: the file is missing or does not decode.
    """
    try:
        with open_regular(path) if isinstance(path, Path) else io.BytesIO(path.read()) as stream:
            return pixels.decode(stream, channels, resize)
    except FileNotFoundError:
        raise DataError(f"there is no image at '{path}'") from None
    except OSError as error:
        why = str(error) if error.strerror is None else error.strerror
        raise DataError(f"'{path}' does not decode: {why}", hint="remove the file, or save it again") from None
    except Exception as error:  # Pillow's decoders raise whatever their formats' libraries and their own slips give
        raise DataError(
            f"'{path}' does not decode: {first_line(error)[:300]}", hint="remove the file, or save it again"
        ) from None


def fit(decoded: Any, image: ImageSpec, origin: str) -> Images:
    """Resize the shorter side, cut out the centre, and return uint8 (H, W, C).

    Raises:
        DataError: the size does not fit and the spec does not resize.
    """
    try:
        return pixels.fit(decoded, image.size, image.resize, image.interpolation)
    except ValueError as error:
        raise DataError(
            f"'{origin}' {error}", hint=f"set image.resize = {min(image.size)} in the recipe, or resize the files"
        ) from None


def read_images(paths: Sequence[File], image: ImageSpec, workers: int = 0) -> Images:
    """Return files as uint8 (N, H, W, C), decoded in parallel (Pillow lets go of the interpreter while it decodes).

    Raises:
        DataError: files that do not decode, named and counted.
    """
    out = np.empty((len(paths), *image.shape), dtype=np.uint8)
    bad: list[DataError] = []

    def read(i: int) -> None:
        try:
            out[i] = read_image(paths[i], image)
        except DataError as error:
            bad.append(error)

    _spread(read, len(paths), workers or os.cpu_count() or 1)
    if len(bad) == 1:
        raise bad[0]
    if bad:
        raise DataError(f"{len(bad)} of {len(paths)} images cannot be used; the first: {bad[0]}", hint=bad[0].hint)
    return out


def fit_all(pixels: Images, image: ImageSpec, origin: str) -> Images:
    """Bring (N, h, w) or (N, h, w, c) pixels to the spec, through Pillow only where they differ from it.

    Raises:
        DataError: the size does not fit and the spec does not resize.
    """
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.shape[1:] == image.shape:
        return pixels
    from PIL import Image

    out = np.empty((len(pixels), *image.shape), np.uint8)
    for i, array in enumerate(pixels):
        decoded = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
        out[i] = fit(to_channels(decoded, image.channels), image, origin)
    return out


def _spread(work: Callable[[int], None], count: int, workers: int) -> None:
    if count < 64:
        for i in range(count):
            work(i)
        return

    def chunk(start: int) -> None:
        for i in range(start, min(start + 256, count)):
            work(i)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(chunk, range(0, count, 256)))
