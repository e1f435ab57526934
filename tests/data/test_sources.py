import numpy as np
import pytest

from kfdeploy.data import splits
from kfdeploy.data.fields import Asked
from kfdeploy.data.imageset import stratified
from kfdeploy.data.sources import DIGITS, TORCHVISION, load_split
from kfdeploy.errors import DataError
from kfdeploy.tasks.spec import ImageSpec

GRAY8 = ImageSpec((8, 8), 1, (0.0,), (1.0,))
RGB8 = ImageSpec((8, 8), 3, (0.0,) * 3, (1.0,) * 3)


def test_digits_are_split_by_class_and_scaled():
    train, test = load_split("digits", "", "train", GRAY8), load_split("digits", "", "test", GRAY8)
    assert len(train) + len(test) == 1797
    assert train.classes == DIGITS
    assert train.load().shape == (len(train), 8, 8, 1)
    assert train.load().max() == 255
    assert not set(train.rows) & set(test.rows)
    share = np.bincount(test.labels) / (np.bincount(test.labels) + np.bincount(train.labels))
    assert np.abs(share - 0.2).max() < 0.01
    assert load_split("digits", "", "test", ImageSpec((16, 16), 3, (0.0,) * 3, (1.0,) * 3, resize=16)).load().shape[
        1:
    ] == (16, 16, 3)


def test_a_folder_is_read_in_the_order_of_its_names(toy):
    train = load_split("folder", str(toy.data), "train", RGB8)
    assert train.classes == ("cat", "dog", "junk", "sea horse", "uni", "élan")
    assert len(train) == 6 * 16
    assert train.images is None
    assert np.array_equal(train.in_memory().load(), train.load())
    some = train.only(["élan", "cat"])
    assert some.classes == ("élan", "cat")
    assert set(some.labels) == {0, 1}
    assert all("élan" in str(path.parent) for path, label in zip(some.paths, some.labels, strict=True) if label == 0)
    with pytest.raises(DataError, match="no class 'cta'"):
        train.only(["cta"])


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(DataError, match=r"data\.root is not set"):
        load_split("folder", "", "train", RGB8)
    with pytest.raises(DataError, match=r"there is no folder .*train"):
        load_split("folder", str(tmp_path), "train", RGB8)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="has no class folders"):
        load_split("folder", str(tmp_path), "train", RGB8)
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(DataError, match=r"the class folder .*cat' has no images"):
        load_split("folder", str(tmp_path), "train", RGB8)


def test_an_unknown_source_and_a_download_without_a_network(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="there is no data source 'CIFAR11'") as caught:
        load_split("CIFAR11", "", "train", RGB8)
    assert caught.value.hint == "did you mean 'CIFAR10'?"
    from torchvision.datasets import CIFAR10

    def no_network(self):
        raise OSError("no route to host")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    with pytest.raises(DataError, match="CIFAR10 is not in .* and downloading it failed: OSError: no route") as caught:
        load_split("CIFAR10", str(tmp_path), "train", RGB8, download=True)
    assert "data.source=folder" in caught.value.hint


@pytest.mark.parametrize("source", TORCHVISION)
def test_a_source_that_a_file_names_is_not_downloaded_and_no_folder_is_made(source, tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(getattr(datasets, source), "download", lambda _: pytest.fail("it tried to download"))
    with pytest.raises(DataError, match=f"{source} is not in '.*', and only factorize and distill download"):
        load_split(source, str(tmp_path / "made"), "test", RGB8)
    about = {"source": source, "root": str(tmp_path / "made")}
    for call in (lambda: splits.test_images(about, RGB8, ["a"], None), lambda: splits.load(about, "train", RGB8)):
        with pytest.raises(DataError, match="only factorize and distill download") as caught:
            call()
        assert "--data <folder>" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_torchvision_set_that_is_there(tmp_path, monkeypatch):
    from torchvision import datasets

    class Small:
        data = np.zeros((4, 28, 28), np.uint8)
        targets = (0, 1, 1, 0)
        classes = ("a", "b")

        def __init__(self, root, train, download):
            assert not download

    monkeypatch.setattr(datasets, "MNIST", Small)
    with pytest.raises(DataError, match="MNIST is not in .*, and only factorize and distill download"):
        load_split("MNIST", str(tmp_path), "test", ImageSpec((28, 28), 1, (0.0,), (1.0,)))
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    found = load_split("MNIST", str(tmp_path), "test", ImageSpec((28, 28), 1, (0.0,), (1.0,)))
    assert found.load().shape == (4, 28, 28, 1)
    assert found.classes == ("a", "b")


def test_stratified_splits():
    labels = np.array([0] * 50 + [1] * 30 + [2] * 2)
    rest, share = stratified(labels, 0.1, seed=0)
    assert np.bincount(labels[share]).tolist() == [5, 3, 1]
    assert sorted([*rest, *share]) == list(range(82))
    assert np.array_equal(stratified(labels, 0.1, seed=0)[1], share)
    assert not np.array_equal(stratified(labels, 0.1, seed=1)[1], share)
    with pytest.raises(DataError, match="class 'number 1' has 1 image"):
        stratified(np.array([0, 0, 1]), 0.1, seed=0)
    with pytest.raises(DataError, match="class 'emu' has 1 image"):
        stratified(np.array([0, 0, 1]), 0.1, 0, ("cat", "emu"), ("cat", "emu"))
    rest, share = stratified(np.array([0, 0, 1]), 0.1, 0, ("cat", "emu"), ("cat",))
    assert len(share) == 1
    assert 2 not in share


def test_the_order_of_class_folders_can_be_said(toy):
    def load(**about):
        return load_split("folder", str(toy.data), "train", RGB8, asked=Asked(**about))

    plain = load()
    order = ("élan", "uni", "sea horse", "junk", "dog", "cat")
    found = load(orders={"class": order})
    assert found.classes == order
    assert found.texts() == plain.texts()
    assert found.names() == plain.names()
    for asked, message in (
        ({"orders": {"class": order[1:]}}, "data.fields.class.classes lacks 'élan'"),
        ({"orders": {"class": (*order, "emu")}}, "data.fields.class.classes names 'emu', which the data do not have"),
        ({"orders": {"shape": ()}}, "the data have no field 'shape'"),
        ({"only": ("shape",)}, "the data have no field 'shape'"),
    ):
        with pytest.raises(DataError, match=message):
            load(**asked)
    again = load(orders={"class": ("dog", "emu"), "shape": ()}, again=True)  # classes that came or went stop nothing
    assert again.classes == ("dog", "cat", "junk", "sea horse", "uni", "élan")
    assert load(ignore=("cat",)).classes == plain.classes  # that is for the tasks to do
