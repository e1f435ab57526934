"""dSprites, rendered: the published pictures, in an order that never changes."""

import hashlib
import time
from pathlib import Path

import numpy as np
import pytest

from kfdeploy.data.dsprites import COUNT, FACTORS, SIDE, dsprites, factors_of, render
from kfdeploy.data.fields import Asked
from kfdeploy.data.sources import load_split
from kfdeploy.errors import DataError
from kfdeploy.tasks.spec import ImageSpec

SPEC = ImageSpec((SIDE, SIDE), 1, (0.0,), (1.0,))
SHARED = Path(__file__).parents[3] / "shared" / "data"


def load(split="train", image=SPEC, **asked):
    return load_split("dsprites", "", split, image, asked=Asked(**asked))


def test_five_fields_and_seven_of_ten_for_training():
    train, test = load(images=1000), load("test", images=1000)
    assert (len(train), len(test)) == (700, 300)
    assert train.field_names == tuple(FACTORS) == ("shape", "scale", "orientation", "x", "y")
    assert train.classes[:10] == (
        "shape: square", "shape: ellipse", "shape: heart", "scale: 0.5", "scale: 0.6", "scale: 0.7", "scale: 0.8",
        "scale: 0.9", "scale: 1.0", "orientation: 0",
    )  # fmt: skip
    assert len(train.classes) == 3 + 6 + 40 + 32 + 32
    assert train.load([0]).shape == (1, 64, 64, 1)
    assert train.images is None
    assert not set(train.texts()) & set(test.texts())
    for i, (field, texts) in enumerate(FACTORS.items()):
        assert train.texts_of(field)[5] == f"{field}: {texts[factors_of(train.store.at[5:6])[0, i]]}"


def test_fewer_images_are_a_part_of_more():
    assert set(load(images=500).texts()) < set(load(images=1000).texts())
    assert set(load("test", images=500).texts()) < set(load("test", images=1000).texts())
    assert (len(load()), len(load("test"))) == (70_000, 30_000)


def test_each_combination_is_there_once():
    numbers = np.arange(COUNT)
    assert np.array_equal(factors_of(numbers[[0, 1, 32, 1024, 40960, 245760]]), [
        [0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0],
    ])  # fmt: skip
    assert factors_of(numbers[-1:]).tolist() == [[2, 5, 39, 31, 31]]


def test_the_pictures_are_what_they_were():
    """The hash of 3,000 pictures' bits, which were compared with those that the geometry was fitted to."""
    images = render(factors_of(np.random.RandomState(1).permutation(COUNT)[:3000]))
    assert (
        hashlib.sha256(np.packbits(images > 0).tobytes()).hexdigest()
        == "d19aacb2c7e1507dcecde51ffb5d69f607154cd2f9f8135801246cc6e27ce10a"
    )
    assert set(np.unique(images)) == {0, 255}


def test_the_last_orientation_is_the_first_as_in_the_published_set():
    factors = np.array([[s, 3, o, 7, 20] for s in range(3) for o in (0, 39, 38)])
    images = render(factors)
    for first, last, other in images.reshape(3, 3, SIDE, SIDE):
        assert np.array_equal(first, last)
        assert not np.array_equal(first, other)


def test_shapes_are_where_they_should_be():
    images = render(np.array([[s, 5, 0, 0, 31] for s in range(3)])) > 0
    for image, area in zip(images, (19.2**2, np.pi * 12.768 * 7.218, None), strict=True):
        rows, columns = np.nonzero(image)
        assert abs(columns.mean() - 15.5) < 0.6
        assert abs(rows.mean() - 47.5) < 2.5
        assert area is None or abs(image.sum() - area) < 40  # a pixel more or less along the edge


def test_rendering_is_fast_and_asked_for():
    found = load(images=20_000)
    began = time.process_time()
    found.take(np.arange(4000)).load()
    assert time.process_time() - began < 4  # a thousand a second; quiet machines do a hundred times that
    assert np.array_equal(found.take(np.arange(50)).in_memory().load([7]), found.load([7]))
    assert np.array_equal(found.contents()[:3], found.take(np.arange(3)).in_memory().contents())


def test_other_inputs_fields_and_orders():
    found = load(image=ImageSpec((32, 32), 3, (0.0,) * 3, (1.0,) * 3, resize=32), images=200)
    assert found.load([0, 1]).shape == (2, 32, 32, 3)
    found = load(images=200, ignore=("x", "y"), orders={"shape": ("heart", "square", "ellipse")})
    assert found.field_names == ("shape", "scale", "orientation")
    assert found.ignored == ("x", "y")
    assert found.classes[:3] == ("shape: heart", "shape: square", "shape: ellipse")
    assert found.texts_of("shape") == load(images=200).texts_of("shape")
    with pytest.raises(DataError, match="the data have no field 'z'"):
        load(images=200, orders={"z": ()})
    with pytest.raises(DataError, match="data.fields.shape.classes lacks 'shape: ellipse'"):
        load(images=200, orders={"shape": ("heart", "square")})
    with pytest.raises(DataError, match="data.fields.shape.classes names 'shape: star', which the data do not have"):
        load(images=200, orders={"shape": ("heart", "square", "ellipse", "star")})
    with pytest.raises(DataError, match="the data have no field that is asked for"):
        load(images=200, ignore=tuple(FACTORS))


def test_published_pictures_come_out_bit_by_bit():
    """A part of the published archive, `dsprites*.npz` with its `imgs` and `latents_classes`, lies beside a checkout."""
    found = sorted(SHARED.glob("dsprites*.npz"))
    if not found:
        pytest.skip(f"no part of the published set is in '{SHARED}'")
    with np.load(found[0], allow_pickle=False) as archive:
        images, factors = archive["imgs"], archive["latents_classes"][:, -5:]
    same = (render(factors.astype(np.int64)) > 0) == (images > 0)
    assert same.all((1, 2)).mean() >= 0.996


def test_the_test_split_is_its_own():
    assert np.array_equal(dsprites("test", SPEC, 100).store.at, load("test", images=100).store.at)
