import csv

import numpy as np
import pytest
import torch

from kfdeploy.data.imageset import ImageSet
from kfdeploy.errors import OutputError
from kfdeploy.files import load_tensors
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.factorize import factorize
from kfdeploy.training.loop.loader import Batch
from kfdeploy.training.loop.replay import Live, Replay, views_folder
from kfdeploy.training.nets.classifier import Classifier
from kfdeploy.training.nets.teacher import Teacher
from kfdeploy.training.recipe.recipe import load_recipe
from kfdeploy.training.recipe.sections import Augment


@pytest.fixture
def teacher(toy):
    torch.manual_seed(0)
    net = Classifier(toy.recipe.teacher.net, toy.recipe.image.spec(), 5)
    return Teacher(net, range(5), net.backbone.channels)


def batch(rows, epoch=0):
    rows = torch.tensor(rows)
    images = torch.randint(0, 256, (60, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(epoch))
    return Batch(images[rows], rows % 5, rows, epoch)


def images(rows, changed=()):
    """A set of the images at some rows of a source of sixty; those in `changed` are others than they were."""
    random = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    random[list(changed)] += 1
    rows = np.array(rows)
    image = ImageSpec((8, 8), 3, (0.0,) * 3, (1.0,) * 3)
    return ImageSet(("a",), np.zeros(len(rows), np.int64), rows, image, random[rows])


ALL = range(60)


def same(a, b):
    return torch.allclose(a.logits, b.logits, atol=1e-5) and all(
        torch.allclose(x, y, atol=1e-5) for x, y in zip(a.pooled, b.pooled, strict=True)
    )


def test_answers_are_those_of_the_teacher_and_are_asked_for_once(teacher, tmp_path):
    live = Live(teacher)
    first = Replay(live, tmp_path, images(ALL))
    for index in ([0, 5, 9], [9, 1, 2]):
        assert same(first(batch(index)), live(batch(index)))
    assert first.asked == 5
    first(batch([3], epoch=1))  # another epoch's views are others
    first.flush()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0000-0.safetensors", "epoch-0001-0.safetensors"]
    second = Replay(live, tmp_path, images(ALL))
    assert same(second(batch([9, 2, 0])), live(batch([9, 2, 0])))
    assert same(second(batch([9, 7])), live(batch([9, 7])))
    assert second.asked == 1
    assert same(second(batch([3], epoch=1)), live(batch([3], epoch=1)))
    assert second.asked == 1


def test_a_damaged_file_is_asked_anew_and_replaced(teacher, tmp_path):
    first = Replay(Live(teacher), tmp_path, images(ALL))
    first(batch([0, 1]))
    first.flush()
    path = tmp_path / "epoch-0000-0.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    again = Replay(Live(teacher), tmp_path, images(ALL))
    again(batch([0, 1]))
    again.flush()
    assert again.asked == 2
    assert (load_tensors(path)["have"] > 0).sum() == 2


def test_processes_write_a_file_each_and_read_them_all(teacher, tmp_path, monkeypatch):
    from kfdeploy.training.loop import replay

    for number, index in enumerate(([0, 1, 2], [2, 3, 4])):
        monkeypatch.setattr(replay, "rank", lambda number=number: number)
        own = Replay(Live(teacher), tmp_path, images(ALL))
        own(batch(index, epoch=7))
        own.folder = tmp_path / str(number)  # they begin at the same time, so neither sees the other's file
        own.flush()
        (tmp_path / str(number) / f"epoch-0007-{number}.safetensors").rename(tmp_path / f"later-{number}")
    for number in (0, 1):
        (tmp_path / f"later-{number}").rename(tmp_path / f"epoch-0007-{number}.safetensors")
    both = Replay(Live(teacher), tmp_path, images(ALL))
    assert same(both(batch([4, 0, 2, 1, 3], epoch=7)), Live(teacher)(batch([4, 0, 2, 1, 3], epoch=7)))
    assert both.asked == 0


def test_a_folder_that_cannot_be_written_says_so(teacher, tmp_path):
    (tmp_path / "file").write_text("")
    replay = Replay(Live(teacher), tmp_path / "file" / "replay", images(ALL))
    replay(batch([0]))
    with pytest.raises(OutputError, match="cannot be written") as caught:
        replay.flush()
    assert "--replay" in caught.value.hint


def test_another_set_of_the_same_source_reads_what_is_there_and_no_other_image(teacher, tmp_path):
    """A student of two classes reads what a pool of five has asked, in its own columns."""
    first = Replay(Live(teacher), tmp_path, images(range(30)))
    first(batch([0, 7, 20]))
    first.flush()
    part = Live(Teacher(teacher.net, [3, 1], [16, 16]))
    second = Replay(part, tmp_path, images([7, 20, 50], changed=[20]))
    assert same(second(batch([7, 20, 50])), part(batch([7, 20, 50])))
    assert second.asked == 2  # row 20 is another image now
    second.flush()
    third = Replay(Live(teacher), tmp_path, images(range(10)))
    assert same(third(batch([0, 7])), Live(teacher)(batch([0, 7])))
    assert third.asked == 0


def test_other_views_have_other_folders(teacher, tmp_path):
    image = ImageSpec((8, 8), 3, (0.0,) * 3, (1.0,) * 3)
    other = ImageSpec((8, 8), 3, (0.5,) * 3, (1.0,) * 3)
    names = [
        views_folder(tmp_path, *args)
        for args in (
            (teacher, image, Augment(), 0, "32-true"), (teacher, image, Augment(crop=1), 0, "32-true"),
            (teacher, image, Augment(), 1, "32-true"), (teacher, other, Augment(), 0, "32-true"),
            (teacher, image, Augment(), 0, "bf16-mixed"),
        )
    ]  # fmt: skip
    assert len(set(names)) == 5
    sliced = Teacher(teacher.net, [1, 0], [16, 16])
    assert views_folder(tmp_path, sliced, image, Augment(), 0, "32-true") == names[0]


def test_a_second_run_reads_what_the_first_asked_and_its_losses_are_those_without(toy, tmp_path):
    def losses(name, *settings):
        recipe = load_recipe(toy.write_recipe(tmp_path), ["augment.seed=3", *settings])
        factorize(recipe, tmp_path / name)
        with (tmp_path / name / "train" / "log.csv").open() as stream:
            return [[float(value) for value in row.values()] for row in csv.DictReader(stream)]

    keep = f'run.replay="{tmp_path / "replay"}"'
    live, first, second = losses("live"), losses("first", keep), losses("second", keep)
    assert np.allclose(first, live, rtol=1e-3, atol=1e-3)
    assert np.allclose(second, live, rtol=1e-3, atol=1e-3)
    (folder,) = (tmp_path / "replay").iterdir()
    assert len(list(folder.iterdir())) == 4
