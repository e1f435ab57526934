import csv
import itertools
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from kfdeploy.data.sources import load_split
from kfdeploy.errors import DeviceError, Interrupted, TrainingError
from kfdeploy.files import CHECKPOINTS
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.loop.devices import make_fabric
from kfdeploy.training.loop.fit import Trainer, learning_rate, make_optimizer
from kfdeploy.training.loop.learner import Learner, Term
from kfdeploy.training.loop.loader import MemoryLoader
from kfdeploy.training.loop.progress import Progress
from kfdeploy.training.recipe.sections import Augment, Run, Train

IMAGE = ImageSpec((8, 8), 3, (0.0,) * 3, (1.0,) * 3)
CONFIG = Train(epochs=3, batch=16, lr=0.05)


class Small(Learner):
    def __init__(self, poison=-1, interrupt=-1):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 6)
        )
        self.poison, self.interrupt = poison, interrupt

    def evaluate(self, images):
        return self.net(images.permute(0, 3, 1, 2).float() / 255)

    def forward(self, images, labels, taught, step):
        if step == self.interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        loss = nn.functional.cross_entropy(self.evaluate(images).float(), labels)
        extra = self.net[-1].weight.square().mean() * (float("nan") if step == self.poison else 1.0)
        return {"sup": Term(1.0, loss), "decay": Term(0.01, extra)}


class Heard(Progress):
    def __init__(self):
        self.starts, self.notes, self.epochs, self.stopped = [], [], 0, 0

    def note(self, text):
        self.notes.append(text)

    def start(self, *args):
        self.starts.append(args)

    def epoch(self, epoch, epochs, row):
        self.epochs += 1

    def stop(self):
        self.stopped += 1


@pytest.fixture
def data(toy):
    return load_split("folder", str(toy.data), "train", IMAGE).in_memory()


def run(learner, data, folder, config=CONFIG, **more):
    names = ("precision", "tensorboard", "checkpoint_minutes", "compile")
    run_config = Run(device="cpu", **{"precision": "fp32", **{key: more.pop(key) for key in names if key in more}})
    loader = MemoryLoader(data, config.batch, Augment(crop=1), 0, torch.device("cpu"))
    resume = more.pop("resume", False)
    trainer = Trainer(config, run_config, make_fabric(run_config), folder, "small", **more)
    return trainer.fit(learner, loader, data, resume=resume)


