"""Benchmarking over ssh, against a real sshd on loopback with keys, known hosts and configuration of its own.

Only a full disk is a stub: a `tar` that says what tar says then.
"""

import copy
import getpass
import json
import os
import shutil
import socket
import subprocess
import time
import venv
from contextlib import suppress
from pathlib import Path

import pytest
from sshd import Server

from kfdeploy.errors import DataError, MissingDependencyError, PoolError, UnsupportedError
from kfdeploy.measuring import ssh
from kfdeploy.measuring.machines import import_result
from kfdeploy.measuring.remote import benchmark_on
from kfdeploy.measuring.ssh import parse_address

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
# In the place of a kit's bench.py, where what it measures does not matter.
BENCH = """
import json, pathlib, sys
print("measuring \\033[31mred", flush=True)
words = sys.argv[1:]
result = json.loads(pathlib.Path("answer.json").read_text(encoding="utf-8"))
for row in result["rows"]:
    row["threads"] = int(words[words.index("--threads") + 1])
pathlib.Path(words[words.index("--json") + 1]).write_text(json.dumps(result), encoding="utf-8")
"""
SLEEP = "import time\nprint('asleep', flush=True)\ntime.sleep(60)\n"


@pytest.fixture
def serve(tmp_path):
    """Start servers; further lines of sshd_config may be given."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("there is no sshd here (apt-get install openssh-server)")
    if os.geteuid() == 0:  # what its service does for a server that runs as root
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    servers = []

    def start(*lines):
        root = tmp_path / f"server {len(servers)}"
        (root / "device").mkdir(parents=True)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / name], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (root / "sshd_config").write_text(
            f'Port {port}\nListenAddress 127.0.0.1\nHostKey "{root}/host"\nAuthorizedKeysFile "{root}/user.pub"\n'
            "PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            + "".join(f"{line}\n" for line in lines),
            encoding="utf-8",
        )
        (root / "known").write_text(f"[127.0.0.1]:{port} {(root / 'host.pub').read_text()}", encoding="utf-8")
        (root / "ssh_config").write_text(
            f'Host *\nIdentityFile "{root}/user"\nIdentitiesOnly yes\nIdentityAgent none\n'
            f'UserKnownHostsFile "{root}/known"\nGlobalKnownHostsFile /dev/null\n',
            encoding="utf-8",
        )
        with (root / "log").open("wb") as log:
            process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(root / "sshd_config")], stderr=log)
        servers.append(Server(root, port, process))
        for _ in range(100):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return servers[-1]
            if process.poll() is not None:
                break
            time.sleep(0.05)
        pytest.skip(f"sshd does not start here: {(root / 'log').read_text(encoding='utf-8')[-300:]}")

    yield start
    for server in servers:
        server.drop()
        server.process.kill()
        server.process.wait()


@pytest.fixture
def server(serve):
    return serve()


def answer(artifact):
    """What bench.py would write of an artifact."""
    row = {
        "kind": artifact.kind, "name": artifact.name, "tasks": [task.name for task in artifact.tasks],
        "target": artifact.target, "precision": artifact.precision, "threads": 1, "batch": 1,
        "scenario": "single-stream", "accuracy": None, "images": 0, "bytes": artifact.bytes, "parameters": 1,
        "sha256": artifact.sha256, "latency_ms": {"p50": 1.0, "p90": 1.0, "n": 1}, "throughput": 1000.0,
    }  # fmt: skip
    machine = {"cpu": "CPU", "cores": 1, "os": "Linux", "python": "3.11.2", "versions": {}}
    return {"schema": 1, "kind": "benchmark", "quick": True, "protocol": {"rounds": 3}, "machine": machine,
            "rows": [row], "comparisons": []}  # fmt: skip


@pytest.fixture
def stub(artifacts, tmp_path):
    """Return copies of an artifact with a kit whose bench.py is a stub."""

    def make(bench=BENCH, change=lambda result: None, name="stub"):
        folder = tmp_path / name
        shutil.copytree(artifacts[0].path, folder)
        (folder / "bench.py").write_text(bench, encoding="utf-8")
        (folder / "requirements.txt").write_text("numpy\n", encoding="utf-8")
        result = answer(artifacts[0])
        change(result)
        (folder / "answer.json").write_text(json.dumps(result), encoding="utf-8")
        return folder

    return make


def soon(condition):
    """Whether something becomes true within five seconds."""
    return any(condition() or time.sleep(0.05) for _ in range(100))


def left(server):
    """What is left on the device, once it had the time to tidy up."""
    soon(lambda: not list(server.folder.iterdir()))
    return list(server.folder.iterdir())


def test_numbers_come_back(server, artifacts, toy):
    notes = []
    assembly, student = artifacts[0], artifacts[2]
    before = sorted(assembly.path.iterdir())
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{server.port}{server.folder}"
    result = server.run(assembly, student.path, url=url, data=toy.data, host=True, report=notes.append)
    assert [row["sha256"] for row in result["rows"]] == [assembly.sha256, student.sha256]
    for row in result["rows"]:
        assert row["latency_ms"]["p50"] > 0
        assert row["accuracy"] is not None
    assert [row["images"] for row in result["rows"]] == [18, 30]
    assert result["device"] == f"ssh://127.0.0.1:{server.port}"
    assert result["when"].endswith("+00:00")
    assert (result["quick"], result["protocol"]["rounds"], result["comparisons"]) == (True, 3, [])
    assert getpass.getuser() not in json.dumps({**result, "rows": []})
    assert str(server.root) not in json.dumps(result)
    assert notes[0] == f"copying {assembly.path.name} to {result['device']}"
    assert any(note.startswith("single-stream") for note in notes)  # bench.py's own words
    assert left(server) == []
    assert sorted(assembly.path.iterdir()) == before  # the kit went into the copy
    merged = import_result(copy.deepcopy(result) | {"device": "ssh://other"}, result)
    assert list(merged["machines"]) == ["other", f"127.0.0.1:{server.port}"]


def test_threads_alternate_and_a_folder_is_kept_when_asked(server, stub):
    notes = []
    folders = [stub(name=name) for name in ("one", "two")]
    result = server.run(*folders, threads=[2, 1], keep=True, report=notes.append)
    assert [row["threads"] for row in result["rows"]] == [1, 1, 2, 2]
    measured = [note.split()[1] for note in notes if note.startswith("measuring") and "threads" in note]
    assert measured == ["one", "two", "two", "one"]
    assert "measuring  [31mred" in notes  # nothing that steers a terminal
    (kept,) = server.folder.iterdir()
    assert notes[-1] == f"kept {kept} on ssh://127.0.0.1:{server.port}"
    assert (kept / "1" / "model.onnx").is_file()


def test_what_login_scripts_say_does_no_harm(serve, stub):
    server = serve('ForceCommand echo "Welcome!"; echo "motd" >&2; eval "$SSH_ORIGINAL_COMMAND"')
    assert len(server.run(stub())["rows"]) == 1


def test_the_temporary_folder_is_the_default(serve, stub, tmp_path):
    place = tmp_path / "elsewhere"
    place.mkdir()
    server = serve(f"SetEnv TMPDIR={place}")
    notes = []
    server.run(stub(), url=f"ssh://127.0.0.1:{server.port}", keep=True, report=notes.append)
    assert [path.name in notes[-1] for path in place.iterdir()] == [True]


def test_addresses():
    found = parse_address("ssh://me@Pi.local:2222/~/my%20bench")
    assert (found.user, found.host, found.port, found.folder) == ("me", "Pi.local", "2222", "my bench")
    assert found.label == "ssh://Pi.local:2222"
    assert found.words == ["-p", "2222", "-l", "me", "--", "Pi.local"]
    assert found.typed == "ssh -p 2222 me@Pi.local"
    assert parse_address("ssh://[::1]:22").words == ["-p", "22", "--", "::1"]
    assert [parse_address(f"ssh://pi{end}").folder for end in ("", "/", "/~", "/opt/x")] == ["", "", ".", "/opt/x"]
    for url, said in (
        ("http://pi", "cannot be reached at http://"), ("me:secret@pi", "cannot be reached at 'pi'"),
        ("ssh://", "is no address"), ("ssh://-oProxyCommand=x", "is no address"), ("ssh://-l@pi", "is no address"),
        ("ssh://pi:port", "is no address"),
    ):  # fmt: skip
        with pytest.raises(UnsupportedError, match=said) as caught:
            parse_address(url)
        assert caught.value.allowed == ("ssh://[user@]host[:port][/folder]",)
    with pytest.raises(UnsupportedError, match="there is a password") as caught:
        parse_address("ssh://me:secret@pi")
    assert "secret" not in str(caught.value)


def test_what_is_wrong_here_is_said_before_anything_is_sent(stub, tmp_path, monkeypatch):
    def raises(kind, said, *artifacts, **more):
        with pytest.raises(kind, match=said) as caught:
            benchmark_on("ssh://127.0.0.1:1", artifacts, **more)
        return caught.value

    folder = stub()
    raises(PoolError, "no artifact was named")
    raises(PoolError, "there is no artifact", tmp_path / "none")
    raises(UnsupportedError, "there is no scenario 'server'", folder, scenarios=["server"])
    raises(DataError, "has no folder of images for any of: sea horse", folder, data=tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["options"]["batch"] = 7
    for sides in (manifest["inputs"]["image"], *manifest["outputs"].values()):
        sides[1] = 7
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    raises(UnsupportedError, "has the fixed batch 7, and single-stream and offline would need 1 and 32", folder)
    (folder / "model.onnx").write_bytes(b"")
    raises(PoolError, "has 0 bytes", folder)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "install OpenSSH" in raises(MissingDependencyError, "there is no ssh program here", folder).hint


def test_a_host_that_cannot_be_reached(server, stub, monkeypatch):
    folder = stub()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    error = server.fails(folder, url=f"ssh://127.0.0.1:{port}")
    assert str(error) == f"ssh://127.0.0.1:{port} refuses the connection"
    assert error.result is None
    error = server.fails(folder, url="ssh://kfdeploy.invalid")
    assert str(error) == "there is no host named 'kfdeploy.invalid'"
    monkeypatch.setattr(ssh, "CONNECT_SECONDS", 1)
    with socket.socket() as mute:  # it takes the connection and never says a word
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        error = server.fails(folder, url=f"ssh://127.0.0.1:{mute.getsockname()[1]}")
    assert "does not answer" in str(error)


def test_host_keys(server, stub):
    folder, known = stub(), server.root / "known"
    right = known.read_text(encoding="utf-8")
    known.write_text("", encoding="utf-8")
    error = server.fails(folder)
    assert "the host key of ssh://127.0.0.1" in str(error)
    assert "is not known here" in str(error)
    assert error.hint == f"log in once by hand and compare it: ssh -p {server.port} 127.0.0.1"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", server.root / "other"], check=True)
    wrong = (server.root / "other.pub").read_text(encoding="utf-8")
    known.write_text(f"{right.partition(' ')[0]} {wrong}", encoding="utf-8")
    error = server.fails(folder)
    assert "has another host key than the one on record" in str(error)
    assert f"ssh-keygen -R '[127.0.0.1]:{server.port}'" in error.hint


def test_a_key_that_is_not_let_in(server, stub):
    (server.root / "user.pub").write_text("", encoding="utf-8")
    error = server.fails(stub())
    assert "lets nobody in with the keys that ssh has here" in str(error)
    assert error.hint.startswith(f"ssh-copy-id -p {server.port} 127.0.0.1")


def test_a_python_that_is_missing_or_old(server, stub):
    folder = stub()
    error = server.fails(folder, python="python9")
    assert str(error) == f"there is no 'python9' on ssh://127.0.0.1:{server.port}"
    assert "install Python 3.9 or newer" in error.hint
    assert "is no Python that runs: it says" in str(server.fails(folder, python="/bin/echo"))
    old = server.root / "old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.6.9 && exit\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    assert "is Python 3.6.9, and the kits need 3.9 or newer" in str(server.fails(folder, python=str(old)))
    assert left(server) == []


def test_a_runtime_that_is_missing_or_broken(server, artifacts, stub):
    venv.create(server.root / "bare", with_pip=False)
    bare = f"{server.root}/bare/bin/python"
    error = server.fails(artifacts[0], python=bare)
    assert str(error) == f"{bare} on ssh://127.0.0.1:{server.port} has no numpy, pillow, onnxruntime"
    assert error.hint == f"type there: '{bare}' -m pip install numpy pillow 'onnxruntime>=1.15'"
    assert left(server) == []
    packages = next((server.root / "bare" / "lib").glob("python*")) / "site-packages"
    (packages / "numpy.py").write_text(
        "print('hello')\nraise ImportError('libblas.so:\\nno such file')", encoding="utf-8"
    )
    error = server.fails(stub(), python=bare)
    assert "numpy on ssh://" in str(error)
    assert "does not import: libblas.so: no such file" in str(error)
    assert error.hint.endswith("-m pip install --force-reinstall numpy")


def test_a_folder_that_is_not_there_or_not_ours(server, stub):
    error = server.fails(stub(), url=server.url + "/none")
    assert f"there is no folder '{server.folder}/none'" in str(error)
    assert f"mkdir -p '{server.folder}/none'" in error.hint
    error = server.fails(stub(name="again"), url=f"ssh://127.0.0.1:{server.port}/proc")
    assert "/proc on ssh://" in str(error)
    assert "cannot be written to" in str(error)


def test_a_full_disk(serve, stub, tmp_path):
    """The device's `tar` is a stub here: a disk of a few kilobytes cannot be had without privileges."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "tar").write_text("#!/bin/sh\necho 'tar: model.onnx: Cannot write: No space left on device' >&2\nexit 2\n")
    (tools / "tar").chmod(0o755)
    server = serve(f"SetEnv PATH={tools}:/usr/bin:/bin")
    error = server.fails(stub())
    assert str(error).startswith(f"the disk of ssh://127.0.0.1:{server.port} is full: copying ")
    assert "free some space there" in error.hint
    assert left(server) == []


