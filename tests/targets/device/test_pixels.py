import io
import tracemalloc

import numpy as np
import pytest
from mutants import png
from PIL import Image

from kfdeploy.targets.device.pixels import MOST, decode, fit, is_hidden, readable


def packed(image, kind="PNG", **more):
    stream = io.BytesIO()
    image.save(stream, kind, **more)
    stream.seek(0)
    return stream


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_photo_is_read_as_every_viewer_shows_it(orientation, kind):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # bright at the top left
    undo = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    stored, exif = Image.fromarray(upright), Image.Exif()
    if orientation > 1:
        stored = stored.transpose(Image.Transpose[undo[orientation]])
    exif[0x0112] = orientation
    found = np.asarray(decode(packed(stored, kind, exif=exif), 3))
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).max() < 40
    small = fit(decode(packed(stored, kind, exif=exif), 3, 8), (8, 8), 8, "bilinear")
    assert small[0, 0, 0] > small[7, 7, 0]


def test_what_a_camera_wrote_beside_the_picture_may_be_anything():
    stream = packed(Image.new("RGB", (8, 8), "red"), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(stream, 3).getpixel((0, 0))[0] > 200


def test_of_a_large_photo_no_more_is_decoded_than_is_needed():
    photo = Image.effect_mandelbrot((2400, 1600), (-2, -1, 1, 1), 50).convert("RGB")
    stream = packed(photo, "JPEG", quality=90)
    assert min(decode(stream, 3, 224).size) in range(448, 801)
    stream.seek(0)
    drafted = fit(decode(stream, 3, 224), (224, 224), 224, "bilinear").astype(float)
    stream.seek(0)
    whole = fit(decode(stream, 3), (224, 224), 224, "bilinear").astype(float)
    assert np.abs(drafted - whole).mean() < 3


def test_a_thin_image_needs_little_memory():
    stream = packed(Image.new("L", (20000, 1), 77))
    tracemalloc.start()
    found = fit(decode(stream, 3, 224), (224, 224), 224, "bilinear")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found == 77).all()
    assert peak < 64e6


def test_only_what_the_crop_needs_is_the_crop_of_the_whole(monkeypatch):
    from kfdeploy.targets.device import pixels

    image = Image.effect_mandelbrot((300, 40), (-2, -1, 1, 1), 50).convert("RGB")
    whole = fit(image, (64, 64), 64, "bilinear").astype(int)
    monkeypatch.setattr(pixels, "_WIDE", 1)
    assert np.abs(fit(image, (64, 64), 64, "bilinear") - whole).max() <= 1


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    side = int(MOST**0.5) + 10
    with pytest.raises(ValueError, match="at most 128,000,000 are read"):
        decode(packed(Image.new("1", (side, side))), 1)


def test_names_and_extensions():
    assert all(map(is_hidden, (".x", "._a.png", "Thumbs.db", "__MACOSX")))
    assert not is_hidden("-1")
    assert {".png", ".jpg", ".tif", ".gif"} <= set(readable())


def test_stages_are_timed_on_the_users_photo_else_on_the_shipped_one(tmp_path):
    from kfdeploy.targets.device.pixels import stages

    golden = np.zeros((8, 8, 3), np.uint8)
    Image.new("RGB", (40, 30), (9, 9, 9)).save(tmp_path / "own.jpg")
    own = stages(golden, (8, 8), 3, 10, "bilinear", str(tmp_path / "own.jpg"))
    assert own["decode"]().size == (40, 30)
    assert own["preprocess"]().shape == (8, 8, 3)
    shipped = stages(golden, (224, 224), 3, 256, "bilinear")
    assert shipped["decode"]().size == (640, 427)
    assert shipped["preprocess"]().shape == (224, 224, 3)
    assert stages(golden, (8, 8), 3, 0, "bilinear")["decode"]().size == (8, 8)  # it does not resize


def test_a_small_file_is_no_picture_of_gigabytes():
    for width, height in ((1, 2**26), (2**26, 1), (5000, 5000)):
        with pytest.raises(ValueError, match="holds no such picture"):
            decode(io.BytesIO(png(width, height, 8, 2, b"")), 3)
    assert decode(packed(Image.new("RGB", (2000, 2000))), 3).size == (2000, 2000)


def test_what_a_decoder_trips_over_is_an_error_of_the_file(monkeypatch):
    def trip(*_):
        raise KeyError("tile")

    whole = packed(Image.new("RGB", (8, 8)), "BMP")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", trip)
    with pytest.raises(OSError, match="is damaged: KeyError 'tile'"):
        decode(whole, 3)
    with pytest.raises(OSError, match="cannot identify"):  # it would be run by another program
        decode(io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"), 3)
