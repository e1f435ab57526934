import re
import shutil
from pathlib import Path

import pytest
from commands import kfdeploy


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("KFDEPLOY_STATE", str(tmp_path / "state"))

    return lambda *words: kfdeploy(*words, capsys=capsys, monkeypatch=monkeypatch)


def test_an_update_from_the_difference_to_the_way_back(run, toy, here, tmp_path):
    for out, tasks in (("assembly", ["pets"]), ("new/assembly", ["pets", "élan"])):
        assert run("assemble", "--tasks", *tasks, "--pool", toy.pool, "--out", out)[0] == 0
    code, out, err = run("diff", "assembly", "new/assembly")
    assert (code, err) == (0, "")
    assert "added:  élan" in out
    assert re.search(r"to ship:  [\d,]+ bytes\nnext:  kfdeploy diff assembly new/assembly --out update.kfu\n$", out)
    code, out, err = run("diff", "assembly", "new/assembly", "--out", "update.kfu")
    assert "next:  kfdeploy sign update.kfu --key update.key" in out
    code, out, err = run("keygen")
    assert code == 0, err
    assert "next:  copy update.pub to STATE/keys" in out
    (tmp_path / "state" / "keys").mkdir(parents=True)
    shutil.copy("update.pub", tmp_path / "state" / "keys")
    code, out, err = run("apply", "update.kfu")
    assert (code, out) == (1, "")
    assert re.fullmatch(r"error: 'update.kfu' is not signed, .*\nhint:  kfdeploy sign update.kfu --key …\n", err)
    code, out, err = run("sign", "update.kfu", "--key", "update.key", "--counter", "3")
    assert code == 0, err
    assert "counter 3\n" in out
    code, out, err = run("apply", "update.kfu")
    assert code == 0, err
    assert "signature:  by update.pub, counter 3" in out
    assert "tasks:      pets, élan  (before: pets)" in out
    assert "next:  kfdeploy rollback assembly" in out
    code, out, err = run("apply", "update.kfu")
    assert "is this already" in out
    code, out, err = run("rollback")
    assert code == 0, err
    assert out.startswith("tasks:  pets\n")
    code, out, err = run("rollback")
    assert code == 1
    assert "has nothing to go back to" in err
    code, out, err = run("apply", "update.kfu", "--state", "elsewhere")
    assert (code, out) == (1, "")
    assert re.fullmatch(
        r"error: this device has no key: 'elsewhere/keys' is not there, .*\nhint:  .*--unsigned.*\n", err
    )
    assert run("apply", "update.kfu", "--state", "elsewhere", "--unsigned")[0] == 2
    assert run("apply", "update.kfu", "--unsigned")[0] == 1  # $KFDEPLOY_STATE has a key
    shutil.rmtree(tmp_path / "state")
    code, out, err = run("apply", "update.kfu")
    assert (code, out) == (1, "")
    assert "error: this device has no key" in err
    code, out, err = run("apply", "update.kfu", "--unsigned")
    assert code == 0, err
    assert "signature:  not asked for, as --unsigned says: anything that is whole is taken" in out
    code, out, err = run("diff", "assembly", "new/assembly")
    assert out == "nothing changed\nto ship:  0 bytes, as nothing changed\n"
    assert not Path("elsewhere").exists()


def test_a_key_with_a_passphrase_and_a_day_and_another_in_its_place(run, toy, here, tmp_path, monkeypatch):
    monkeypatch.setenv("WORD", "secret")
    for out, tasks in (("assembly", ["pets"]), ("new/assembly", ["pets", "élan"])):
        assert run("assemble", "--tasks", *tasks, "--pool", toy.pool, "--out", out)[0] == 0
    assert run("diff", "assembly", "new/assembly", "--out", "update.kfu")[0] == 0
    code, out, err = run("keygen", "locked", "--passphrase", "env:WORD", "--expires", "2099-12-31")
    assert code == 0, err
    assert "which signs updates, until 2099-12-31" in out
    assert Path("locked.pub").read_text().startswith("Expires: 2099-12-31T00:00:00Z\n-----BEGIN PUBLIC KEY-----\n")
    Path("locked.pub").unlink()
    code, out, err = run("keygen", "locked", "--passphrase", "env:WORD")
    assert "locked.key was there, without its public half\nwrote locked.pub (" in out
    (tmp_path / "state" / "keys").mkdir(parents=True)
    shutil.copy("locked.pub", tmp_path / "state" / "keys")
    assert run("keygen", "next")[0] == 0
    code, out, err = run("rotate", "next.pub", "--key", "locked.key", "--passphrase", "env:WORD")
    assert code == 0, err
    assert "wrote rotation.json\nnext:  copy it to the devices, and there: kfdeploy apply rotation.json" in out
    code, out, err = run("apply", "rotation.json")
    assert code == 0, err
    assert re.fullmatch(
        r"key:  [0-9a-f]{16} \(locked.pub\) is replaced by [0-9a-f]{16}: its updates are taken .*\n", out
    )
    code, out, err = run("sign", "update.kfu", "--key", "next.key", "--expires", "2099-06-01")
    assert ", expires 2099-06-01 00:00 UTC" in out
    code, out, err = run("apply", "update.kfu")
    assert code == 0, err
    code, out, err = run("sign", "update.kfu", "--key", "locked.key", "--passphrase", "secret")
    assert (code, out) == (2, "")
    assert "it is never on the command line" in err


def test_pools_are_compared_but_not_shipped(run, toy, here):
    code, out, err = run("diff", toy.pool, toy.pool)
    assert (code, out) == (0, "nothing changed\nto ship:  nothing\n")
    code, _, err = run("diff", toy.pool, toy.pool, "--out", "u.kfu")
    assert code == 2
    assert "assemble the same tasks from both" in err
    assert not list(here.iterdir())
