"""Where writing fails: a full disk, a place that is only read, another user's, no home, names that are too long.

Each is told in a line, what was there is whole, and nothing is left.
"""

import os
import shutil
from pathlib import Path

import pytest
from commands import command, kfdeploy
from meaning import entries
from settings import NOBODY, fill, nobody, only_read, small_disk

from kfdeploy.deploy.update.apply import apply
from kfdeploy.deploy.update.keys import sign
from kfdeploy.errors import KfdeployError, UpdateError

RECORD = Path(__file__).parents[1] / "records" / "0.1.0"
# Of each verb that writes: its line, in which @ stands for a space.
LINES = {
    "assemble": "assemble --tasks pets élan --out out",
    "assemble --force": "assemble --tasks pets élan --out assembly --force",
    "export": "export assembly --out made",
    "export --force": "export assembly --out artifacts --force --kit",
    "calibrate": "calibrate pool --images 8",
    "pool remove": "pool remove pool --tasks élan",
    "pool remove --out": "pool remove pool --tasks élan --out smaller",
    "pool merge": "pool merge one two --out merged",
    "pool convert": "pool convert pool --half --out half",
    "pool push": "pool push pool pushed",
    "diff": "diff assembly new/assembly --out x.kfu",
    "keygen": "keygen update",
    "sign": "sign step.kfu --key mine.key",
    "apply": "apply step.kfu assembly --unsigned",
    "rollback": "rollback applied",
    "report": "report benchmark.json --out page.html --markdown page.md",
}
NAMED = {name: line for name, line in LINES.items() if "--out" in line and "--force" not in line}
_FIRST = (
    "assemble --tasks sea@horse pets --out assembly", "assemble --tasks sea@horse élan --out new/assembly",
"diff assembly new/assembly --out step.kfu", "keygen mine",
    "export assembly --out artifacts", "apply step.kfu applied --unsigned", "export assembly --out warm --kit",
    "pool remove pool --tasks pets sea@horse --out one", "pool remove pool --tasks élan ünï/c --out two",
)  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """One of everything, where everybody may look."""
    place = tmp_path_factory.mktemp("original")
    for name in ("pool", "data", "benchmark.json"):
        source = RECORD / name
        shutil.copytree(source, place / name) if source.is_dir() else shutil.copyfile(source, place / name)
    before = Path.cwd()
    os.chdir(place)
    try:
        for line in _FIRST:
            if line.startswith("apply"):
                shutil.copytree(place / "assembly", place / "applied")
            command(line)
        command("calibrate two --images 8")  # what every run loads
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def told(capsys, monkeypatch):
    """Run a line that must fail, in a line."""

    def told(line, codes=(1,)):
        words = [word.replace("@", " ") for word in line.split()]
        code, _, err = kfdeploy(*words, capsys=capsys, monkeypatch=monkeypatch)
        assert code in codes, f"{line}: exit {code}: {err}"
        begins = [each.partition(":")[0] for each in err.splitlines()]
        assert begins in (["error", "hint"], ["error"]), f"{line}: {err}"
        return err

    return told


def content(place, but=("filler",)):
    """Every file and its bytes."""
    return {
        str(path): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file() and path.name not in but
    }


@pytest.mark.parametrize("name", LINES)
def test_a_full_disk_is_told_and_nothing_is_lost_or_left(name, original, told, capsys, monkeypatch):
    failed = 0
    with small_disk(24) as disk:
        place = disk / "place"
        shutil.copytree(original, place)
        os.chdir(place)
        before = content(place)
        for free in (0, 4096, 3 * 4096, 40_000, 80_000, 160_000):
            filler = fill(disk, free)
            words = [word.replace("@", " ") for word in LINES[name].split()]
            code, _, err = kfdeploy(*words, capsys=capsys, monkeypatch=monkeypatch)
            filler.unlink()
            if code == 0:
                break
            failed += 1
            assert [line.partition(":")[0] for line in err.splitlines()] in (["error", "hint"], ["error"]), err
            now = content(place)
            if name == "pool push":  # sends file by file, the manifest last
                now = {path: data for path, data in now.items() if "/pushed/" not in path}
            # A counter that was meant for an update is noted before it is given, and is never given again.
            now = {path: data for path, data in now.items() if not str(path).endswith(".key.last")}
            assert now == before, f"with {free:,} bytes: {sorted(now.keys() ^ before.keys())}"
        assert failed
        command(LINES[name]) if code else None


def test_a_place_that_is_only_read_is_told(original, told):
    with small_disk(24) as disk:
        shutil.copytree(original, disk / "place")
        os.chdir(disk / "place")
        before = content(disk)
        with only_read(disk):
            for line in LINES.values():
                told(line)
            command("verify assembly")
            command("plan --pool pool --tasks pets")
        assert content(disk) == before


def test_another_users_place_is_told(original, told, tmp_path_factory, monkeypatch):
    """Everything is root's, and may be read; the state folder, the keys, and the locks are root's alone."""
    with small_disk(24) as disk:
        place = disk / "place"
        shutil.copytree(original, place)
        for path in [place, *place.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.chdir(place)
        before = content(disk)
        with nobody():
            for line in LINES.values():
                told(line)
            command("verify assembly")
        assert content(disk) == before


def test_foreign_keys_locks_and_states_are_told(original, told):
    with small_disk(24) as disk:
        place = disk / "place"
        shutil.copytree(original, place)
        place.chmod(0o755)
        (place / "mine.key").chmod(0o600)
        (place / "state").mkdir(exist_ok=True)
        (place / "state").chmod(0o700)
        free = place / "free"
        free.mkdir()
        for name in ("step.kfu",):
            shutil.copy(place / name, free / name)
        shutil.copytree(place / "assembly", free / "assembly")
        (free / ".out.lock").touch(mode=0o600)  # root's, as a process that died might leave
        os.chown(free, NOBODY, NOBODY)
        for path in free.rglob("*"):
            if path.name != ".out.lock":
                os.chown(path, NOBODY, NOBODY)
        os.chdir(free)
        before = entries(free)
        with nobody():
            with pytest.raises(UpdateError, match=r"mine\.key"):  # the command line asks Typer, which says so
                sign("step.kfu", "../mine.key", out="signed.kfu")
            with pytest.raises(KfdeployError, match="state"):
                apply("step.kfu", "assembly", state="../state")
            assert ".out.lock" in told("assemble --pool ../pool --tasks pets élan --out out")
        assert entries(free) == before


def test_no_home_is_told_or_not_asked_for(original, told, tmp_path, monkeypatch):
    shutil.copytree(original, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    for name in ("HOME", "USERPROFILE", "XDG_STATE_HOME", "XDG_CACHE_HOME", "KFDEPLOY_STATE", "KFDEPLOY_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _: (_ for _ in ()).throw(KeyError("nobody")))
    for name, line in LINES.items():
        if name not in ("apply", "rollback", "pool remove"):
            command(line)
    assert "state" in told("apply step.kfu applied")
    told("assemble --pool memory://pool --tasks pets --out other")


@pytest.mark.parametrize("name", NAMED)
def test_names_that_are_too_long_are_told(name, original, told, tmp_path, monkeypatch):
    shutil.copytree(original, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    before = entries(tmp_path)
    words = NAMED[name].split()
    at = words.index("--out") + 1
    for bad in ("x" * 300, "é" * 200, "x/" * 3000 + "x", f"a/{'y' * 300}", "x" * 5000):
        told(" ".join([*words[:at], bad, *words[at + 1 :]]))
    assert entries(tmp_path) == before
