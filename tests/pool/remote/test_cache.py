"""The cache of pools on servers: several processes at once, broken downloads, and folders that cannot be written."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from servers import fails

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.model import Model
from kfdeploy.errors import OutputError, PoolError, StoreError
from kfdeploy.files import sha256
from kfdeploy.pool.pool import Pool
from kfdeploy.pool.remote.cache import cache_folder

TASKS = ["sea horse", "pets"]


def started(web, out, *, environment=None):
    """Start a process that assembles from a server."""
    words = ["assemble", "--pool", web.url, "--tasks", *TASKS, "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "kfdeploy", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | (environment or {}),
    )


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def located(url, name):
    """Where the cache has a file of a pool, fetched if it must be."""
    pool = Pool.open(url)
    return pool.place.file(name, pool.files)


def test_two_processes_with_one_cache_fetch_each_file_once(web, cache, tmp_path):
    web.hold = threading.Event()
    both = [started(web, tmp_path / name / "a") for name in "xy"]
    wait_for(lambda: web.asked().get("pool.json") == 2 and len(web.log) > 5)
    time.sleep(0.2)  # the one that is later is at the locks by now
    web.hold.set()
    for process in both:
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    asked = web.asked()
    assert asked.pop("pool.json") == 2
    assert set(asked.values()) == {1}
    graphs = [Model.open(tmp_path / name / "a").graph.read_bytes() for name in "xy"]
    assert graphs[0] == graphs[1]
    assert not list((cache / "partial").iterdir())


def test_a_process_killed_with_the_locks_leaves_no_deadlock(web, cache, tmp_path):
    web.hold = threading.Event()
    first = started(web, tmp_path / "a")
    wait_for(lambda: len(web.log) > 5)
    first.kill()
    first.communicate()
    web.hold.set()
    assert not list((cache / "sha256").glob("*/*"))
    assert not (tmp_path / "a").exists()
    assemble(web.url, TASKS, tmp_path / "a")


def test_a_server_that_disappears_half_way_is_gone_on_with(web, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("kfdeploy.pool.remote.cache.AT_ONCE", 1)
    web.dead_after = 4
    error = fails(
        StoreError, assemble, web.url, TASKS, tmp_path / "a", match=f"'{web.url}' stopped answering at '[a-z/]+[^']*': "
    )
    assert "goes on from what has arrived" in error.hint
    kept = list((cache / "sha256").glob("*/*"))
    assert len(kept) == 3
    assert all(sha256(path) == path.name for path in kept)
    assert not list(tmp_path.glob("a*"))
    assert not list((cache / "partial").iterdir())
    web.dead_after = None
    before = web.asked()
    assemble(web.url, TASKS, tmp_path / "a")
    again = [name for name, count in web.asked().items() if count > before.get(name, 0) and name in before]
    assert len(again) <= 3  # pool.json, the file at which it stopped, and the one that was to come after it


def test_a_file_broken_off_goes_on_where_it_stopped(web, pool, cache, monkeypatch):
    monkeypatch.setattr("kfdeploy.pool.remote.cache.PIECE", 2000)
    size = (pool / "common.onnx").stat().st_size
    assert size > 6000
    opened = Pool.open(web.url)
    web.dead_after = len(web.log) + 3
    fails(StoreError, opened.read, "common.onnx", match=r"stopped answering at 'common\.onnx'")
    assert not list((cache / "sha256").glob("*/*"))
    web.dead_after = None
    web.log.clear()
    assert opened.place.file("common.onnx", opened.files).read_bytes() == (pool / "common.onnx").read_bytes()
    assert web.log[0] == ("common.onnx", "bytes=6000-7999")

    # What had arrived turns out to be of another file: from the start, without a word.
    (whole,) = (cache / "sha256").glob("*/*")
    whole.unlink()
    (cache / "partial" / whole.name).write_bytes(bytes(5000))
    assert located(web.url, "common.onnx") == whole
    (cache / "partial" / whole.name).write_bytes(bytes(size + 10))
    whole.unlink()
    assert located(web.url, "common.onnx") == whole

    # A server without ranges sends all of it, whatever is asked for.
    whole.unlink()
    web.ranges = False
    (cache / "partial" / whole.name).write_bytes((pool / "common.onnx").read_bytes()[:5000])
    assert located(web.url, "common.onnx") == whole


def test_an_empty_file_needs_no_request(web, pool, cache):
    manifest = json.loads((pool / "pool.json").read_text(encoding="utf-8"))
    manifest["files"]["empty"] = {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    (pool / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")
    assert located(web.url, "empty").read_bytes() == b""
    assert list(web.asked()) == ["pool.json"]


def test_an_answer_that_breaks_off_is_no_file(web, cache):
    opened = Pool.open(web.url)
    web.cut = 100
    fails(StoreError, opened.read, "task.onnx", match=r"stopped answering at 'task\.onnx'")
    assert not list((cache / "sha256").glob("*/*"))


def test_a_damaged_file_of_the_cache_is_fetched_anew(web, cache):
    opened = Pool.open(web.url)
    place = opened.place.file("task.onnx", opened.files)
    whole = place.read_bytes()
    for data in (whole[:-1], bytes(len(whole))):
        place.write_bytes(data)
        assert opened.place.file("task.onnx", opened.files).read_bytes() == whole
    assert web.asked()["task.onnx"] == 3


@pytest.mark.parametrize("blocked", ["", "locks", "partial", "sha256"])
def test_a_cache_that_cannot_be_written(web, cache, tmp_path, blocked):
    if blocked:
        cache.mkdir()
    (cache / blocked).write_text("in the way")
    error = fails(
        OutputError, assemble, web.url, TASKS, tmp_path / "a", match=f"the cache '{cache}' cannot be written: "
    )
    assert "KFDEPLOY_CACHE" in error.hint
    assert not (tmp_path / "a").exists()


def test_a_cache_that_is_only_read_is_enough(web, cache, tmp_path, monkeypatch):
    assemble(web.url, TASKS, tmp_path / "a")
    monkeypatch.setattr(Path, "mkdir", None)  # the tests may run as root, whom no permission stops
    pool = Pool.open(web.url)
    pool.fetch(pool.needs(pool.choose(TASKS)))


def test_without_locks_two_processes_do_not_share_a_begun_file(web, cache, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    seen = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (seen.append(self.name), replace(self, to))[1])
    place = located(web.url, "task.onnx")
    assert seen == [f"{place.name}.{os.getpid()}"]


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("KFDEPLOY_CACHE", "~/here")
    assert cache_folder() == Path.home() / "here"
    monkeypatch.delenv("KFDEPLOY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "kfdeploy"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    assert cache_folder() == Path.home() / ".cache" / "kfdeploy"

    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    fails(OutputError, cache_folder, match="there is no place for the cache: Could not determine home")


def test_a_pool_of_which_a_file_is_gone_says_so(web, pool):
    opened = Pool.open(web.url)
    (pool / "task.onnx").unlink()
    fails(PoolError, opened.graphs, match=r"task\.onnx' is missing")
    assert opened.has("common.onnx")
    assert not opened.has("task.onnx")
    assert not opened.has("nothing")
