"""Images and labels as numpy files: read at their place, never as a whole, and nothing that is no plain number."""

import numpy as np
import pytest
import torch

from kfdeploy.data.fields import Asked
from kfdeploy.data.npy import has_arrays, header_of
from kfdeploy.data.sources import load_split
from kfdeploy.errors import DataError
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.loop.loader import StreamLoader
from kfdeploy.training.recipe.sections import Augment

RGB8 = ImageSpec((8, 8), 3, (0.0,) * 3, (1.0,) * 3)
GRAY8 = ImageSpec((8, 8), 1, (0.0,), (1.0,))


def write(root, split, count=20, **arrays):
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(len(split)).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    for name, array in ({"images": images} | arrays).items():
        np.save(folder / f"{name}.npy", array)
    return images


def load(root, split="train", image=RGB8, test=0.0, **asked):
    return load_split("arrays", str(root), split, image, test=test, asked=Asked(**asked))


@pytest.fixture
def root(tmp_path):
    for split in ("train", "test"):
        write(tmp_path, split, shape=np.arange(20) % 3 - 1, big=np.arange(20, dtype=np.uint16) % 2)
    return tmp_path


def test_images_are_read_where_they_lie(root):
    images = np.load(root / "train" / "images.npy")
    found = load(root)
    assert (found.images, found.paths) == (None, ())
    assert np.array_equal(found.load(), images)
    assert np.array_equal(found.take(np.array([7, 3])).load([1]), images[3:4])
    assert np.array_equal(found.take(np.arange(20) % 2 == 1).load(), images[1::2])
    assert np.array_equal(found.in_memory().load(slice(2, 4)), images[2:4])
    assert found.in_memory().store is None
    assert np.array_equal(found.contents(), found.in_memory().contents())
    assert np.array_equal(found.identified().take(np.array([5])).contents(), found.contents()[5:6])
    assert (found.names()[:1], found.sizes()[0], len(list(found.batches(8)))) == (("",), 192, 3)
    record = found.record([0])
    assert record.about()["train"] == 19


def test_labels_are_numbers_and_minus_one_is_unknown(root):
    found = load(root)
    assert found.classes == ("big: 0", "big: 1", "shape: 0", "shape: 1")
    assert found.labels[:4].tolist() == [[0, -1], [1, 2], [0, 3], [1, -1]]
    (root / "shape.txt").write_text("disc\nstar\ncube\n", encoding="utf-8")
    assert load(root).classes[2:] == ("shape: disc", "shape: star", "shape: cube")
    (root / "shape.txt").unlink()
    assert load(root, orders={"shape": ("disc", "star")}).classes[2:] == ("shape: disc", "shape: star")
    assert load(root, orders={"shape": ("1", "0")}).labels[1].tolist() == [1, 3]
    assert load(root, "test", again=True).classes == found.classes


def test_a_table_may_lie_beside_them(root):
    for split in ("train", "test"):
        text = "file,lit\n" + "".join(f"x,{('yes', 'no', '')[i % 3]}\n" for i in range(20))
        (root / split / "attributes.csv").write_text(text)
    found = load(root)
    assert found.field_names == ("lit", "big", "shape")
    assert found.texts_of("lit")[:3] == ("lit: yes", "lit: no", "")
    assert load(root, "test", ignore=("shape", "big")).ignored == ("big", "shape")
    (root / "train" / "attributes.csv").write_text("shape\n" + "a\nb\n" * 10)
    with pytest.raises(DataError, match=r"shape\.npy' and '.*attributes\.csv' both say what 'shape' is"):
        load(root)
    (root / "train" / "attributes.csv").write_text("lit\nyes\n")
    with pytest.raises(DataError, match=r"attributes\.csv' has 1 rows, and 'images\.npy' 20 images"):
        load(root)


def test_other_sizes_and_channels_are_brought_to_the_input(tmp_path):
    write(tmp_path, "train", images=np.full((4, 16, 12), 9, np.uint8), shape=np.arange(4) % 2)
    found = load(tmp_path, image=ImageSpec((8, 8), 3, (0.0,) * 3, (1.0,) * 3, resize=8))
    assert found.load().shape == (4, 8, 8, 3)
    assert (found.load() == 9).all()
    with pytest.raises(DataError, match=r"images\.npy' .*12"):
        load(tmp_path).load()
    same = load(tmp_path, image=ImageSpec((16, 12), 1, (0.0,), (1.0,)))
    assert np.array_equal(same.contents(), found.contents())  # of what lies there, whatever is made of it


