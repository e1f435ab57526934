"""Folders that somebody has altered: seeded mutants of names, links, classes, bounds and golden samples, every verb.

See `altered`. More of them: KFDEPLOY_MUTANTS=10000 pytest tests/attack/test_names.py, or `benchmarks/attack.py`.
"""

import os

import pytest
from altered import MANIFESTS, look

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.update.diff import write_update

MUTANTS = int(os.environ.get("KFDEPLOY_MUTANTS", "150"))  # of each kind of folder


@pytest.fixture(scope="module")
def originals(toy, assembly, artifacts):
    return {"pool": toy.pool, "assembly": assembly.path, "artifact": artifacts[0].path, "openvino": artifacts[1].path}


@pytest.fixture(scope="module")
def update(toy, assembly, tmp_path_factory):
    out = tmp_path_factory.mktemp("update")
    assemble(toy.pool, ["sea horse", "élan"], out / "assembly")
    write_update(assembly.path, out / "assembly", out / "update.kfu")
    return out / "update.kfu"


@pytest.mark.parametrize("kind", MANIFESTS)
def test_nothing_around_is_touched_and_nothing_altered_is_accepted(kind, originals, update, toy, tmp_path, monkeypatch):
    monkeypatch.setenv("KFDEPLOY_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    image = toy.data / "test" / "cat" / "000.png"
    looked = [look(kind, number, originals, update, image, tmp_path) for number in range(MUTANTS)]
    looked = [each for each in looked if each is not None]
    assert not [f"{each.told}: {each.wrong}" for each in looked if each.wrong]
    assert not [f"{each.told}: {each.outside}" for each in looked if each.outside]
    assert not [each.told for each in looked if each.wrongly]
    assert not (tmp_path / "downloaded").exists()
    assert not (tmp_path / "home").exists()
    assert len(looked) > MUTANTS // 2
