import csv

import numpy as np
import pytest
import torch

from kfdeploy.data.loader import Batch
from kfdeploy.errors import OutputError
from kfdeploy.experiment import Experiment
from kfdeploy.factorize import factorize
from kfdeploy.files import load_tensors
from kfdeploy.nets import Classifier
from kfdeploy.nets.teacher import Teacher
from kfdeploy.recipe import load_recipe
from kfdeploy.replay import Live, Replay, views_folder
from kfdeploy.sections import Augment


@pytest.fixture
def teacher(toy):
    torch.manual_seed(0)
    net = Classifier(toy.recipe.teacher.net, toy.recipe.image.spec(), 5)
    return Teacher(net, range(5), net.backbone.channels)


def batch(index, epoch=0):
    index = torch.tensor(index)
    images = torch.randint(0, 256, (60, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(epoch))
    return Batch(images[index], index % 5, index, epoch)


def same(a, b):
    return torch.allclose(a.logits, b.logits, atol=1e-5) and all(
        torch.allclose(x, y, atol=1e-5) for x, y in zip(a.pooled, b.pooled, strict=True)
    )


def test_answers_are_those_of_the_teacher_and_are_asked_for_once(teacher, tmp_path):
    live = Live(teacher)
    first = Replay(live, tmp_path, 60)
    for index in ([0, 5, 9], [9, 1, 2]):
        assert same(first(batch(index)), live(batch(index)))
    assert first.asked == 5
    first(batch([3], epoch=1))  # another epoch's views are others
    first.flush()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0000-0.safetensors", "epoch-0001-0.safetensors"]
    second = Replay(live, tmp_path, 60)
    assert same(second(batch([9, 2, 0])), live(batch([9, 2, 0])))
    assert same(second(batch([9, 7])), live(batch([9, 7])))
    assert second.asked == 1
    assert same(second(batch([3], epoch=1)), live(batch([3], epoch=1)))
    assert second.asked == 1


def test_a_damaged_file_is_asked_anew_and_replaced(teacher, tmp_path):
    first = Replay(Live(teacher), tmp_path, 60)
    first(batch([0, 1]))
    first.flush()
    path = tmp_path / "epoch-0000-0.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    again = Replay(Live(teacher), tmp_path, 60)
    again(batch([0, 1]))
    again.flush()
    assert again.asked == 2
    assert load_tensors(path)["have"].sum() == 2


def test_processes_write_a_file_each_and_read_them_all(teacher, tmp_path, monkeypatch):
    from kfdeploy import replay

    for number, index in enumerate(([0, 1, 2], [2, 3, 4])):
        monkeypatch.setattr(replay, "rank", lambda number=number: number)
        own = Replay(Live(teacher), tmp_path, 60)
        own(batch(index, epoch=7))
        own.folder = tmp_path / str(number)  # they begin at the same time, so neither sees the other's file
        own.flush()
        (tmp_path / str(number) / f"epoch-0007-{number}.safetensors").rename(tmp_path / f"later-{number}")
    for number in (0, 1):
        (tmp_path / f"later-{number}").rename(tmp_path / f"epoch-0007-{number}.safetensors")
    both = Replay(Live(teacher), tmp_path, 60)
    assert same(both(batch([4, 0, 2, 1, 3], epoch=7)), Live(teacher)(batch([4, 0, 2, 1, 3], epoch=7)))
    assert both.asked == 0


def test_a_folder_that_cannot_be_written_says_so(teacher, tmp_path):
    (tmp_path / "file").write_text("")
    replay = Replay(Live(teacher), tmp_path / "file" / "replay", 60)
    replay(batch([0]))
    with pytest.raises(OutputError, match="cannot be written") as caught:
        replay.flush()
    assert "--replay" in caught.value.hint


def test_other_views_have_other_folders(toy, teacher, tmp_path):
    train = Experiment(toy.recipe).train
    names = {
        views_folder(tmp_path, *args, "32-true")
        for args in (
            (teacher, train, Augment(), 0), (teacher, train, Augment(crop=1), 0), (teacher, train, Augment(), 1),
            (teacher, train.take(np.arange(9)), Augment(), 0), (Teacher(teacher.net, [1, 0], [16, 16]), train, Augment(), 0),
        )
    }  # fmt: skip
    assert len(names) == 5


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
    other = losses("other", keep, "seed=2")  # the same teacher? no: the recipe trains another, with another folder
    assert len(other) == 4
    assert len(list((tmp_path / "replay").iterdir())) == 2