def test_values_of_test_that_train_lacks_are_refused(root):
    write(root, "test", shape=np.full(20, 2), big=np.arange(20) % 2)
    with pytest.raises(
        DataError, match=r"'.*test/shape\.npy', image 0: 'shape' is '2', and no image of the train split"
    ):
        load(root, "test")


def test_a_share_of_train_is_for_testing(tmp_path):
    write(tmp_path, "train", 60, shape=np.arange(60) % 2)
    train, test = load(tmp_path, "train", test=0.25), load(tmp_path, "test", test=0.25)
    assert len(train) + len(test) == 60
    assert len(test) >= 3
    assert not set(map(bytes, train.contents())) & set(map(bytes, test.contents()))
    with pytest.raises(DataError, match=r"there is no '.*test/images\.npy'; arrays are laid out as") as caught:
        load(tmp_path, "test")
    assert "data.test=0.1" in caught.value.hint
    with pytest.raises(DataError, match=r"data\.root is not set; arrays are laid out"):
        load("")


def test_a_lone_class_streams_as_folders_do(tmp_path):
    images = write(tmp_path, "train", **{"class": np.arange(20) % 2})
    found = load(tmp_path)
    assert (found.classes, found.fields, found.order) == (("0", "1"), (), "numbers")
    loader = StreamLoader(found, 10, Augment(), 0, torch.device("cpu"), workers=1)
    for batch in loader.epoch(0):
        assert np.array_equal(batch.images.numpy(), images[batch.rows.numpy()])
        assert np.array_equal(batch.labels.numpy(), batch.rows.numpy() % 2)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("images", np.zeros((20, 8, 8, 4), np.uint8), r"has the shape \(20, 8, 8, 4\) of uint8; arrays are laid out"),
        ("images", np.zeros((20, 8, 8, 3), np.float32), "of float32; arrays are laid out"),
        ("images", np.zeros((20, 64), np.uint8), r"has the shape \(20, 64\) of uint8"),
        ("images", np.zeros((0, 8, 8), np.uint8), "no image with sides of 1 to"),
        ("images", np.zeros((20, 8, 0), np.uint8), "no image with sides of 1 to"),
        ("images", np.asfortranarray(np.ones((20, 8, 8), np.uint8)), "in the order of columns, which is not read"),
        ("images", np.zeros((1,) * 5, np.uint8), "has the shape"),
        ("images", np.array([{}] * 20, object), "which is not read"),
        ("shape", np.arange(19), "has 19 labels, and 'images.npy' 20 images"),
        ("shape", np.full(20, -2), "image 0 has the label -2"),
        ("shape", np.zeros(20, int), "the field 'shape' has one value, '0'"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_as_they_should_be_are_refused(root, name, array, message):
    np.save(root / "train" / f"{name}.npy", array)
    with pytest.raises(DataError, match=message):
        load(root)


def test_labels_beyond_their_list_are_refused(root):
    (root / "shape.txt").write_text("disc\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"shape\.npy', image 2 has the label 1 \(allowed: 0 to 0, -1 where unknown\)"):
        load(root)


def test_identifiers_and_what_are_no_labels_stop_nothing(root):
    write(
        root,
        "train",
        5000,
        shape=np.arange(5000),
        big=np.arange(5000) % 2,
        seg=np.zeros((5000, 2), np.uint8),
        depth=np.zeros(5000),
    )
    with pytest.raises(DataError, match="'shape' has more than 4,096 values: it looks like an identifier"):
        load(root)
    found = load(root, ignore=("shape",))
    assert found.field_names == ("big",)
    assert "depth.npy, seg.npy in '" in found.note
    assert load(root, again=True).field_names == ("big",)
    with pytest.raises(DataError, match=r"seg\.npy' is no list of classes, and maps of labels are not there yet"):
        load(root, only=("seg",))


def test_nothing_that_says_what_is_in_them(tmp_path):
    write(tmp_path, "train")
    with pytest.raises(DataError, match="nothing says what is in the images of"):
        load(tmp_path)
    assert has_arrays(tmp_path)
    assert not has_arrays(tmp_path / "train")


def test_damaged_files_are_named(root):
    path = root / "train" / "images.npy"
    found, whole = load(root), path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"images\.npy' ends before its image 19 does"):
        found.load()
    with pytest.raises(DataError, match=r"images\.npy' has the shape \(20, 8, 8, 3\) of uint8 and 3,740 bytes of data"):
        load(root)
    path.unlink()
    with pytest.raises(DataError, match=r"images\.npy' cannot be read: No such file"):
        found.load()
    for data in (b"", b"\x93NUMPY\x09\x00", whole[:8] + b"\xff\xff" + whole[10:], b"nonsense" * 9):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"images\.npy' is no \.npy file"):
            header_of(path)
