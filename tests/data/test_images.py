import numpy as np
import pytest
from PIL import Image

from kfdeploy.data.images import read_image, read_images
from kfdeploy.errors import DataError
from kfdeploy.tasks.spec import ImageSpec

RGB = ImageSpec((4, 6), 3, (0.0,) * 3, (1.0,) * 3)
GRAY = ImageSpec((4, 6), 1, (0.0,), (1.0,))
PIXELS = np.arange(72, dtype=np.uint8).reshape(4, 6, 3) * 3


def save(tmp_path, image, name="x.png"):
    image.save(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("name", ["x.png", "x.bmp", "x.webp"])
def test_lossless_files_come_back_as_they_were(tmp_path, name):
    path = tmp_path / name
    Image.fromarray(PIXELS).save(path, **({"lossless": True} if name.endswith("webp") else {}))
    assert np.array_equal(read_image(path, RGB), PIXELS)


def test_grayscale_becomes_rgb_and_back(tmp_path):
    path = save(tmp_path, Image.fromarray(PIXELS[..., 0]))
    assert np.array_equal(read_image(path, RGB), np.repeat(PIXELS[..., :1], 3, axis=2))
    assert np.array_equal(read_image(path, GRAY), PIXELS[..., :1])


def test_palette_images_are_looked_up(tmp_path):
    image = Image.fromarray(PIXELS).quantize(256)
    assert image.mode == "P"
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_image(save(tmp_path, image), RGB), expected)


def test_transparency_lies_on_white(tmp_path):
    pixels = np.dstack([PIXELS, np.zeros((4, 6), np.uint8)])
    assert (read_image(save(tmp_path, Image.fromarray(pixels)), RGB) == 255).all()


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (6, 4), (255, 0, 0, 0))
    found = read_image(save(tmp_path, image, "x.jpg"), RGB)
    assert found.shape == (4, 6, 3)
    assert found[..., 0].max() < 40
    assert found[..., 1].min() > 215


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    wide = np.linspace(0, 65535, 24).reshape(4, 6).astype(np.uint16)
    found = read_image(save(tmp_path, Image.fromarray(wide)), GRAY)[..., 0]
    assert np.abs(found.astype(float) - wide / 257.0).max() <= 1
    assert found.min() == 0
    assert found.max() == 255


def test_resizing_and_cropping_to_the_spec(tmp_path):
    path = save(tmp_path, Image.fromarray(np.repeat(np.repeat(PIXELS, 3, 0), 3, 1)))
    spec = ImageSpec((4, 4), 3, (0.0,) * 3, (1.0,) * 3, resize=4)
    assert read_image(path, spec).shape == (4, 4, 3)


def test_a_wrong_size_is_named(tmp_path):
    path = save(tmp_path, Image.fromarray(PIXELS))
    with pytest.raises(DataError, match="is 6×4 pixels, the model takes 5×5") as caught:
        read_image(path, ImageSpec((5, 5), 3, (0.0,) * 3, (1.0,) * 3))
    assert "image.resize = 5" in caught.value.hint


def test_images_that_do_not_decode_are_named_and_counted(tmp_path):
    good = save(tmp_path, Image.fromarray(PIXELS))
    bad = tmp_path / "bad.png"
    bad.write_bytes(good.read_bytes()[:45])
    with pytest.raises(DataError, match=r"bad\.png' does not decode"):
        read_images([good, bad], RGB)
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    with pytest.raises(DataError, match=r"2 of 3 images cannot be used; the first: .*bad\.png' does not decode"):
        read_images([good, bad, text], RGB)
    with pytest.raises(DataError, match="there is no image at"):
        read_image(tmp_path / "none.png", RGB)


def test_many_files_keep_their_order(tmp_path):
    paths = []
    for i in range(300):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(np.full((4, 6, 3), i % 256, np.uint8)).save(paths[-1])
    found = read_images(paths, RGB, workers=2)
    assert np.array_equal(found[:, 0, 0, 0], np.arange(300) % 256)
