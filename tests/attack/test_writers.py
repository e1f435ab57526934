"""Kills, power cuts and racing processes at every verb that writes: old, new or absent, and everybody is told."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kfdeploy import outputs
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.calibrate import calibrate
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.update.apply import apply
from kfdeploy.deploy.update.diff import write_update
from kfdeploy.deploy.update.keys import keygen, sign
from kfdeploy.pool.convert import store_half
from kfdeploy.pool.edit import merge, remove
from kfdeploy.pool.pool import Pool

HELPERS = Path(__file__).parents[1] / "helpers"


def tree(folder):
    """Every file below a folder: its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def beside(folder, *known):
    """What lies in a folder besides what is known to."""
    return sorted(path.name for path in folder.iterdir() if path.name not in known)


class Disk:
    """Watches what is seen on the disk: a name may only be given to what is there whole, and is itself seen there."""

    def __init__(self):
        self.synced, self.given, self.wrong = {}, {}, []
        self.on = False

    @staticmethod
    def key(found):
        return found.st_dev, found.st_ino

    def fsync(self, descriptor):
        found = os.fstat(descriptor)
        self.synced[self.key(found)] = (found.st_size, found.st_mtime_ns)
        if stat.S_ISDIR(found.st_mode):
            for path in [path for path, where in self.given.items() if where == self.key(found)]:
                del self.given[path]

    def named(self, source, target):
        """A file or a folder gets a name that others read."""
        source, target = Path(os.fsdecode(source)), Path(os.fsdecode(target))
        if not self.on or any(part.endswith((".partial", ".replaced")) for part in target.parts):
            return
        for path in [source, *source.rglob("*")] if source.is_dir() else [source]:
            found = path.lstat()
            if stat.S_ISREG(found.st_mode) and self.synced.get(self.key(found)) != (found.st_size, found.st_mtime_ns):
                self.wrong.append(f"{target}: '{path}' is not on the disk yet")
        self.given[str(target)] = self.key(target.parent.stat())

    def end(self):
        """What was named must be seen in its folder before the command says that it is done."""
        self.wrong += [f"the name '{path}' may be lost" for path in self.given]
        found, self.wrong, self.given = self.wrong, [], {}
        return found


@pytest.fixture(scope="module")
def disk():
    watched, real = Disk(), (os.fsync, outputs.exchange)

    def fsync(descriptor):
        real[0](descriptor)
        watched.fsync(descriptor)

    def exchange(one, other):
        if watched.on:
            watched.named(one, other)
        return real[1](one, other)

    def hook(event, arguments):
        if watched.on and event in ("os.rename", "os.link"):
            watched.named(arguments[0], arguments[1])

    sys.addaudithook(hook)
    os.fsync, outputs.exchange = fsync, exchange
    yield watched
    watched.on = False
    os.fsync, outputs.exchange = real


@pytest.fixture
def place(toy, tmp_path):
    shutil.copytree(toy.pool, tmp_path / "here" / "pool")
    return tmp_path / "here"


def keyed(state, public):
    """A device's state folder that holds a key."""
    (state / "keys").mkdir(parents=True, exist_ok=True)
    shutil.copy(public, state / "keys")
    return state


VERBS = {
    "assemble": lambda p: assemble(p / "pool", ["pets", "élan"], p / "out"),
    "assemble --force": lambda p: assemble(p / "pool", ["élan", "pets"], p / "out", force=True),
    "export": lambda p: export(p / "out", out=p / "artifacts"),
    "export --force": lambda p: export(p / "out", out=p / "artifacts", kit=True, force=True),
    "calibrate": lambda p: calibrate(p / "pool", images=8),
    "calibrate again": lambda p: calibrate(p / "pool", images=5),
    "remove --out": lambda p: remove(p / "pool", ["élan"], p / "smaller"),
    "merge": lambda p: merge(p / "smaller", remove(p / "pool", ["pets", "sea horse", "ünï/c"], p / "one"), p / "merged"),
    "convert": lambda p: store_half(p / "pool", p / "half"),
    "remove": lambda p: remove(p / "pool", ["ünï/c"]),
    "keygen": lambda p: keygen(p / "update"),
    "diff": lambda p: write_update(p / "out", assemble(p / "pool", ["élan", "pets", "sea horse"], p / "new" / "out").path,
                                   p / "x.kfu"),
    "sign": lambda p: sign(p / "x.kfu", p / "update.key"),
    "apply": lambda p: apply(p / "x.kfu", p / "out", state=keyed(p / "state", p / "update.pub")),
}  # fmt: skip


