"""`kill -9` at any moment: what is resumed ends as the pool of a run that nobody disturbed, bit for bit."""

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from kfdeploy.files import CHECKPOINTS, TIMING


def command(recipe, out):
    return [sys.executable, "-m", "kfdeploy", "factorize", str(recipe), "--out", str(out), "--threads", "1",
            "--set", "train.epochs=60", "--set", "run.checkpoint_minutes=0.001", "--resume"]  # fmt: skip


def hashes(pool):
    return {
        path.relative_to(pool).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(pool.rglob("*"))
        if path.is_file() and path.name != TIMING
    }


def test_a_run_killed_at_three_random_points_ends_as_an_undisturbed_one(toy, tmp_path):
    recipe = toy.write_recipe(
        tmp_path, ("epochs = 4\nbatch = 16\nlr = 0.05\n\n[ckn]", "epochs = 3\nbatch = 16\nlr = 0.05\n\n[ckn]")
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    chance = random.Random()  # the points are not to be the same in every run of the tests
    out, steps = tmp_path / "pool", []
    for number in range(3):
        process = subprocess.Popen(
            command(recipe, out),
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout:
            head = []
            for line in process.stdout:
                head.append(line)
                if line.startswith("factors: "):
                    break
            if number:
                # From the checkpoint, not from the start; the teacher is not trained again.
                assert "teacher: all 3 epochs are done" in "".join(head)
                found = re.search(r"factors: going on at epoch (\d+) of 60(?:, after step (\d+))?", line)
                assert found, head
                assert (int(found[1]) - 1) * 3 + int(found[2] or 0) == steps[-1]
            before = steps[-1] if steps else 0
            while step_of(out) <= before:
                assert process.poll() is None, "it ended by itself"
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.15))
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
        steps.append(step_of(out))
    assert 0 < steps[0] < steps[1] < steps[2] < 180
    for folder in (out, tmp_path / "whole"):
        subprocess.run(command(recipe, folder), cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert hashes(out) == hashes(tmp_path / "whole")
    assert not list(out.rglob(CHECKPOINTS))


def step_of(out):
    """Return the step of the newest checkpoint."""
    found = sorted((out.with_name("pool.partial") / "train").glob(CHECKPOINTS))
    return int(found[-1].stem.rpartition("-")[2]) if found else 0


def test_a_run_does_not_go_on_with_other_images(toy, tmp_path):
    import shutil

    from kfdeploy.errors import TrainingError
    from kfdeploy.training.experiment import Experiment
    from kfdeploy.training.loop.resume import DATA, unfinished
    from kfdeploy.training.recipe.recipe import apply_settings, parse_recipe

    shutil.copytree(toy.data, tmp_path / "data")
    recipe = parse_recipe(apply_settings(toy.recipe.model_dump(), [f"data.root={tmp_path / 'data'}"]), "toy")
    out = tmp_path / "pool"

    def go_on():
        with unfinished(out, recipe, Experiment(recipe).record, force=False, resume=True) as work:
            (work / "train" / "checkpoint-000001.pt").write_bytes(b"")
            raise KeyboardInterrupt

    for _ in range(2):  # begun, and gone on with
        with pytest.raises(KeyboardInterrupt):
            go_on()
    picture = next((tmp_path / "data" / "train" / "cat").iterdir())
    shutil.copy(picture, picture.with_name("000-new.png"))
    with pytest.raises(
        TrainingError, match="the images are not those that '.*' was begun with: .*are new, such as 'cat"
    ):
        go_on()
    (partial,) = tmp_path.glob("pool.partial")
    (partial / "train" / DATA).unlink()
    with pytest.raises(TrainingError, match="which images '.*' was begun with is not on record"):
        go_on()
