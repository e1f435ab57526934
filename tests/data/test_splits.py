"""Validation images on record are found again by content, whatever came later; those of 0.1.0 by position, checked."""

import shutil

import numpy as np
import pytest
from PIL import Image

from kfdeploy.data.sources import load_split
from kfdeploy.data.splits import spread, validation_images, validation_set
from kfdeploy.errors import DataError
from kfdeploy.tasks.evidence import Seen, golden_samples


@pytest.fixture
def data(toy, tmp_path):
    shutil.copytree(toy.data, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def spec(toy):
    return toy.recipe.image.spec()


def seen_of(data, spec, *, content=True):
    whole = load_split("folder", str(data), "train", spec)
    rows = np.arange(2, len(whole), 3)
    held = whole.take(rows)
    golden = golden_samples(held.labels)
    labels = tuple(held.classes[label] for label in held.labels)
    if content:
        return Seen({"class": labels}, rows, held.contents()), held.load()
    return Seen({"class": labels}, rows, None, (golden, held.load(golden))), held.load()


def about(data):
    return {"source": "folder", "root": str(data)}


def test_pictures_classes_and_names_that_came_later_change_nothing(data, spec):
    seen, images = seen_of(data, spec)
    train = data / "train"
    shutil.copytree(train / "cat", train / "aaa")  # sorts first, with the same pictures
    for i in range(3):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(train / "cat" / f"0-{i}.png")
    first = sorted((train / "dog").iterdir())[0]
    first.rename(train / "dog" / "zzz.png")
    found = validation_set(about(data), seen, spec)
    assert (found.load() == images).all()
    assert [found.classes[label] for label in found.labels] == list(seen.labels["class"])
    assert "aaa" in found.classes
    few = validation_images(about(data), seen, spec, 5)
    assert (few == images[spread(len(images), 5)]).all()
    (train / "cat").rename(train / "kitten")  # the class on record stays what it was
    assert (validation_set(about("elsewhere"), seen, spec, data).only(["cat", "dog"]).load()[:1] == images[:1]).all()


def test_an_image_that_is_gone_is_counted_with_its_class(data, spec):
    seen, _ = seen_of(data, spec)
    whole = load_split("folder", str(data), "train", spec)
    whole.paths[int(seen.rows[0])].unlink()
    with pytest.raises(DataError, match=rf"lacks 1 of the {len(seen.rows)} validation images on record, .*'cat'"):
        validation_set(about(data), seen, spec)


def test_what_0_1_0_wrote_is_found_by_position_and_refused_where_that_is_another_image(data, spec):
    seen, images = seen_of(data, spec, content=False)
    assert (validation_set(about(data), seen, spec).load() == images).all()
    assert (validation_images(about(data), seen, spec, 4) == images[spread(len(images), 4)]).all()
    for i in range(2):  # within one class: only the golden samples tell
        Image.new("RGB", (8, 8), (255, 0, 255 * i)).save(data / "train" / "cat" / f"0-{i}.png")
    with pytest.raises(DataError, match="known by position alone"):
        validation_set(about(data), seen, spec)


def test_folders_of_numbers_are_in_the_order_of_numbers_and_those_of_0_1_0_in_that_of_words(data, spec):
    train = data / "train"
    for i, folder in enumerate(sorted(train.iterdir())):
        folder.rename(train / str(9 + i))
    whole = load_split("folder", str(data), "train", spec)
    assert whole.order == "numbers"
    assert whole.classes[:3] == ("9", "10", "11")
    words = sorted(whole.classes)
    old = np.concatenate([np.flatnonzero(whole.labels == whole.classes.index(name)) for name in words])
    rows = np.arange(1, len(whole), 4)
    images = whole.load(old[rows])
    labels = tuple(whole.classes[whole.labels[i]] for i in old[rows])
    found = validation_set(about(data), Seen({"class": labels}, rows, None), spec)
    assert (found.load() == images).all()
