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
    assert code == 0, err
    assert "signature:  not asked for: there is no key in 'elsewhere/keys'" in out
    code, out, err = run("diff", "assembly", "new/assembly")
    assert out == "nothing changed\nto ship:  0 bytes, as nothing changed\n"
    assert not Path("elsewhere").exists()


def test_pools_are_compared_but_not_shipped(run, toy, here):
    code, out, err = run("diff", toy.pool, toy.pool)
    assert (code, out) == (0, "nothing changed\nto ship:  nothing\n")
    code, _, err = run("diff", toy.pool, toy.pool, "--out", "u.kfu")
    assert code == 2
    assert "assemble the same tasks from both" in err
    assert not list(here.iterdir())
