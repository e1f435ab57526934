"""Pools on servers: what travels, and what is said when it does not."""

import contextlib
import json
import subprocess
import sys

import numpy as np
import pytest
from servers import fails, forget

from kfdeploy.cli import main
from kfdeploy.deploy.assemble import assemble
from kfdeploy.errors import (
    KfdeployError,
    MissingDependencyError,
    OutputError,
    PoolError,
    StoreError,
    UnsupportedError,
)
from kfdeploy.files import load_tensors, sha256
from kfdeploy.pool.pool import Pool
from kfdeploy.pool.push import push
from kfdeploy.pool.remote.locate import local_folder, locate

pytestmark = pytest.mark.usefixtures("cache")
TASKS = ["sea horse", "pets"]
OTHERS = ("%C3%A9lan", "%C3%BCn%C3%AF%2Fc", "train/")


def same(a, b):
    """Return whether two assemblies are the same files, byte for byte."""
    names = [sorted(p.relative_to(m.path).as_posix() for p in m.path.rglob("*") if p.is_file()) for m in (a, b)]
    return names[0] == names[1] and all((a.path / n).read_bytes() == (b.path / n).read_bytes() for n in names[0])


def blobs(cache):
    """Return the cache's files, each checked to be whole, and that nothing lies beside them."""
    found = [path for path in (cache / "sha256").rglob("*") if path.is_file()] if cache.exists() else []
    assert all(sha256(path) == path.name for path in found)
    return found


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command line in this process, and return what it said."""

    def run(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["kfdeploy", *words])
        seen = 0
        try:
            main()
        except SystemExit as leave:
            seen = leave.code or 0
        out = capsys.readouterr()
        assert seen == code, out.err
        return out.err if code else out.out

    return run


# What travels


def test_a_pool_on_s3_assembles_as_one_in_a_folder(toy, s3, tmp_path, cache):
    pushed = push(toy.pool, "s3://bucket/some/pool")
    names = [name for name in Pool.open(toy.pool).manifest["files"] if not name.startswith("train/")]
    assert (pushed.sent, pushed.there) == (len(names) + 1, 0)
    there = [path.removeprefix("bucket/some/pool/") for path in s3.files().find("bucket/some/pool")]
    assert sorted(there) == sorted([*names, "pool.json"])

    s3.log.clear()
    local = assemble(toy.pool, TASKS, tmp_path / "local" / "a")
    remote = assemble("s3://bucket/some/pool", TASKS, tmp_path / "remote" / "a")
    assert same(local, remote)
    asked = [path for _, path in s3.log]
    assert (
        len(asked) == len(set(asked)) == 11
    )  # pool.json, two graphs, the shared evidence and ranges, and three files a task
    assert not [path for path in asked if any(name in path for name in OTHERS)]
    assert len(blobs(cache)) == 10

    s3.log.clear()
    again = assemble("s3://bucket/some/pool", TASKS, tmp_path / "again" / "a")
    assert same(local, again)
    assert s3.log == [("GET", "/bucket/some/pool/pool.json")]


def test_a_pool_over_http_with_names_that_need_quoting_and_a_query(toy, web, tmp_path):
    pool = Pool.open(f"{web.url}/?key=secret")
    model = assemble(pool, ["ünï/c", "élan"], tmp_path / "a")
    assert [task.name for task in model.tasks] == ["ünï/c", "élan"]
    assert "tasks/%C3%BCn%C3%AF%2Fc.safetensors" in web.asked()
    assert (pool.where, pool.sha256) == (web.url, sha256(toy.pool / "pool.json"))
    pool.check()
    assert not [name for name in web.asked() if name.startswith("train/")]
    assert pool.evidence().logits.shape == Pool.open(toy.pool).evidence().logits.shape


def test_any_other_protocol_and_a_folder_as_a_url(toy, memory, tmp_path):
    assert len(assemble("memory://pool", TASKS, tmp_path / "a").tasks) == 2
    opened = Pool.open(f"file://{toy.pool}")
    assert opened.path == toy.pool  # this machine's: nothing is copied
    (tmp_path / "with space").mkdir()
    assert locate((tmp_path / "with space").as_uri()) == tmp_path / "with space"


def test_the_command_line_takes_a_url_wherever_it_takes_a_pool(web, here, run):
    assert "fetched:    0." in run("assemble", "--pool", web.url, "--tasks", "pets", "élan")
    assert "the others were in the cache" in run("assemble", "--pool", web.url, "--tasks", "pets", "élan", "--force")
    out = run("plan", "--pool", web.url, "--size", "2")
    assert f"kfdeploy assemble --pool {web.url} --tasks" in out
    assert "differs by" in run("verify", web.url)
    assert "checked: 'copy' has every file, whole" in run("pool", "push", str(web.root), "copy")
    assert "(from copy)" in run("assemble", "--pool", "copy/", "--tasks", "pets", "--force")
    assert not list(here.glob("http*"))  # what a path would have made of it


def test_a_folder_and_the_help_load_no_fsspec(toy, tmp_path):
    code = (
        "import sys\nfrom kfdeploy.cli import app\n"
        "for words in (['--help'], ['pool', 'push', '--help'], ['plan', '--pool', sys.argv[1], '--tasks', 'pets']):\n"
        "    app(words, standalone_mode=False)\n"
        "assert not {'fsspec', 's3fs', 'aiohttp', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(toy.pool)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# What is said when it does not


def test_s3_without_the_bucket_the_pool_or_the_permission(toy, s3):
    fails(StoreError, Pool.open, "s3://nowhere/pool", match=r"^there is no bucket 'nowhere' \('s3://nowhere/pool'\)$")
    fails(StoreError, push, toy.pool, "s3://nowhere/pool", match="there is no bucket 'nowhere'")
    error = fails(
        PoolError, Pool.open, "s3://bucket/nix/", match=r"no pool at 's3://bucket/nix' \('pool.json' is missing\)"
    )
    assert error.hint == "kfdeploy pool push <pool> s3://bucket/nix"
    push(toy.pool, "s3://bucket/pool")
    s3.forbid("bucket", "s3:GetObject")
    error = fails(
        StoreError, Pool.open, "s3://bucket/pool", match="reading 's3://bucket/pool/pool.json' is not permitted"
    )
    assert "AWS_ACCESS_KEY_ID" in error.hint
    s3.forbid("bucket", "s3:PutObject")
    fails(StoreError, push, toy.pool, "s3://bucket/two", match="writing 's3://bucket/two/.*' is not permitted")


def test_s3_without_a_network_or_credentials(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget()
    error = fails(
        StoreError, Pool.open, "s3://bucket/pool", match="'s3://bucket/pool' cannot be reached: .*127.0.0.1:9"
    )
    assert error.hint.startswith("check the network and the address, and AWS_ENDPOINT_URL")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget()
    fails(StoreError, Pool.open, "s3://bucket/pool", match="is not permitted: Unable to locate credentials")


@pytest.mark.parametrize(
    ("status", "message"),
    [(403, "not permitted: 403"), (401, "not permitted: 401"), (503, "failed: 503"), (404, "there is no pool at")],
)
def test_http_says_no(web, status, message):
    web.status = status
    error = fails(KfdeployError, Pool.open, f"{web.url}/pool?key=secret", match=message)
    assert "secret" not in f"{error}{error.hint}"
    assert len(web.log) == (3 if status == 503 else 1)  # a busy server is asked again


def test_http_that_is_not_there_or_does_not_answer(web, monkeypatch):
    fails(StoreError, Pool.open, "http://127.0.0.1:9/pool", match="cannot be reached: Cannot connect to host 127.0.0.1")
    monkeypatch.setattr("kfdeploy.pool.remote.store.READ_SECONDS", 0.1)
    web.seconds = 0.5
    fails(StoreError, Pool.open, web.url, match="cannot be reached: .*[Tt]imeout")
    assert len(web.log) == 1  # that was patience enough


def test_a_server_that_sends_something_else(web, pool):
    (pool / "pool.json").write_text("<html>welcome</html>")
    fails(PoolError, Pool.open, web.url, match=r"pool\.json' cannot be read: Expecting value")
    (pool / "pool.json").write_text('{"schema": 9}')
    fails(PoolError, Pool.open, web.url, match="has schema 9")


def test_files_that_are_not_what_the_manifest_says(web, pool, tmp_path, cache):
    whole = (pool / "task.onnx").read_bytes()
    for data, message in (
        (whole[:-1], rf"task\.onnx' has {len(whole) - 1} bytes on the server, its manifest says {len(whole)}"),
        (whole[:-1] + bytes([whole[-1] ^ 1]), r"task\.onnx' was altered on the server: its sha256 is [0-9a-f]{12}…"),
        (b"", r"task\.onnx' was altered on the server: it is too short"),
    ):
        (pool / "task.onnx").write_bytes(data)
        fails(PoolError, assemble, web.url, TASKS, tmp_path / "a", match=message)
    (pool / "task.onnx").unlink()
    fails(PoolError, assemble, web.url, TASKS, tmp_path / "a", match=r"task\.onnx' is missing")
    assert sha256(pool / "common.onnx") in {path.name for path in blobs(cache)}
    assert not (tmp_path / "a").exists()
    (pool / "task.onnx").write_bytes(whole)
    assemble(web.url, TASKS, tmp_path / "a")


def test_a_manifest_cannot_name_a_file_of_this_machine(web, pool, cache):
    manifest = json.loads((pool / "pool.json").read_text())
    for about in ({"bytes": 4, "sha256": "../../../secret"}, {"bytes": -1, "sha256": "0" * 64}):
        manifest["files"]["task.onnx"] = about
        (pool / "pool.json").write_text(json.dumps(manifest))
        fails(
            PoolError, Pool.open, web.url, match=r"'files' does not (say how many bytes|have the hash of) 'task\.onnx'"
        )
    del manifest["files"]["task.onnx"]
    (pool / "pool.json").write_text(json.dumps(manifest))
    fails(PoolError, Pool.open(web.url).read, "task.onnx", match=r"'task\.onnx' is not among the files of 'http:")
    fails(PoolError, Pool.open(web.url).read, "other", match="'other' is not among the files")
    manifest["files"]["task.onnx"] = {"sha256": "0" * 64}
    (pool / "pool.json").write_text(json.dumps(manifest))
    fails(PoolError, Pool.open, web.url, match=r"of the file 'task\.onnx' it has no bytes and sha256")
    assert not blobs(cache)


def test_urls_that_are_none():
    error = fails(UnsupportedError, Pool.open, "s4://bucket/pool", match="has the protocol 's4', which is not known")
    assert error.allowed[:3] == ("s3", "gs", "hf")
    assert "did you mean 'https'?" in fails(UnsupportedError, Pool.open, "htps://host/pool", match="'htps'").hint
    fails(UnsupportedError, Pool.open, "s3://", match="'s3://' names no bucket and no folder")
    fails(UnsupportedError, Pool.open, "file://pool", match="names the host 'pool'")
    fails(UnsupportedError, Pool.open, "s3:/bucket/pool", match="'s3:/bucket/pool' is neither a folder nor a URL")


def raises(error):
    def call(*_, **__):
        raise error

    return call


def test_packages_that_are_missing(monkeypatch):

    def missing(package, url):
        with monkeypatch.context() as without:
            without.setitem(sys.modules, package, None)
            without.delitem(sys.modules, "fsspec.implementations.http", raising=False)
            without.delitem(sys.modules["fsspec.registry"]._registry, url.partition(":")[0], raising=False)
            return fails(MissingDependencyError, Pool.open, url, match=f"'{url}' needs {package}, which is not").hint

    assert missing("gcsfs", "gs://bucket/pool") == "pip install gcsfs"
    assert missing("huggingface_hub", "hf://user/pool") == "pip install huggingface_hub"
    assert missing("s3fs", "s3://bucket/pool") == 'pip install "kfdeploy[remote]"'
    assert missing("aiohttp", "https://host/pool") == 'pip install "kfdeploy[remote]"'
    monkeypatch.setitem(sys.modules, "smbprotocol", None)
    assert "smbprotocol" in fails(MissingDependencyError, Pool.open, "smb://host/p", match="needs another package").hint
    with monkeypatch.context() as broken:
        for error, kind, message in (
            (ImportError("one more"), MissingDependencyError, "'memory://p' needs another package"),
            (ValueError("a bad setting"), StoreError, r"'memory://p' cannot be opened: a bad setting"),
        ):
            broken.setattr("fsspec.core.url_to_fs", raises(error))
            fails(kind, Pool.open, "memory://p", match=message)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert fails(MissingDependencyError, Pool.open, "s3://b/p", match="needs fsspec").hint.startswith("pip install")


def test_a_teacher_is_taken_from_a_pool_on_a_server(toy, web):
    from kfdeploy.training.distill import _known_teacher, _same_teacher
    from kfdeploy.training.experiment import Experiment

    experiment = Experiment(toy.recipe)
    known = _known_teacher(_same_teacher(web.url, toy.recipe, experiment), toy.recipe)
    own = load_tensors(toy.pool / "train" / "teacher" / "state.safetensors")
    assert known.keys() == own.keys()
    assert all(np.array_equal(known[name], own[name]) for name in own)
    web.root.joinpath("train/teacher/state.safetensors").unlink()
    assert (
        _known_teacher(_same_teacher(web.url, toy.recipe, experiment), toy.recipe) is None
    )  # it was pushed without --train


def test_what_writes_to_a_pool_refuses_a_url(toy, memory, tmp_path, here, run):
    fails(
        UnsupportedError, local_folder, "s3://b/p?key=1", "adding", match="'s3://b/p' is on a server, and adding writes"
    )
    assert "is on a server, and calibrating writes to its pool" in run("calibrate", "s3://bucket/pool", code=2)
    assert "is a URL, and outputs are folders" in run("factorize", "digits", "--out", "s3://b/pool", code=1)
    fails(UnsupportedError, lambda: Pool.open("memory://pool").path, match="is on a server, and this needs its folder")
    assert not list(here.iterdir())


def test_a_manifest_without_an_end_is_given_up(cache):
    """A server may send for ever, fast or slowly, whatever it was asked for."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b" " * (1 << 20))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/pool"
        fails(PoolError, Pool.open, url, match="has more than the 24,000,000 bytes that are read of it")
    finally:
        server.shutdown()
        server.server_close()


def test_a_file_of_terabytes_does_not_fill_the_cache(web, pool, cache):
    manifest = json.loads((pool / "pool.json").read_text())
    for size, why in ((35 << 40, "at most 2,147,483,647 are fetched"), (2**31 - 1, None)):
        manifest["files"]["task.onnx"]["bytes"] = size
        (pool / "pool.json").write_text(json.dumps(manifest))
        with pytest.raises((PoolError, OutputError), match=why):
            Pool.open(web.url).read("task.onnx")
    assert not blobs(cache)