def test_a_power_cut_after_any_verb_loses_nothing_that_it_has_told_of(disk, place):
    """No name is given to what the disk has not, and every name is on the disk when the command ends."""
    wrong = {}
    for name, verb in VERBS.items():
        disk.on = True
        try:
            verb(place)
        finally:
            disk.on = False
        if found := disk.end():
            wrong[name] = found
    assert not wrong
    assert not [path for path in place.rglob(".*") if path.name.endswith((".partial", ".replaced", ".lock"))]


def run(words, cwd, point=None):
    """Run a command line, killed at a point of its changes of the disk; return its status and what it said."""
    program = [str(HELPERS / "dying.py"), str(point)] if point is not None else ["-m", "kfdeploy"]
    done = subprocess.run(
        [sys.executable, *program, *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


def new_or(old, out, saved):
    """Check that what is at `out` is whole: what it was, or new, or absent where there was nothing."""
    if not out.exists():
        assert old is None
        return
    found = tree(out)
    if found != old:
        Model.open(out).check()
        assert saved is None or found["model.onnx"] == saved["model.onnx"]


KILLED = {
    "assemble": ["assemble", "--tasks", "pets", "élan", "--out", "out"],
    "assemble --force": ["assemble", "--tasks", "élan", "pets", "--out", "out", "--force"],
}


@pytest.mark.parametrize("name", KILLED)
def test_a_kill_at_any_change_of_the_disk_leaves_old_or_new(name, place):
    out, words = place / "out", KILLED[name]
    if "--force" in words:
        assemble(place / "pool", ["pets", "élan"], out)
    old = tree(out) if out.exists() else None
    shutil.copytree(place, place.parent / "whole")
    code, said, _ = run(words, place.parent / "whole", 0)
    assert code == 0
    points, saved = int(said.splitlines()[-1]), tree(place.parent / "whole" / "out")
    assert points > 20
    for point in sorted({1, 2, *range(3, points - 6, max(1, points // 6)), *range(points - 6, points + 1)}):
        if old is None and out.exists():
            shutil.rmtree(out)
        elif old is not None and tree(out) != old:
            shutil.rmtree(out)
            assemble(place / "pool", ["pets", "élan"], out)
        code, _, error = run(words, place, point)
        assert code == -9, error
        new_or(old, out, saved)
    code, _, error = run([*words, "--force"] if out.exists() and "--force" not in words else words, place)
    assert code == 0, error
    assert tree(out)["model.onnx"] == saved["model.onnx"]
    assert beside(place, "pool", "out") == []


def race(commands, cwd):
    """Start commands at once; return each one's status and error."""
    running = [
        subprocess.Popen([sys.executable, "-m", "kfdeploy", *words], cwd=cwd, stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True)
        for words in commands
    ]  # fmt: skip
    ended = [process.communicate(timeout=180)[1] for process in running]
    return [(process.returncode, error) for process, error in zip(running, ended, strict=True)]


TOLD = ("another kfdeploy writes to", "is already there", "was changed by another process", "is not in")


@pytest.mark.parametrize("count", [2, 4])
def test_of_processes_that_assemble_at_once_one_wins_and_the_others_are_told(count, place):
    words = ["assemble", "--tasks", "pets", "élan", "--out", "out"]
    for _ in range(2):
        ended = race([words] * count, place)
        assert sorted(code for code, _ in ended) == [0] + [1] * (count - 1), ended
        assert all(any(text in error for text in TOLD) for code, error in ended if code), ended
        Model.open(place / "out").check()
        ended = race([[*words, "--force", "--wait"]] * count, place)
        assert [code for code, _ in ended] == [0] * count, ended
        Model.open(place / "out").check()
        assert beside(place, "pool", "out") == []
        shutil.rmtree(place / "out")


def test_of_processes_that_change_a_pool_at_once_none_destroys_it(place):
    names = {"pets", "sea horse", "élan", "ünï/c"}
    ended = race([["pool", "remove", "pool", "--tasks", name, "--wait"] for name in ("élan", "ünï/c")], place)
    assert [code for code, _ in ended] == [0, 0], ended
    pool = Pool.open(place / "pool")
    pool.check()
    assert {task.name for task in pool.tasks} == names - {"élan", "ünï/c"}
    ended = race([["calibrate", "pool", "--images", "8"], ["pool", "remove", "pool", "--tasks", "pets"]], place)
    assert 0 in [code for code, _ in ended]
    assert all(any(text in error for text in TOLD) for code, error in ended if code), ended
    pool = Pool.open(place / "pool")
    pool.check()
    assert pool.calibrated
    assert beside(place, "pool") == []