@pytest.mark.parametrize("whole", [False, True], ids=["the connection", "the server"])
def test_a_connection_that_is_dropped_in_the_middle(server, stub, whole):
    notes = []

    def drop(note):
        notes.append(note)
        if note == "asleep":
            server.drop()
            if whole:
                server.process.kill()

    error = server.fails(stub(name="done"), stub(SLEEP, name="cut"), report=drop)
    assert "was lost while measuring" in str(error)
    assert "cut" in str(error)
    assert [row["threads"] for row in error.result["rows"]] == [1]  # what was finished is kept
    assert error.result["device"] == parse_address(f"ssh://127.0.0.1:{server.port}").alias  # --host was not said
    assert "127.0.0.1" not in json.dumps(error.result)
    assert left(server) == []  # the device tidies up by itself
    assert any("could not be removed from here" in note for note in notes) == whole


def test_what_takes_too_long_is_ended_there_too(server, stub):
    bench = SLEEP.replace(
        "import time", "import os, pathlib, time\npathlib.Path('../../pid').write_text(str(os.getpid()))"
    )
    error = server.fails(stub(bench), timeout=8)
    assert "took longer than 8 s and was ended" in str(error)
    pid = server.folder / "pid"
    assert soon(lambda: not Path(f"/proc/{pid.read_text()}").exists())
    pid.unlink()
    assert left(server) == []


