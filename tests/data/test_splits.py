"""Validation images on record are found again by content, whatever came later; those of 0.1.0 by position, checked."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from toys import rows_of, write_described

from kfdeploy.data import splits
from kfdeploy.data.fields import Asked
from kfdeploy.data.sources import load_split
from kfdeploy.data.splits import load, photo_of, spread, validation_images, validation_set
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


def test_fields_on_record_are_found_again_whatever_came_later(tmp_path, spec):
    write_described(tmp_path, "train", 30)
    write_described(tmp_path, "test", 10)
    whole = load_split("folder", str(tmp_path), "train", spec)
    rows = np.arange(2, 30, 3)
    held = whole.take(rows).only(["lit: yes", "lit: no", "shape: star", "shape: disc"])
    seen = Seen({name: held.texts_of(name) for name in held.field_names}, held.rows, held.contents())
    same = validation_set(about(tmp_path), seen, spec)
    assert same.texts() == held.texts()
    assert same.field_names == ("lit", "shape")
    images = held.load()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / "images" / "aaa.png")
    (tmp_path / "train" / "images" / "005.png").rename(tmp_path / "train" / "images" / "zzz.png")
    came = [row.replace("005.png", "zzz.png").replace("star", "cube") + f",{i},x" for i, row in enumerate(rows_of(30))]
    text = "\n".join(["file,shape,size,lit,id,image", *came, "gone.png,disc,2,no,7,x"])
    (tmp_path / "train" / "attributes.csv").write_text(text, encoding="utf-8")
    found = validation_set(about(tmp_path), seen, spec)
    assert found.texts() == held.texts()  # what they were is on record, whatever they are called now
    assert (found.load() == images).all()
    assert found.only(["lit: no", "lit: yes"]).classes == ("lit: no", "lit: yes")
    test = splits.test_images(about(tmp_path), spec, ["lit: no", "lit: yes"], None)
    assert test.labels.shape == (9, 1)
    assert photo_of(about(tmp_path), spec, None).endswith(".png")


def test_a_model_of_the_class_alone_takes_no_notice_of_fields_that_came(tmp_path, spec):
    for split in ("train", "test"):
        rows = [f"{i:03}.png,{('cat', 'dog', '')[i % 3]},{i % 2}" for i in range(12)]
        write_described(tmp_path, split, 12, rows, "file,class,lit")
    whole = load_split("folder", str(tmp_path), "train", spec, asked=Asked(only=("class",)))
    seen = Seen({"class": whole.texts()}, whole.rows, whole.contents())
    found = validation_set(about(tmp_path), seen, spec)
    assert (found.fields, found.labels.shape) == ((), (8,))
    test = splits.test_images(about(tmp_path), spec, ["dog", "cat"], tmp_path)
    assert (test.fields, test.labels.tolist()) == ((), [1, 0] * 4)


def test_what_a_manifest_says_of_fields_and_of_dsprites_is_done(tmp_path, spec):
    write_described(tmp_path, "train", 30)
    origin = about(tmp_path) | {"fields": {"lit": {"kind": "classes", "classes": ["yes", "no"]}}, "ignore": ["size"]}
    found = load(origin, "train", spec)
    assert found.classes == ("shape: disc", "shape: square", "shape: star", "lit: yes", "lit: no")
    square = replace(spec, size=(64, 64))
    assert len(load({"source": "dsprites", "root": "", "count": 200}, "test", square)) == 60
    np.save(tmp_path / "train" / "images.npy", np.zeros((3, 8, 8, 3), np.uint8))
    np.save(tmp_path / "train" / "lit.npy", np.array([0, 1, 0]))
    (tmp_path / "train" / "attributes.csv").unlink()
    assert len(load({"source": "arrays", "root": ""}, "train", spec, tmp_path)) == 3
    with pytest.raises(DataError, match=r"there is no '.*gone/train/images.npy'") as caught:
        load({"source": "arrays", "root": str(tmp_path / "gone")}, "train", spec)
    assert caught.value.hint == "name a folder with train/images.npy: --data <folder>"


def test_golden_samples_are_known_again_where_a_field_came_later():
    labels = np.array([1, 0, 1, 0, 1, 0, 0, 1])
    images = np.zeros((4, 2, 2, 1), np.uint8)
    arrays = {"golden.images": images, "validation.labels": labels, "validation.rows": np.arange(8)}
    before = Seen.of(arrays, {"class": ("cat", "dog")})
    after = Seen.of(arrays, {"class": ("cat", "dog"), "lit": ("lit: no", "lit: yes")})
    assert before.golden[0].tolist() == after.golden[0].tolist() == golden_samples(labels, 4).tolist()
    assert after.labels["lit"] == ("",) * 8
