"""What leaves the machine: unmistakable names are planted, every verb runs, and every byte and line is looked through.

A data folder under a user's home, a user, a host, a password and a token in URLs: none of them may stand in anything
that is written (in members of archives and of updates too) or printed. What is typed on the command line is relative,
but for URLs.
"""

import getpass
import io
import json
import os
import platform
import shutil
import socket
import sys
import zipfile
import zlib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load
from servers import Web, forget
from toys import TOY, write_images

from kfdeploy.cli import main

PLANTED = {
    "path": b"zqprivate", "user": b"zqada", "host": b"zqhost", "password": b"zqsecret", "token": b"zqtoken",
}  # fmt: skip
URL = "{protocol}://zqada:zqsecret%2Fzqsecret@{rest}?token=zqtoken&X-Amz-Signature=zqtoken"
LINES = (
    "doctor",
    "factorize recipe.toml",
    "distill recipe.toml",
    "calibrate pool --images 8",
    "pool show pool",
    "pool check pool",
    "plan --all --out subsets.csv",
    "plan --all --out subsets.json",
    "plan --tasks pets élan",
    "assemble --tasks pets élan --out old",
    "assemble --tasks pets élan sea@horse",
    "export assembly students/small --target onnx openvino mnn --kit --force",
    "export assembly --target trt",
    "export assembly --precision int8",
    "verify assembly pool students/small artifacts/assembly-onnx-int8 artifacts/assembly-openvino-fp32",
    "inspect --json inspection.json",
    "benchmark artifacts/assembly-onnx-fp32 artifacts/small-onnx-fp32 --quick --scenario single-stream --json benchmark.json",
    "report benchmark.json --inspect inspection.json --markdown report.md --png report.png",
    "predict images",
    "predict images --json",
    "diff old assembly --out new.kfu",
    "keygen key",
    "sign new.kfu --key key.key --counter 1",
    "copy key.pub state/keys/key.pub",
    "apply new.kfu old --unsigned",
    "rollback old",
    "pool remove pool --tasks élan --out smaller",
    "pool convert --half pool --out half",
    "pool push pool pushed",
    "pool push pool memory://zq-free/pool",
)  # fmt: skip
REMOTE = (
    "pool show URL", "plan --pool URL --tasks pets élan", "assemble --pool URL --tasks pets élan --out far", "verify URL",
    "inspect URL", "calibrate URL", "pool push pool URL",
    "distill recipe.toml --pool URL --out far-students", "export URL", "predict images --model URL", "apply URL",
    "pool check URL", "diff URL pool", "factorize recipe.toml --out URL", "assemble --tasks pets élan --out URL",
    "pool show pool URL", "benchmark URL", "report URL", "factorize --set data.root=URL", "URL", "pool URL", "recipes copy digits x URL", "predict --nothing=URL",
)  # fmt: skip


class Found(dict):
    """What was found: `{kind: [where, …]}`."""

    def look(self, data, where):
        for kind, text in PLANTED.items():
            if text in data:
                at = data.index(text)
                self.setdefault(kind, []).append(f"{where}: {data[max(0, at - 60) : at + 60]!r}")


def pieces(path):
    """Give the bytes of a file, its name, and what is packed in it."""
    data = path.read_bytes()
    yield os.fsencode(path.name)
    yield data
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    elif path.suffix == ".kfu":
        for array in load(data).values():
            packed = array.tobytes()
            yield zlib.decompress(packed) if packed[:1] == b"\x78" else packed