def test_an_answer_that_is_not_what_bench_writes(server, stub):
    def said(change, bench=BENCH):
        said.count += 1
        return str(server.fails(stub(bench, change, name=f"stub{said.count}")))

    said.count = 0
    assert "is no benchmark: it has schema 2" in said(lambda r: r.update(schema=2))
    assert "is no benchmark: it describes a 'pool'" in said(lambda r: r.update(kind="pool"))
    assert "measured a file with sha256 feedfeedfeed…" in said(lambda r: r["rows"][0].update(sha256="feed" * 16))
    assert "in another setting: offline, threads 1" in said(lambda r: r["rows"][0].update(scenario="offline"))
    dump = "import pathlib\npathlib.Path('../result.json').write_text({!r})\n"
    assert "is not JSON: 'numbers'" in said(lambda r: None, dump.format("numbers"))
    assert "is not JSON: ''" in said(lambda r: None, "")
    assert "nothing of" in said(lambda r: r["rows"].clear())


def test_what_the_kit_itself_says(server, stub):
    error = server.fails(stub("import sys\nsys.exit('error: no provider\\nhint:  python build.py')"))
    assert str(error).endswith("failed: no provider")
    assert error.hint == "python build.py"
    error = server.fails(stub("import os\nos.kill(os.getpid(), 9)", name="killed"))
    assert "killed, perhaps because the memory was full" in str(error)
    assert left(server) == []
