"""Kills a process at every file operation of an update, one after the other; a program of its own, without torch.

    python killed.py FOLDER

FOLDER holds older/, old/ and new/ (assemblies), device/ (old, with older to go back to), update.kfu and state/.
Prints one JSON line: how many points each sweep had, and how many of them ended in the old and in the new assembly.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path

import kfdeploy.deploy.update.keys  # loaded here, once: a child process must find it
import kfdeploy.graph.compose  # noqa: F401
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.swap import exclusive
from kfdeploy.deploy.update import apply as update
from kfdeploy.errors import PoolError, UpdateError
from kfdeploy.graph.reference import golden_difference

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "os.symlink"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def tree(folder):
    """Every file of an assembly by name: its bytes. What begins with a dot is not of it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
    return {name: data for name, data in names.items() if not name.startswith(".")}


def die_at(point):
    """Let this process be killed before its n-th change of the disk; half of what is written counts as one."""
    left = [point]

    def tick():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(event, arguments):
        if event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING):
            tick()

    write = os.write

    def half(descriptor, data):
        tick()
        return write(descriptor, data[: (len(data) + 1) // 2] if len(data) > 64 else data)

    sys.addaudithook(watch)
    os.write, os.fsync = half, lambda _: tick()


def child(work, point=0):
    """Do `work` in a copy of this process; return whether it was killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if point:
                die_at(point)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, f"failed at point {point}"
    return False


class Sweep:
    """Starts from a saved state of the disk, kills `work` at every point, and calls `after(side)` on what is left."""

    def __init__(self, root):
        self.root = root
        self.trees = {name: tree(root / name) for name in ("older", "old", "new")}
        self.graphs = {found["model.onnx"]: name for name, found in self.trees.items()}
        self.device, self.state = root / "a" / "assembly", root / "a" / "state"

    def place(self, saved):
        shutil.rmtree(self.root / "a", ignore_errors=True)
        # Links: fast, and if anything were ever written over in place, the next comparison would show it.
        shutil.copytree(saved, self.root / "a", copy_function=os.link)

    def side(self):
        """Which whole model the application reads."""
        return self.graphs[(self.device / "model.onnx").read_bytes()]

    def run(self, saved, work, after, keep=None):
        counts, point = {}, 0
        while True:
            point += 1
            self.place(saved)
            killed = child(work, point)
            side = self.side()
            counts[side] = counts.get(side, 0) + 1
            if keep is not None:
                keep(side)
            after(side)
            if not killed:
                return {"points": point, **counts}

    def read(self, side):
        """Who reads finds the whole model of this side, or is told that an update was interrupted; nothing changes."""
        before = self.entries()
        told = ""
        try:
            Model.open(self.device).check()
        except PoolError as error:
            told = error.what
        if told:
            assert "was interrupted" in told, told
            assert (self.device / ".update").is_dir()
        else:
            assert tree(self.device) == self.trees[side]
        assert self.entries() == before

    def entries(self):
        """Every entry of the device's folder, which file it is and when it was last changed."""
        paths = sorted(self.device.rglob("*"))
        return [(path, path.lstat().st_ino, path.lstat().st_mtime_ns) for path in paths]

    def mend(self):
        """Finish or drop what was begun, as `apply` and `rollback` do before anything else."""
        with exclusive(self.device):
            pass

    def opened(self, side):
        """Mending brings the whole folder in line with the graph that lies there, and leaves no journal."""
        self.read(side)
        self.mend()
        Model.open(self.device).check()
        assert tree(self.device) == self.trees[side]
        assert {path.name for path in self.device.iterdir()} - {".previous", ".counter.json"} == {
            "model.onnx",
            "assembly.json",
            "parts",
        }

    def apply(self):
        update.apply(self.root / "update.kfu", self.device, state=self.state)

    def updated(self, side):
        self.opened(side)
        # What can be gone back to is whole too, whichever side it ended on.
        assert tree(self.device / ".previous") == self.trees["older" if side == "old" else "old"]
        self.apply()
        self.opened("new")
        assert tree(self.device / ".previous") == self.trees["old"]

    def rolled_back(self, side):
        self.opened(side)
        if side == "new":
            assert tree(self.device / ".previous") == self.trees["old"]
            update.rollback(self.device)
        try:
            update.rollback(self.device)
            raise AssertionError("it went back twice")
        except UpdateError:
            self.opened("old")


def main(root):
    os.fsync = lambda _: None  # a killed process loses nothing that it has written; see the test of what is synced
    # Running the graph changes no file, and ONNX Runtime starts a thread, which a fork would lose: see the end.
    update.golden_difference = lambda *_: (0.0, 0.0)
    sweep = Sweep(root)
    (root / "start").mkdir()
    (root / "device").rename(root / "start" / "assembly")
    (root / "state").rename(root / "start" / "state")
    journals = {}

    def keep(side):
        if (sweep.device / ".update").is_dir() and side not in journals:
            journals[side] = shutil.copytree(root / "a", root / f"interrupted-{side}")

    sweep.place(root / "start")
    sweep.apply()  # what is loaded on first use is loaded here, once
    (root / "a").rename(root / "done")
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with threads is not to be forked"
    found = {"apply": sweep.run(root / "start", sweep.apply, sweep.updated, keep)}
    for side in ("old", "new"):  # the one who mends is killed too
        found[f"mend {side}"] = sweep.run(journals[side], sweep.mend, sweep.updated)
    found["rollback"] = sweep.run(root / "done", lambda: update.rollback(sweep.device), sweep.rolled_back)
    for side in ("old", "new"):  # every graph that was found above has the bytes of one of these
        model = Model.open(root / side)
        evidence = model.evidence()
        golden_difference(model.graph, evidence.images, evidence.golden)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
