"""The faster precision is chosen by timing, for teacher and learner apart, and a resumed run keeps it."""

import copy

import pytest
import torch

from kfdeploy.training.loop import trial
from kfdeploy.training.loop.devices import has_bf16, is_bf16, make_fabric, precision_of, set_bf16
from kfdeploy.training.loop.learner import Learner, Term
from kfdeploy.training.loop.loader import Batch
from kfdeploy.training.loop.replay import Live
from kfdeploy.training.nets.teacher import Teacher
from kfdeploy.training.recipe.sections import Run


class Net(Learner):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(12, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.seen = []

    def forward(self, images, labels, taught, step):
        out = self.norm(self.layer(images.float().flatten(1)))
        self.seen.append(self.layer(images.float().flatten(1)).dtype)
        return {"loss": Term(1.0, out.float().square().mean())}


class Whole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(12, 3)

    def forward(self, images):
        return self.layer(images.float().flatten(1)), ()


BATCH = Batch(torch.zeros(8, 2, 2, 3, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64), torch.arange(8), 0)


@pytest.mark.parametrize("faster", ["bf16", "fp32"])
def test_the_faster_one_is_set_for_each_and_the_learner_is_as_it_was(faster, monkeypatch):
    fabric = make_fabric(Run(device="cpu", precision="bf16"))
    times = {"bf16": 1.0 + (faster == "fp32"), "fp32": 1.0 + (faster == "bf16")}
    own = trial._medians
    monkeypatch.setattr(trial, "_medians", lambda ways: own(ways) and times)
    net, live = Net(), Live(Teacher(Whole(), range(3), ()), trial.as_set(fabric))
    before = copy.deepcopy(net.state_dict())
    told = trial.choose(fabric, net, BATCH, live)
    assert told.startswith(f"precision: {faster} for the teacher (bf16 ")
    assert f"{faster} for the network that is trained" in told
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert is_bf16(fabric) == (faster == "bf16")
    assert precision_of(fabric) == ("bf16-mixed" if faster == "bf16" else "32-true")
    kept = trial.precisions(fabric, live)
    assert kept == {"learner": faster == "bf16", "teacher": faster == "bf16"}
    trial.restore(fabric, live, {name: not value for name, value in kept.items()})
    assert trial.precisions(fabric, live) == {name: not value for name, value in kept.items()}


def test_both_precisions_are_really_tried():
    fabric = make_fabric(Run(device="cpu", precision="bf16"))
    seen = []
    net = Net()
    net.seen = seen
    net.__deepcopy__ = lambda _: net
    trial.choose(fabric, net, BATCH, None)
    assert {torch.bfloat16, torch.float32} == set(seen)


def test_a_fabric_of_fp32_has_nothing_to_switch():
    fabric = make_fabric(Run(device="cpu", precision="fp32"))
    assert not has_bf16(fabric)
    set_bf16(fabric, True)
    assert not is_bf16(fabric)
    assert precision_of(fabric) == "32-true"
