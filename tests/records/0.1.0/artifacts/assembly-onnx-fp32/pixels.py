"""From a decoded image to a model's input. Numpy and Pillow alone: this file goes into the device kits as it is."""

from typing import Any

import numpy as np


def to_channels(decoded: Any, channels: int) -> Any:
    """Convert a Pillow image of any mode to 8-bit grayscale (1) or RGB (3)."""
    from PIL import Image

    if decoded.mode.startswith(("I", "F")):  # 16 bits a pixel: Pillow's own conversion clips instead of scaling
        wide = np.asarray(decoded, dtype=np.float64)
        top = 255.0 if decoded.mode == "F" and wide.max(initial=0) <= 255 else 65535.0
        decoded = Image.fromarray(np.clip(wide * (255.0 / top) + 0.5, 0, 255).astype(np.uint8))
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
        if wanted != decoded.size:
            decoded = decoded.resize(wanted, Image.Resampling[interpolation.upper()])
    if decoded.width < width or decoded.height < height or (not resize and decoded.size != (width, height)):
        raise ValueError(f"is {decoded.width}×{decoded.height} pixels, the model takes {width}×{height}")
    left, top = (decoded.width - width) // 2, (decoded.height - height) // 2
    array = np.asarray(decoded.crop((left, top, left + width, top + height)), dtype=np.uint8)
    return array.reshape(height, width, len(decoded.getbands()))


def stages(image: Any, size: tuple[int, int], channels: int, resize: int, interpolation: str) -> dict[str, Any]:
    """Return the stages before inference, to be timed: a PNG of `image` (H, W, C) is decoded, then fitted."""
    import io

    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(packed, "PNG")

    def decode() -> Any:
        packed.seek(0)
        with Image.open(packed) as opened:
            return to_channels(opened.copy(), channels)

    decoded = decode()
    return {"decode": decode, "preprocess": lambda: fit(decoded, size, resize, interpolation)}
