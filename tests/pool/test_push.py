"""Pushing a pool to a server: whole or absent, nothing sent twice, nothing replaced unasked."""

import shutil

import pytest
from servers import fails

from kfdeploy.errors import OutputError, PoolError, StoreError, UnsupportedError
from kfdeploy.pool.pool import Pool
from kfdeploy.pool.push import push
from kfdeploy.pool.remote.store import Store

pytestmark = pytest.mark.usefixtures("cache")


def test_a_second_push_sends_what_is_new_and_heals_what_was_damaged(pool, s3, tmp_path):
    url = "s3://bucket/pool"
    push(pool, url)
    assert push(pool, url).sent == 0
    files = s3.files()
    files.pipe_file("bucket/pool/task.onnx", bytes((pool / "task.onnx").stat().st_size))
    s3.log.clear()
    assert push(pool, url).sent == 2  # the file and the manifest
    changes = [(method, path) for method, path in s3.log if method != "GET"]
    assert changes == [  # never half of one and half of another
        ("DELETE", "/bucket/pool/pool.json"), ("PUT", "/bucket/pool/task.onnx"), ("PUT", "/bucket/pool/pool.json"),
    ]  # fmt: skip
    Pool.open(url).check()
    training = [name for name in Pool.open(pool).manifest["files"] if name.startswith("train/")]
    assert push(pool, url, train=True).sent == len(training) > 3


def test_another_pool_is_replaced_by_force_only(pool, toy, memory, assembly):
    parts = assembly.path / "parts"
    error = fails(OutputError, push, parts, "memory://pool", match="another pool is at 'memory://pool'")
    assert "--force" in error.hint
    done = push(parts, "memory://pool", force=True)
    assert done.removed > 4  # the other tasks' files, and what training left
    opened = Pool.open("memory://pool")
    assert [task.name for task in opened.tasks] == ["sea horse", "pets"]
    opened.check()
    assert not memory.exists("/pool/tasks/%C3%A9lan.safetensors")
    memory.pipe_file("/pool/pool.json", b"{}")
    assert push(toy.pool, "memory://pool", force=True).sent


def test_a_push_that_is_broken_off_leaves_no_pool_and_goes_on(toy, memory, monkeypatch):
    monkeypatch.setattr("kfdeploy.pool.push._AT_ONCE", 1)
    monkeypatch.setattr("kfdeploy.pool.remote.store._KEYED", ())  # as where folders have to be made
    send, sent = Store.write, []

    def broken(self, name, data):
        if len(sent) == 3:
            raise StoreError("gone", hint="x")
        sent.append(name)
        send(self, name, data)

    monkeypatch.setattr(Store, "write", broken)
    fails(StoreError, push, toy.pool, "memory://new/pool", match="gone")
    fails(PoolError, Pool.open, "memory://new/pool", match="there is no pool")
    monkeypatch.setattr(Store, "write", send)
    push(toy.pool, "memory://new/pool")
    Pool.open("memory://new/pool").check()
    memory.rm("/new", recursive=True)


def test_pushes_that_cannot_be(toy, pool, web, memory, tmp_path, monkeypatch):
    fails(UnsupportedError, push, toy.pool, web.url, match="cannot be written to: http only reads")
    (tmp_path / "file").write_text("")
    fails(OutputError, push, toy.pool, tmp_path / "file" / "pool", match="cannot be written: Not a directory")
    (pool / "task.onnx").write_bytes(b"")
    fails(PoolError, push, pool, tmp_path / "copy", match=r"task\.onnx' has 0 bytes")
    assert not (tmp_path / "copy" / "pool.json").exists()
    with monkeypatch.context() as full:
        full.setattr(type(memory), "pipe_file", absent)
        fails(
            StoreError,
            push,
            toy.pool,
            "memory://nowhere",
            match="there is no place for 'memory://nowhere/.*': no bucket",
        )
    write = Store.write
    with monkeypatch.context() as other:
        other.setattr(
            Store, "write", lambda store, name, data: write(store, name, data if "json" not in name else b"{}")
        )
        fails(
            StoreError,
            push,
            toy.pool,
            tmp_path / "two",
            match=r"calibration/.*' did not arrive: it is 2 bytes, and has",
        )
        other.setattr(
            Store, "write", lambda store, name, data: write(store, name, data if name != "pool.json" else b"{}")
        )
        fails(StoreError, push, toy.pool, tmp_path / "three", match="is not what was sent: is another push running")
    monkeypatch.setattr(Store, "write", lambda *_: None)
    fails(StoreError, push, toy.pool, tmp_path / "nowhere", match="did not arrive: it is absent, and has")


def absent(*_, **__):
    raise FileNotFoundError("no bucket")


def test_a_pool_pushed_to_a_folder_is_a_copy(toy, memory, tmp_path):
    push(toy.pool, tmp_path / "copy", train=True)
    Pool.open(tmp_path / "copy").check()
    shutil.rmtree(tmp_path / "copy" / "train")
    assert push(tmp_path / "copy", f"file://{tmp_path}/copy").sent == 0
    push("memory://pool", tmp_path / "back")  # from a server to anywhere else
    Pool.open(tmp_path / "back").check()
