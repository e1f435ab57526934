import multiprocessing
import os
import signal
import time

import pytest

from kfdeploy.errors import OutputError
from kfdeploy.locks import lock

SPAWN = multiprocessing.get_context("spawn")


def hold(place, ready, seconds):
    with lock(place):
        ready.set()
        time.sleep(seconds)


def count(place, total, rounds):
    """Add one to a number in a file, under the lock, many times."""
    for _ in range(rounds):
        with lock(place, wait=True):
            total.write_text(str(int(total.read_text()) + 1))


def test_another_process_is_told_of_and_its_lock_ends_with_it(tmp_path):
    ready = SPAWN.Event()
    other = SPAWN.Process(target=hold, args=(tmp_path / "x", ready, 60))
    other.start()
    assert ready.wait(30)
    told = rf"another kfdeploy writes to '.*x' \(process {other.pid}\)"
    with pytest.raises(OutputError, match=told), lock(tmp_path / "x"):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with lock(tmp_path / "x"):  # what it left is taken over
        assert (tmp_path / ".x.lock").read_text() == str(os.getpid())


def test_many_who_wait_go_one_after_another(tmp_path):
    total = tmp_path / "total"
    total.write_text("0")
    processes = [SPAWN.Process(target=count, args=(tmp_path / "x", total, 25)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert total.read_text() == "100"
    assert not (tmp_path / ".x.lock").exists()


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("important")
    (tmp_path / ".x.lock").symlink_to(tmp_path / "precious")
    with (
        pytest.raises(OutputError, match=r"the lock '\.x\.lock' beside it cannot be held: it is a link"),
        lock(tmp_path / "x"),
    ):
        pass
    assert (tmp_path / "precious").read_text() == "important"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_in_a_place_that_may_only_be_read_is_locked_itself(tmp_path):
    (tmp_path / "x").mkdir()
    tmp_path.chmod(0o500)
    try:
        with lock(tmp_path / "x"), pytest.raises(OutputError, match="another kfdeploy writes"), lock(tmp_path / "x"):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_is_locked_itself_where_no_file_can_be_made_beside_it(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    real = os.open

    def refusing(path, flags, *mode, **more):
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, flags, *mode, **more)

    monkeypatch.setattr(os, "open", refusing)
    with lock(tmp_path / "x"), pytest.raises(OutputError, match="another kfdeploy writes"), lock(tmp_path / "x"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
