"""A hostile server of pools: whatever it sends, it is told in a line, soon, in bounded memory, and nothing of it stays."""

import time
from pathlib import Path

import pytest
from commands import kfdeploy
from hostile import WAYS, Hostile
from servers import forget

RECORD = Path(__file__).parents[1] / "records" / "0.1.0"
MANIFEST_ONLY = {"outside"}


def peak():
    """Return the most memory of this process since it was last forgotten, in MB."""
    found = Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0]
    return int(found) / 1000


@pytest.fixture
def quick(monkeypatch, cache):
    monkeypatch.setattr("kfdeploy.pool.remote.store._PATIENCE", 0.5)
    monkeypatch.setattr("kfdeploy.pool.remote.store._SLOWEST", 1e6)
    monkeypatch.setattr("kfdeploy.pool.remote.store.READ_SECONDS", 0.5)
    return cache


@pytest.mark.parametrize("name", ["pool.json", "common.onnx"])
@pytest.mark.parametrize("way", WAYS)
def test_what_a_server_sends_is_refused_in_a_line(way, name, quick, here, capsys, monkeypatch):
    if way in MANIFEST_ONLY and name != "pool.json":
        return
    pytest.importorskip("aiohttp", reason="http needs aiohttp")
    server = Hostile(RECORD / "pool", name, way)
    try:
        forget()
        measured = Path("/proc/self/clear_refs").is_file()
        if measured:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            before = peak()
        began = time.monotonic()
        words = ("assemble", "--pool", server.url, "--tasks", "pets", "élan", "--out", "out")
        code, _, err = kfdeploy(*words, capsys=capsys, monkeypatch=monkeypatch)
        assert time.monotonic() - began < 20
        assert not measured or peak() - before < 200
    finally:
        server.stop()
    assert code == 1, err
    lines = err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"], err
    assert not list(here.iterdir())
    kept = [path for path in quick.rglob("*") if path.is_file()] if quick.exists() else []
    assert sum(path.stat().st_size for path in kept) < 1_000_000


def test_a_server_that_sends_another_file_each_time_is_believed_once_at_most(quick, here, capsys, monkeypatch):
    """What was asked about first, and fetched then, is held to the hash of the manifest, whatever was said of it."""
    pytest.importorskip("aiohttp", reason="http needs aiohttp")
    server = Hostile(RECORD / "pool", "*", "changed")
    try:
        code, _, err = kfdeploy("pool", "check", server.url, capsys=capsys, monkeypatch=monkeypatch)
    finally:
        server.stop()
    assert code, err
    assert "Traceback" not in err
