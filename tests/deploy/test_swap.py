import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import killed
import pytest
from killed import tree

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.swap import exclusive
from kfdeploy.deploy.update.apply import apply, rollback
from kfdeploy.deploy.update.diff import write_update
from kfdeploy.deploy.update.keys import keygen, sign
from kfdeploy.errors import OutputError, PoolError, UpdateError


@pytest.fixture
def world(toy, tmp_path):
    """Three assemblies, the signed update from the second to the third, and a device that has the second."""
    for name, tasks in (("older", ["élan"]), ("old", ["pets", "élan"]), ("new", ["ünï/c", "pets"])):
        (assemble(toy.pool, tasks, tmp_path / name / "assembly")).path.rename(tmp_path / "moved")
        (tmp_path / name).rmdir()
        (tmp_path / "moved").rename(tmp_path / name)
    private, public = keygen(tmp_path / "update")
    (tmp_path / "state" / "keys").mkdir(parents=True)
    shutil.copy(public, tmp_path / "state" / "keys")
    write_update(tmp_path / "older", tmp_path / "old", tmp_path / "first.kfu")
    write_update(tmp_path / "old", tmp_path / "new", tmp_path / "update.kfu")
    sign(tmp_path / "first.kfu", private, counter=1)
    sign(tmp_path / "update.kfu", private, counter=2)
    shutil.copytree(tmp_path / "older", tmp_path / "device")
    apply(tmp_path / "first.kfu", tmp_path / "device", state=tmp_path / "state")
    return tmp_path


def test_a_process_killed_at_any_file_operation_leaves_the_old_model_or_the_new_one(world):
    done = subprocess.run(
        [sys.executable, killed.__file__, str(world)], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["apply"]["points"] > 60
    assert found["apply"]["old"] > 30
    assert found["apply"]["new"] > 10
    assert found["mend old"].keys() == {"points", "old"}
    assert found["mend new"].keys() == {"points", "new"}
    assert found["rollback"]["old"] > 10
    assert found["rollback"]["new"] > 10


def test_everything_is_on_the_disk_before_the_commit(world, monkeypatch):
    """What a power cut may not lose: every file written and every folder made is synced before the model is renamed."""
    synced, unsynced, replace, sync = set(), [], Path.replace, os.fsync

    def watched(path, target):
        if path.name == "model.onnx" and path.parent.parent.name == ".update":
            for made in [path.parent, *path.parent.rglob("*")]:
                status = made.stat()
                if made.is_dir() or status.st_nlink == 1:  # a link is to a file that was there before
                    unsynced.extend([made] if (status.st_dev, status.st_ino) not in synced else [])
            watched.seen = True
        return replace(path, target)

    def noted(descriptor):
        status = os.fstat(descriptor)
        synced.add((status.st_dev, status.st_ino))
        sync(descriptor)

    monkeypatch.setattr(Path, "replace", watched)
    monkeypatch.setattr(os, "fsync", noted)
    apply(world / "update.kfu", world / "device", state=world / "state")
    assert watched.seen
    assert not unsynced


def test_a_full_disk_leaves_the_assembly_as_it_was(world, monkeypatch):
    before, write, messages = tree(world / "device"), os.write, set()
    for room in range(100):
        left = [room]

        def limited(descriptor, data, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(descriptor, data)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", limited)
            try:
                apply(world / "update.kfu", world / "device", state=world / "state")
                break
            except OutputError as error:
                messages.add(f"{error.what.partition(': ')[2]}; {error.hint.rpartition('; ')[2]}")
        assert tree(world / "device") == before
        assert not list((world / "device").glob(".update*"))
        assert not list((world / "state").rglob("*.partial"))
    assert room > 5
    assert messages == {"No space left on device; the model is as it was"}
    assert tree(world / "device") == tree(world / "new")


def test_without_hard_links_files_are_copied(world, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    apply(world / "update.kfu", world / "device", state=world / "state")
    assert tree(world / "device") == tree(world / "new")
    rollback(world / "device")
    assert tree(world / "device") == tree(world / "old")


def test_one_process_at_a_time(world):
    descriptor = os.open(world / "device", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(UpdateError, match="another process is updating"):
            apply(world / "update.kfu", world / "device", state=world / "state")
        # What another one is preparing is not taken from it by those who only read.
        (world / "device" / ".update.partial").mkdir()
        Model.open(world / "device").check()
        assert (world / "device" / ".update.partial").is_dir()
    finally:
        os.close(descriptor)
    Model.open(world / "device")  # nor where nobody is preparing anything: who reads writes nothing
    assert (world / "device" / ".update.partial").is_dir()
    with exclusive(world / "device"):
        assert not (world / "device" / ".update.partial").exists()


def test_a_file_that_is_nobody_s_of_the_assembly_is_not_put_aside(world):
    for place in ("parts/mine.txt", ".previous/mine.txt", ".previous/parts/tasks/mine.txt"):
        mine = world / "device" / place
        mine.write_text("mine")
        before = tree(world / "device")
        with pytest.raises(UpdateError, match=r"mine.txt' is not one of the assembly's own files"):
            apply(world / "update.kfu", world / "device", state=world / "state")
        assert tree(world / "device") == before
        mine.unlink()
    (world / "device" / "mine.txt").write_text("mine")  # beside them, where nothing is moved
    apply(world / "update.kfu", world / "device", state=world / "state")
    assert (world / "device" / "mine.txt").read_text() == "mine"
    (world / "device" / "parts" / "mine.txt").write_text("mine")
    with pytest.raises(UpdateError, match=r"mine.txt' is not one of the assembly's own files"):
        rollback(world / "device")


@pytest.mark.parametrize("name", [".update", ".update.partial", ".previous", "parts", "model.onnx", "assembly.json",
                                  ".update/new", ".update/old", ".update/swap.json", ".previous/parts"])  # fmt: skip
def test_a_swap_follows_no_link(name, world):
    """As in a folder that was got from somebody: what it leads to stays where it is."""
    device, victim = world / "device", world / "older"
    path = device / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(victim)
    before = tree(victim)
    for write in (lambda: apply(world / "update.kfu", device, state=world / "state"), lambda: rollback(device)):
        with pytest.raises(PoolError, match="is a symbolic link, and inside a folder of kfdeploy none is followed"):
            write()
    assert tree(victim) == before
    assert path.is_symlink()


def test_a_journal_that_does_not_say_what_was_begun(world):
    journal = world / "device" / ".update"
    journal.mkdir()
    for record in ({"keep": 7, "sha256": "0"}, {"keep": True}, {"keep": True, "sha256": None}):
        (journal / "swap.json").write_text(json.dumps({"schema": 1, "kind": "swap"} | record))
        with pytest.raises(PoolError, match="does not say what was begun|is wrong|is incomplete|lacks"):
            rollback(world / "device")
        Model.open(world / "device").check()  # reading does not ask it
    (journal / "swap.json").write_text(json.dumps({"schema": 1, "kind": "swap", "keep": True, "sha256": "0"}))
    for name in ("new", "old"):
        (journal / name / "parts").mkdir(parents=True)
    with pytest.raises(PoolError, match="is no journal of an update: it has parts thrice"):
        rollback(world / "device")
