"""What `diff` says of two assemblies or two pools, and what it ships of them."""

import pytest
from killed import tree
from pools import describe, retrain

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.update.apply import apply
from kfdeploy.deploy.update.diff import diff, write_update
from kfdeploy.errors import PoolError, UnsupportedError


@pytest.fixture(autouse=True)
def no_keys(tmp_path, monkeypatch):
    """A device of its own for every test, not that of whoever runs them."""
    monkeypatch.setenv("KFDEPLOY_STATE", str(tmp_path / "state"))


def make(pool, tasks, folder):
    """Assemble under the same folder name wherever it is."""
    return assemble(pool, tasks, folder / "assembly").path


def test_diff_says_what_changed(toy, tmp_path):
    one = make(toy.pool, ["pets", "élan", "sea horse"], tmp_path / "a")
    two = assemble(toy.pool, ["élan", "pets", "ünï/c"], tmp_path / "other", fuse="branches").path
    found = diff(one, two)
    assert (found.added, found.removed, found.reordered) == (("ünï/c",), ("sea horse",), True)
    assert (found.common, found.template, found.form) == (False, False, ("bank", "branches"))
    assert found.sentences() == [
        "added:  ünï/c",
        "removed:  sea horse",
        "changed:  the order of the tasks",
        "changed:  the form, from 'bank' to 'branches'",
        "changed:  the name, from 'assembly' to 'other'",
    ]
    assert diff(one, one).sentences() == ["nothing changed"]
    three = assemble(toy.pool, ["pets", "élan", "sea horse"], tmp_path / "b" / "assembly", open_set=0.25).path
    assert diff(one, three).sentences() == ["changed:  whether and from where on it tells strangers (--open-set)"]


def test_a_task_trained_again_is_shipped_again(toy, pool, tmp_path):
    retrain(pool)
    old, new = make(toy.pool, ["pets", "élan"], tmp_path / "a"), make(pool, ["pets", "élan"], tmp_path / "b")
    found = diff(old, new)
    assert found.changed == {"pets": ("weights", "golden logits")}
    assert "changed:  the pool it was assembled from" in found.sentences()
    assert "parts/tasks/pets.safetensors" in found.files
    assert "parts/tasks/%C3%A9lan.safetensors" not in found.files
    write_update(old, new, tmp_path / "u.kfu")
    apply(tmp_path / "u.kfu", old, unsigned=True)
    assert tree(old) == tree(new)
    pools = diff(toy.pool, pool)
    assert pools.changed == {"pets": ("weights", "golden logits")}
    assert set(pools.files) == {"tasks/pets.safetensors", "evidence/pets.safetensors"}
    assert pools.bytes == sum(pools.files.values())
    with pytest.raises(UnsupportedError, match="is for a device's assembly, and .* is a pool"):
        write_update(toy.pool, pool, tmp_path / "p.kfu")


def test_another_common_network_ships_everything_and_two_pools_of_it_are_refused(toy, pool, tmp_path):
    import onnx

    common = onnx.load(pool / "common.onnx")
    common.doc_string = "another"
    (pool / "common.onnx").write_bytes(common.SerializeToString())
    describe(pool, "common.onnx")
    old, new = make(toy.pool, ["pets"], tmp_path / "a"), make(pool, ["pets"], tmp_path / "b")
    found = diff(old, new)
    assert (found.common, found.whole) == (True, True)
    assert "parts/common.onnx" in found.files
    write_update(old, new, tmp_path / "u.kfu")
    apply(tmp_path / "u.kfu", old, unsigned=True)
    assert tree(old) == tree(new)
    with pytest.raises(PoolError, match="have different common networks"):
        diff(toy.pool, pool)
    with pytest.raises(PoolError, match="is a pool and .* is an assembly"):
        diff(toy.pool, new)
