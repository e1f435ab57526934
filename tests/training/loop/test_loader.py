import numpy as np
import pytest
import torch

from kfdeploy.data.sources import load_split
from kfdeploy.errors import DataError
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.loop.loader import MemoryLoader, StreamLoader, make_loader
from kfdeploy.training.recipe.sections import Augment

RGB8 = ImageSpec((8, 8), 3, (0.0,) * 3, (1.0,) * 3)
CPU = torch.device("cpu")


@pytest.fixture
def train(toy):
    return load_split("folder", str(toy.data), "train", RGB8)


def test_an_epoch_sees_each_image_once_in_an_order_of_its_own(train):
    loader = MemoryLoader(train, 16, Augment(), 0, CPU)
    first = torch.cat([batch.labels for batch in loader.epoch(0)])
    assert len(loader) == 6
    assert torch.bincount(first).tolist() == [16] * 6
    assert not torch.equal(first, torch.cat([batch.labels for batch in loader.epoch(1)]))
    again = torch.cat([batch.labels for batch in loader.epoch(0, start=2)])
    assert torch.equal(again, first[32:])


def test_small_sets_stay_in_memory_and_large_ones_stream(train):
    assert isinstance(make_loader(train, 16, Augment(), 0, CPU, stream_above_mb=1), MemoryLoader)
    assert isinstance(make_loader(train, 16, Augment(), 0, CPU, stream_above_mb=0), StreamLoader)
    assert isinstance(make_loader(train.in_memory(), 16, Augment(resized_crop=0.5), 0, CPU, 9), StreamLoader)


def test_streaming_without_augmentation_gives_the_same_batches(train):
    memory = list(MemoryLoader(train, 16, Augment(), 0, CPU).epoch(3))
    stream = list(StreamLoader(train, 16, Augment(), 0, CPU, workers=0).epoch(3))
    for a, b in zip(memory, stream, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def test_a_streamed_view_is_a_function_of_seed_epoch_and_index(train):
    augment = Augment(crop=1, flip=True, resized_crop=0.5)
    one = [batch.images for batch in StreamLoader(train, 16, augment, 0, CPU, workers=0).epoch(1)]
    two = [batch.images for batch in StreamLoader(train, 16, augment, 0, CPU, workers=2).epoch(1)]
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert one[0].shape == (16, 8, 8, 3)
    other = next(iter(StreamLoader(train, 16, augment, 1, CPU, workers=0).epoch(1))).images
    assert not torch.equal(one[0], other)


def test_a_batch_larger_than_the_set_is_the_set(train):
    assert len(MemoryLoader(train.take(np.arange(5)), 16, Augment(), 0, CPU)) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_streamed_image_that_does_not_decode_is_named(toy, tmp_path, workers):
    import shutil

    shutil.copytree(toy.data, tmp_path / "data")
    (tmp_path / "data" / "train" / "cat" / "003.png").write_text("no image")
    train = load_split("folder", str(tmp_path / "data"), "train", RGB8)
    with pytest.raises(DataError, match=r"^'.*003\.png' does not decode: [^\n]*$"):
        list(StreamLoader(train, 16, Augment(), 0, CPU, workers=workers).epoch(0))


class Deadly:
    """An image that takes its reader down with it, as a system short of memory would."""

    def read(self):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # torch's own, over the process that died
def test_a_reading_process_that_dies_ends_the_run_with_its_error(train):
    from dataclasses import replace

    deadly = replace(train, paths=(Deadly(),) * len(train))
    with pytest.raises(DataError, match="a process that reads images died: DataLoader worker") as caught:
        list(StreamLoader(deadly, 16, Augment(), 0, CPU, workers=1).epoch(0))
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize("kind", [MemoryLoader, StreamLoader])
def test_views_come_again_after_so_many_epochs_in_another_order(kind, train):
    def views(epoch):
        found = {}
        for batch in kind(train, 16, Augment(crop=2, flip=True, views=3), 0, CPU).epoch(epoch):
            assert batch.epoch == epoch % 3
            found |= dict(zip(batch.rows.tolist(), batch.images.numpy(), strict=True))
        return found

    first, other, again = views(1), views(2), views(4)
    assert list(first) != list(again)
    assert all((first[row] == again[row]).all() for row in first)
    assert any((first[row] != other[row]).any() for row in first)
