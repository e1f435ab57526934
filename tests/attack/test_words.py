"""What is typed in the place of a file or a folder: devices, pipes, circles, `.`; told in a line, and never waited for."""

import os
import shutil
from pathlib import Path

import pytest
from commands import command, kfdeploy

from kfdeploy.deploy.model import Model
from kfdeploy.pool.pool import Pool

RECORD = Path(__file__).parents[1] / "records" / "0.1.0"
READ = ("verify {}", "predict image.png --model {}", "plan --pool {} --tasks pets", "assemble --pool {} --tasks pets --out o",
        "export {} --out o", "diff {} assembly", "diff assembly {}", "rollback {}", "apply {} assembly --unsigned",
        "apply update.kfu {} --unsigned", "sign update.kfu --key {} --out s.kfu", "sign {} --key my.key --out s.kfu", "report {} --out p.html",
        "report benchmark.json --inspect {} --out p.html", "plan --pool pool --tasks pets --student {}", "calibrate {}",
        "plan --pool pool --budget-ms 1 --costs {}", "pool show {}", "pool check {}", "pool remove {} --tasks pets", "recipes show {}",
        "pool merge {} pool --out o", "pool convert {} --half --out o", "pool push {} o", "recipes copy {} o.toml")  # fmt: skip
WRITTEN = ("assemble --tasks pets élan --out {}", "export assembly --out {}", "diff assembly assembly --out {}",
           "sign update.kfu --key my.key --out {}", "report benchmark.json --out {}", "pool convert pool --half --out {}",
           "pool remove pool --tasks pets --out {}", "report benchmark.json --out p.html --markdown {}", "pool push pool {}")  # fmt: skip
BAD = ("pipe", "zero", "circle", "dangling", "socket", "empty/x", "binary", "")


@pytest.fixture
def odd(here):
    for name in ("pool", "data", "assembly", "update.kfu", "benchmark.json"):
        source = RECORD / name
        shutil.copytree(source, here / name) if source.is_dir() else shutil.copyfile(source, here / name)
    shutil.copyfile(RECORD / "data" / "test" / "cat" / "000.png", here / "image.png")
    command("keygen my")
    (here / "binary").write_bytes(bytes(range(256)) * 10)
    (here / "empty").touch()
    if not hasattr(os, "mkfifo"):
        pytest.skip("there are no pipes")
    os.mkfifo(here / "pipe")
    for name, target in (("zero", "/dev/zero"), ("circle", "circle"), ("dangling", "nowhere")):
        (here / name).symlink_to(target)
    import socket

    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
        yield here


@pytest.mark.parametrize("line", [*READ, *WRITTEN])
def test_what_is_no_file_is_told_and_never_waited_for(line, odd, capsys, monkeypatch):
    for bad in BAD:
        if not bad and ("{} " not in f"{line} " or line in ("export assembly --out {}", "pool push pool {}")):
            continue  # that is here
        if bad == "binary" and line in WRITTEN and not line.startswith(("assemble", "export", "pool")):
            continue  # a file may be in the way of one with --force alone, and that has tests of its own
        words = [word.replace("{}", bad) for word in line.split()]
        code, _, err = kfdeploy(*words, capsys=capsys, monkeypatch=monkeypatch)
        if bad == "dangling" and line in WRITTEN and code == 0:
            (odd / "nowhere").unlink() if (odd / "nowhere").is_file() else shutil.rmtree(odd / "nowhere")
            continue  # a link is followed to where nothing is yet
        assert code in (1, 2), f"{words}: {err}"
        assert code == 2 or [each.partition(":")[0] for each in err.splitlines()] in (["error", "hint"], ["error"]), err


@pytest.mark.parametrize("dots", [".", "../{}", "{}/../{}", "sub/.."])
def test_here_is_a_place_like_any_other(dots, odd, monkeypatch, capsys):
    """Verbs that write to what lies in the working directory, whatever it is called."""
    for name, lines in (("pool", ("calibrate {} --images 8", "pool remove {} --tasks pets")),
                        ("assembly", ("apply ../update.kfu {} --unsigned", "rollback {}"))):  # fmt: skip
        monkeypatch.chdir(odd / name)
        place = dots.replace("{}/../{}", "../pool/../{}").replace("{}", name)
        if dots == "sub/..":
            place = "parts/.." if name == "assembly" else "tasks/.."
        for line in lines:
            if name == "pool":
                shutil.copytree(RECORD / "data", odd / "pool" / "data", dirs_exist_ok=True) if line[0] == "c" else None
            command(line.replace("{}", place))
        monkeypatch.chdir(odd)
    assert "pets" not in [task.name for task in Pool.open(odd / "pool").tasks]
    Model.open(odd / "assembly").check()
    assert not [path for path in odd.rglob(".*") if path.name.endswith(".lock")]


def test_a_key_needs_a_name_and_the_root_is_no_place(odd, capsys, monkeypatch):
    for words in (("keygen", ""), ("keygen", ".."), ("calibrate", "/"), ("apply", "update.kfu", "/")):
        code, _, err = kfdeploy(*words, capsys=capsys, monkeypatch=monkeypatch)
        assert code == 1, words
        assert err.startswith("error: ")
    assert not list(odd.glob(".*.key"))
