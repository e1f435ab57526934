"""From an image file to a model's input. Numpy and Pillow alone: this file goes into the device kits as it is."""

from typing import Any

import numpy as np

# What is looked for in a folder, as far as the Pillow that is installed reads it.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif")
MOST = 128_000_000  # pixels of a file: more is refused before anything is decoded
_WIDE = 1 << 24  # pixels of a resized image: of a larger one only what the crop needs is made
# Bytes of a decoded image that any file may have, and how many times its own bytes a larger one may have: a file of
# some hundred bytes can say that it is a picture of gigabytes, and no camera packs that well.
_SURE, _RATIO = 32 << 20, 400
_OTHERS = ("MPO", "PPM", "DIB")  # formats that are read besides those of `EXTENSIONS`


def is_hidden(name: str) -> bool:
    """Return whether a name is none of the user's: hidden, or left behind by a system or an editor."""
    return name.startswith((".", "__MACOSX")) or name.lower() in ("thumbs.db", "desktop.ini")


def readable() -> tuple[str, ...]:
    """Return the extensions of images that the installed Pillow reads."""
    from PIL import Image

    known = Image.registered_extensions()
    return tuple(name for name in EXTENSIONS if known.get(name) in Image.OPEN)


def decode(source: Any, channels: int, resize: int = 0) -> Any:
    """Return an image file, a path or a stream, upright, as an 8-bit Pillow image of 1 or 3 channels.

    Upright is as its EXIF orientation says. Of a JPEG that will be resized to `resize` pixels on its shorter side, not
    much more than twice that is decoded. A file of several pictures gives the first.

    Raises:
        OSError, SyntaxError: it does not decode.
        ValueError: it has too many pixels, or more than a file of its size holds.
    """
    try:
        return _decoded(source, channels, resize)
    except (OSError, SyntaxError, ValueError):
        raise
    except Exception as error:  # what a format's reader trips over in a damaged file: struct, KeyError, MemoryError …
        raise OSError(f"is damaged: {type(error).__name__} {error}") from None


def _decoded(source: Any, channels: int, resize: int) -> Any:
    import warnings

    from PIL import Image, ImageOps

    # Pillow warns at two thirds of what is refused below, and of what a camera wrote beside the picture.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", message="Corrupt EXIF data")
    known = Image.registered_extensions()
    formats = [name for name in (*(known.get(each, "") for each in EXTENSIONS), *_OTHERS) if name in Image.OPEN]
    size = _bytes_of(source)
    with Image.open(source, formats=list(dict.fromkeys(formats))) as opened:
        if resize and min(opened.size) > 2 * resize:
            scale = 2 * resize / min(opened.size)
            opened.draft(None, (round(opened.width * scale), round(opened.height * scale)))
        if opened.width * opened.height > MOST:
            raise ValueError(f"is {opened.width}×{opened.height} pixels, and at most {MOST:,} are read")
        # Four bytes a pixel, and eight for where a row is.
        if opened.height * (4 * opened.width + 8) > max(_SURE, min(4 * MOST, _RATIO * size)):
            raise ValueError(
                f"is {opened.width}×{opened.height} pixels, and a file of {size:,} bytes holds no such picture"
            )
        opened.load()
        try:
            ImageOps.exif_transpose(opened, in_place=True)
        except Exception:  # what a camera wrote beside the picture may be anything; the picture is whole
            return to_channels(opened, channels)
        return to_channels(opened, channels)


def _bytes_of(source: Any) -> int:
    """Return how many bytes a file has, a path or a stream."""
    if not hasattr(source, "seek"):
        from pathlib import Path

        return Path(source).stat().st_size
    at = source.tell()
    size = int(source.seek(0, 2))
    source.seek(at)
    return size


def to_channels(decoded: Any, channels: int) -> Any:
    """Convert a Pillow image of any mode to 8-bit grayscale (1) or RGB (3)."""
    from PIL import Image

    if decoded.mode.startswith(("I", "F")):  # 16 bits a pixel: Pillow's own conversion clips instead of scaling
        wide = np.array(decoded, dtype=np.float64)
        top = 255.0 if decoded.mode == "F" and wide.max(initial=0) <= 255 else 65535.0
        wide *= 255.0 / top
        wide += 0.5
        decoded = Image.fromarray(np.clip(wide, 0, 255, out=wide).astype(np.uint8))
    if decoded.mode in ("P", "PA", "LA", "RGBA") or "transparency" in decoded.info:
        decoded = decoded.convert("RGBA")
        decoded = Image.alpha_composite(Image.new("RGBA", decoded.size, "white"), decoded)
    return decoded.convert("L" if channels == 1 else "RGB")


def fit(decoded: Any, size: tuple[int, int], resize: int, interpolation: str) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Resize the shorter side to `resize` pixels (0: not at all) and return the centre `size` as uint8 (H, W, C).

    Raises:
        ValueError: the image is smaller than `size`, or of another size and not resized.
    """
    from PIL import Image

    height, width = size
    if resize:
        scale = resize / min(decoded.size)
        wanted = tuple(max(resize, round(side * scale)) for side in decoded.size)
        resampling = Image.Resampling[interpolation.upper()]
        if wanted[0] * wanted[1] > _WIDE and wanted[0] >= width and wanted[1] >= height:
            box = _centre(wanted, (width, height))
            back = [side / new for side, new in zip(decoded.size * 2, wanted * 2)]
            decoded = decoded.resize((width, height), resampling, box=[a * b for a, b in zip(box, back)])
        elif wanted != decoded.size:
            decoded = decoded.resize(wanted, resampling)
    if decoded.width < width or decoded.height < height or (not resize and decoded.size != (width, height)):
        raise ValueError(f"is {decoded.width}×{decoded.height} pixels, the model takes {width}×{height}")
    array = np.asarray(decoded.crop(_centre(decoded.size, (width, height))), dtype=np.uint8)
    return array.reshape(height, width, len(decoded.getbands()))


def _centre(whole: tuple[int, ...], part: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top = (whole[0] - part[0]) // 2, (whole[1] - part[1]) // 2
    return left, top, left + part[0], top + part[1]


def stages(
    image: Any, size: tuple[int, int], channels: int, resize: int, interpolation: str, photo: str = ""
) -> dict[str, Any]:
    """Return the stages before inference, to be timed: a file is decoded, then fitted.

    It is the file `photo`, as a device gets them; where none is at hand, the one beside this module. A model that does
    not resize takes neither: a PNG of `image` (H, W, C).
    """
    import io
    from pathlib import Path

    from PIL import Image

    shipped = Path(__file__).with_name("photo.jpg")
    photo = photo or (str(shipped) if resize and shipped.is_file() else "")
    packed = io.BytesIO(Path(photo).read_bytes() if photo else b"")
    if not photo:
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(packed, "PNG")

    def opened() -> Any:
        packed.seek(0)
        return decode(packed, channels, resize)

    decoded = opened()
    return {"decode": opened, "preprocess": lambda: fit(decoded, size, resize, interpolation)}