def say(line):
    """Run a line of the command line; return its exit status and what it printed."""
    if line.startswith("copy "):
        source, target = map(Path, line.split()[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return 0, ""
    out, argv = io.StringIO(), sys.argv
    sys.argv = ["kfdeploy", *(word.replace("@", " ") if "://" not in word else word for word in line.split())]
    try:
        with redirect_stdout(out), redirect_stderr(out):
            main()
        code = 0
    except SystemExit as leave:
        code = leave.code or 0
    finally:
        sys.argv = argv
    return code, out.getvalue()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder to work in, and elsewhere a user's home with images."""
    base = tmp_path_factory.mktemp("leaks")
    home, work = base / "home" / "zqada" / "zqprivate", base / "work"
    write_images(home / "data", "train", 8)
    write_images(home / "data", "test", 3)
    work.mkdir()
    shutil.copytree(home / "data" / "test" / "cat", work / "images")
    text = TOY.replace("ROOT", str(home / "data")).replace("epochs = 4", "epochs = 1")
    (work / "recipe.toml").write_text(text, encoding="utf-8")
    patch = pytest.MonkeyPatch()
    patch.chdir(work)
    for name, value in {
        "HOME": str(home), "USER": "zqada", "LOGNAME": "zqada", "HOSTNAME": "zqhost", "NO_COLOR": "1", "COLUMNS": "200",
        "KFDEPLOY_STATE": str(home / "state"), "KFDEPLOY_CACHE": str(home / "cache"), "NO_PROXY": "127.0.0.1",
    }.items():  # fmt: skip
        patch.setenv(name, value)
    patch.setattr(socket, "gethostname", lambda: "zqhost")
    patch.setattr(platform, "node", lambda: "zqhost")
    patch.setattr(getpass, "getuser", lambda: "zqada")
    patch.setattr("kfdeploy.pool.remote.store.WAITS", (0.01, 0.01))
    yield work
    patch.undo()


@pytest.fixture(scope="module")
def said(world):
    """What each line prints, having succeeded."""
    found = {}
    for line in LINES:
        code, found[line] = say(line)
        assert not code, (line, found[line])
    return found


def test_no_line_names_the_machine_its_user_or_his_folders(said):
    found = Found()
    for line, text in said.items():
        found.look(text.encode(), line)
    assert not found, json.dumps(found, indent=1)


def test_no_file_names_the_machine_its_user_or_his_folders(world, said):
    found, files = Found(), [path for path in world.rglob("*") if path.is_file() and path.name != "recipe.toml"]
    for path in files:
        for piece in pieces(path):
            found.look(piece, path.relative_to(world))
            assert str(world).encode() not in piece, path.relative_to(world)
    assert not found, json.dumps(found, indent=1)
    assert len(files) > 150


def test_data_are_found_again_all_the_same_and_only_here(world, said, monkeypatch):
    """The benchmark above had no --data. A machine that does not remember asks for it."""
    assert "root" in (world / "pool" / "pool.json").read_text(encoding="utf-8")
    rows = json.loads((world / "benchmark.json").read_text(encoding="utf-8"))["rows"]
    assert all(row["images"] for row in rows)
    monkeypatch.setenv("KFDEPLOY_STATE", str(world.parent / "elsewhere"))
    code, text = say("benchmark artifacts/assembly-onnx-fp32 --quick")
    assert code
    assert "--data" in text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("there", ["http", "nobody", "s3", "strange"])
def test_no_verb_repeats_what_is_secret_in_a_url(there, world, said):
    pytest.importorskip("aiohttp", reason="http needs aiohttp")
    if there == "s3":
        pytest.importorskip("s3fs", reason="S3 needs s3fs")
    forget()
    server = Web(world / "pool") if there == "http" else None
    with socket.socket() as nobody:  # bound, and nobody listens
        nobody.bind(("127.0.0.1", 0))
        host = server.url.partition("://")[2] if server else f"127.0.0.1:{nobody.getsockname()[1]}"
        protocol = {"s3": "s3", "strange": "zz"}.get(there, "http")
        url = URL.format(protocol=protocol, rest="Bucket_/pool" if there == "s3" else host)
        found, ends = Found(), []
        for line in REMOTE:
            code, text = say(line.replace("URL", url))
            assert "Traceback" not in text
            ends.append(code)
            for kind in ("password", "token"):
                if PLANTED[kind] in text.encode():
                    found.look(text.encode(), line)
    if server:
        server.stop()
        assert not all(ends)
    for path in (path for path in world.rglob("*") if path.is_file() and path.name != "recipe.toml"):
        for piece in pieces(path):
            found.look(piece, path.relative_to(world))
    assert not found, json.dumps(found, indent=1)


NAMES = ("=cmd|' 'C'!A0", "\x1b]0;owned\x07", "a\u202eb", "\x9b31m", "@SUM(1)")


def test_no_name_steers_a_terminal_a_page_or_a_table(world, said):
    """Names in files of other people's: of a benchmark, and of classes that a folder brings."""
    result = json.loads((world / "benchmark.json").read_text(encoding="utf-8"))
    for row, name in zip(result["rows"], NAMES, strict=False):
        row["name"] = name
    result["machine"]["cpu"] = NAMES[1] + NAMES[2] + NAMES[3]
    (world / "theirs.json").write_text(json.dumps(result), encoding="utf-8")
    code, text = say("report theirs.json --out theirs.html --markdown theirs.md")
    assert not code, text
    for shown in (text, *((world / f"theirs.{kind}").read_text(encoding="utf-8") for kind in ("html", "md"))):
        odd = {letter for letter in shown if not letter.isprintable()} - {"\n"}
        assert not odd, odd
    assert "\n=cmd" not in text
    (world / "odd").mkdir()
    shutil.copyfile(world / "images" / "000.png", world / "odd" / f"{NAMES[1]}{NAMES[2]}.png")
    for line in ("predict odd", "predict odd --json"):
        code, text = say(line)
        assert not code, text
        assert not {letter for letter in text if not letter.isprintable()} - {"\n"}
    assert json.loads(text)["image"].endswith(f"{NAMES[1]}{NAMES[2]}.png")
    cells = (world / "theirs.html").read_text(encoding="utf-8").partition('id="csv"')[2]
    assert ",=cmd" not in cells
    assert ",@SUM" not in cells


def test_what_an_archive_holds_is_looked_through(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", about=np.frombuffer(b"zqada" * 50, np.uint8))
    found = Found()
    for piece in pieces(tmp_path / "x.npz"):
        found.look(piece, Path("x.npz"))
    assert set(found) == {"user"}