def test_it_learns_and_logs_every_term(data, tmp_path):
    heard = Heard()
    fitted = run(Small(), data, tmp_path, report=heard)
    with (tmp_path / "log.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["epoch", "sup", "decay", "loss", "validation", "lr"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["sup"]) < float(rows[0]["sup"])
    assert 0 <= fitted.log[-1]["validation"] <= 1
    assert abs(fitted.log[0]["loss"] - fitted.log[0]["sup"] - 0.01 * fitted.log[0]["decay"]) < 1e-5
    assert heard.starts == [("small", 3, 0, 0)]
    assert (heard.epochs, heard.stopped) == (3, 1)
    assert fitted.seconds > 0


def test_an_interrupted_run_goes_on_at_its_very_step(data, tmp_path):
    whole, parts, heard = Small(), Small(interrupt=8), Heard()
    expected = run(whole, data, tmp_path / "whole").log
    with pytest.raises(Interrupted, match="stopped in epoch 2 of 3, at step 3 of 6") as caught:
        run(parts, data, tmp_path / "parts")
    assert caught.value.exit_code == 130
    assert "--resume" in caught.value.hint
    again = Small()
    fitted = run(again, data, tmp_path / "parts", resume=True, report=heard)
    assert heard.starts == [("small", 3, 2, 3)]
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    keys = ("sup", "decay", "loss", "validation", "lr")
    assert np.allclose(
        [[row[k] for k in keys] for row in fitted.log], [[row[k] for k in keys] for row in expected], rtol=1e-6
    )


def test_resuming_nothing_starts_afresh_and_resuming_the_end_does_nothing(data, tmp_path):
    first = Small()
    run(first, data, tmp_path, resume=True)
    again = Small()
    fitted = run(again, data, tmp_path, resume=True)
    assert len(fitted.log) == 3
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_term_that_is_not_a_number_is_named_and_the_last_good_checkpoint_kept(data, tmp_path):
    with pytest.raises(
        TrainingError,
        match=r"the term 'decay' became nan at step 7 \(epoch 2\); the checkpoint of the epoch before it is kept",
    ):
        run(Small(poison=7), data, tmp_path)
    state = torch.load(max(tmp_path.glob(CHECKPOINTS)), weights_only=True)
    assert state["at"]["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in state["learner"].values())


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path):
    class Breaks(Small):
        def forward(self, images, labels, taught, step):
            if step == 5:
                self.net[0].weight.register_hook(lambda grad: grad * float("inf"))
            return super().forward(images, labels, taught, step)

    with pytest.raises(TrainingError, match=r"the weights 'net\.0\.weight' are not finite in epoch 1"):
        run(Breaks(), data, tmp_path, Train(epochs=1, batch=16))
    assert not list(tmp_path.glob(CHECKPOINTS))


def test_the_last_two_checkpoints_are_kept_and_a_truncated_one_is_skipped(data, tmp_path):
    whole, again, heard = Small(), Small(), Heard()
    run(whole, data, tmp_path)
    one, two = sorted(tmp_path.glob(CHECKPOINTS))
    assert [path.name for path in (one, two)] == ["checkpoint-000000012.pt", "checkpoint-000000018.pt"]
    two.write_bytes(two.read_bytes()[:1000])
    run(again, data, tmp_path, resume=True, report=heard)
    assert heard.starts == [("small", 3, 3, 0)]
    assert len(heard.notes) == 1
    assert "checkpoint-000000018.pt' cannot be read and is skipped" in heard.notes[0]
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    for path in tmp_path.glob(CHECKPOINTS):
        path.write_bytes(b"")
    with pytest.raises(TrainingError, match="none of the 2 checkpoints in .* can be read") as caught:
        run(Small(), data, tmp_path, resume=True)
    assert "--force" in caught.value.hint


def test_a_checkpoint_of_another_version_or_number_of_threads_is_refused(data, tmp_path):
    run(Small(), data, tmp_path, Train(epochs=1, batch=16))
    path = max(tmp_path.glob(CHECKPOINTS))
    state = torch.load(path, weights_only=True)
    torch.save(state | {"format": 99}, path)
    with pytest.raises(TrainingError, match="is of format 99, this version reads 2"):
        run(Small(), data, tmp_path, resume=True)
    torch.save(state | {"same": {"threads": 77, "processes": 1}}, path)
    with pytest.raises(TrainingError, match=r"was made with threads 77, and this run has \d+: its sums would be"):
        run(Small(), data, tmp_path, resume=True)
    torch.save(state | {"same": {**state["same"], "processes": 4}}, path)
    with pytest.raises(TrainingError, match="was made with processes 4, and this run has 1"):
        run(Small(), data, tmp_path, resume=True)


def test_long_epochs_are_saved_within(data, tmp_path):
    saved = []

    class Notes(Heard):
        def step(self, epoch, done, steps):
            saved.append([path.name for path in sorted(tmp_path.glob(CHECKPOINTS))])

    run(Small(), data, tmp_path, Train(epochs=1, batch=16), checkpoint_minutes=1e-9, report=Notes())
    assert saved[2] == ["checkpoint-000000001.pt", "checkpoint-000000002.pt"]


def test_a_checkpoint_that_cannot_be_written_says_so(data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="cannot be written: .*No space left"):
        run(Small(), data, tmp_path)


def test_the_learning_rate_warms_up_and_ends_at_zero():
    for schedule in ("cosine", "linear"):
        config = Train(epochs=1, lr=0.1, warmup=0.1, schedule=schedule)
        rates = [learning_rate(config, step, 100) for step in range(101)]
        assert rates[0] < rates[5] < rates[10]
        assert abs(max(rates) - 0.1) < 1e-9
        assert rates[100] < 1e-9
        assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_optimisers_do_not_decay_biases_and_clipping_is_honoured(data, tmp_path):
    for name in ("sgd", "adamw"):
        groups = make_optimizer(Small(), Train(epochs=1, optimizer=name, lr=1e-3)).param_groups
        assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
        assert all(p.ndim > 1 for p in groups[0]["params"])
    run(Small(), data, tmp_path, Train(epochs=1, batch=16, clip=0.1, optimizer="adamw", lr=1e-3))


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="'cuda', and this machine has no CUDA device") as caught:
        make_fabric(Run(device="cuda"))
    assert caught.value.exit_code == 2
    assert make_fabric(Run()).device.type == "cpu"


def test_bf16_trains_too(data, tmp_path):
    assert run(Small(), data, tmp_path, precision="bf16").log[-1]["sup"] < 2


def test_bf16_leaves_what_a_module_is_given_as_it_is():
    fabric = make_fabric(Run(precision="bf16"))
    seen = {}

    class Look(torch.nn.Module):
        def forward(self, x):
            seen["dtype"] = x.dtype
            return torch.ones(2, 2) @ torch.ones(2, 2)

    assert fabric.setup_module(Look())(torch.ones(1)).dtype == torch.float32  # Fabric gives back the default type
    assert seen["dtype"] == torch.float32
    assert str(fabric._precision.precision) == "bf16-mixed"


def test_tensorboard_gets_every_term(data, tmp_path):
    pytest.importorskip("tensorboard")
    run(Small(), data, tmp_path, Train(epochs=1, batch=16), tensorboard=True)
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of itself
def test_compiling_changes_no_result_and_no_name(data, tmp_path):
    eager, compiled = Small(), Small()
    once = Train(epochs=1, batch=16, lr=0.05)
    expected = run(eager, data, tmp_path / "eager", once).log
    found = run(compiled, data, tmp_path / "compiled", once, compile=True).log
    assert [row["sup"] for row in found] == pytest.approx([row["sup"] for row in expected], rel=1e-4)
    for (name, a), (other, b) in zip(eager.state_dict().items(), compiled.state_dict().items(), strict=True):
        assert name == other
        assert torch.allclose(a.float(), b.float(), atol=1e-4), name
