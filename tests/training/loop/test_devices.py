import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from kfdeploy.errors import DeviceError
from kfdeploy.files import load_tensors
from kfdeploy.training.loop.devices import check_devices, make_fabric
from kfdeploy.training.loop.processes import globalise
from kfdeploy.training.recipe.sections import Run

BY_MODULE = [sys.executable, "-m", "kfdeploy"]
BY_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "kfdeploy"]


@pytest.fixture(scope="module")
def command(toy, tmp_path_factory):
    """The arguments of a factorization of twelve steps, its teacher a file."""
    weights = toy.pool / "train" / "teacher" / "state.safetensors"
    recipe = toy.write_recipe(
        tmp_path_factory.mktemp("recipe"),
        ('source = "train"', f'source = "file:{weights}"\nclasses = ["cat", "dog", "sea horse", "élan", "uni"]'),
        ("[teacher.train]\nepochs = 4\nbatch = 16\nlr = 0.05", ""),
    )
    return ["factorize", str(recipe), "--device", "cpu", "--threads", "1"]


def environment():
    return {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}


def run(starter, arguments, folder, **more):
    found = subprocess.run(
        [*starter, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, **more
    )
    assert found.returncode == 0, found.stderr
    return found


@pytest.fixture(scope="module")
def one(command, tmp_path_factory):
    """The pool that one process makes."""
    folder = tmp_path_factory.mktemp("one")
    run(BY_MODULE, [*command, "--out", "pool"], folder)
    return folder / "pool"


@pytest.mark.parametrize("starter", [BY_MODULE, BY_TORCHRUN], ids=["--devices", "torchrun"])
def test_two_processes_of_half_the_batch_take_the_steps_of_one(command, one, tmp_path, starter):
    """Ten steps and more: the gathered information term, the global statistics and every logged number included."""
    found = run(starter, [*command, "--out", "two", "--devices", "2"], tmp_path)
    assert found.stdout.count("wrote two") == 1
    rows = []
    for pool in (one, tmp_path / "two"):
        with (pool / "train" / "log.csv").open() as stream:
            rows.append([[float(value) for value in row.values()] for row in csv.DictReader(stream)])
    assert np.allclose(*rows, rtol=1e-3, atol=1e-3)
    states = [load_tensors(pool / "train" / "state.safetensors") for pool in (one, tmp_path / "two")]
    for key, value in states[0].items():
        assert np.allclose(value, states[1][key], rtol=1e-3, atol=1e-3), key


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_run_with_its_error_and_nothing_hangs(command, tmp_path, victim):
    arguments = [*command, "--devices", "2", "--set", "train.epochs=100000"]
    with (tmp_path / "log").open("w") as log:
        parent = subprocess.Popen(
            [*BY_MODULE, *arguments], cwd=tmp_path, env=environment(), stdout=log, stderr=subprocess.STDOUT
        )
    for _ in range(600):
        if list(tmp_path.glob("pool.partial/train/checkpoint-*")):
            break
        time.sleep(0.1)
    children = [
        int(pid)
        for pid in subprocess.run(["pgrep", "-P", str(parent.pid)], capture_output=True, text=True).stdout.split()
    ]
    ranks = {rank_of(pid): pid for pid in children}
    os.kill(ranks[str(victim)], signal.SIGKILL)
    began = time.monotonic()
    assert parent.wait(60) == 1
    assert time.monotonic() - began < 60
    text = (tmp_path / "log").read_text()
    assert f"error: process {victim + 1} of 2 was ended by signal 9; the others were stopped" in text
    assert "--resume" in text
    assert all(not alive(pid) for pid in children)


def rank_of(pid):
    text = Path(f"/proc/{pid}/environ").read_bytes().decode()
    return dict(item.partition("=")[::2] for item in text.split("\0")).get("RANK")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_batch_that_cannot_be_shared_is_refused(command, tmp_path):
    found = subprocess.run(
        [*BY_MODULE, *command, "--devices", "2", "--set", "train.batch=15"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert found.returncode == 2
    assert found.stderr.count("train.batch is 15, which 2 processes cannot share equally") == 1
    assert "--set train.batch=14" in found.stderr


def test_more_devices_than_there_are_and_several_without_a_launcher_are_refused(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(DeviceError, match="--devices 5 was asked for, and there are 2 processor cores") as caught:
        check_devices(Run(device="cpu", devices=5))
    assert caught.value.hint == "--devices 2"
    with pytest.raises(DeviceError, match="run.devices is 2, and this process was started as one of 1"):
        make_fabric(Run(device="cpu", devices=2))


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DeviceError, match=r"run\.compile needs a C\+\+ compiler"):
        make_fabric(Run(device="cpu", compile=True))


def test_global_normalisation_in_one_process_is_torchs_own():
    torch.manual_seed(0)
    ours = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.BatchNorm1d(144)
    )
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.BatchNorm1d(144)
    )
    theirs.load_state_dict(ours.state_dict())
    globalise(ours)
    x = torch.randn(5, 3, 8, 8)
    weights = torch.randn(5, 144)
    for net in (ours, theirs):
        (net(x) * weights).sum().backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=2e-4), name
    for name, value in theirs.state_dict().items():
        assert torch.allclose(ours.state_dict()[name].float(), value.float(), atol=1e-5), name
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-5)
