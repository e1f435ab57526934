"""How far a device has come."""

import hashlib
import json
import os
import shutil

import pytest
from killed import tree

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.swap import COUNTER
from kfdeploy.deploy.update.apply import apply, rollback
from kfdeploy.deploy.update.diff import write_update
from kfdeploy.deploy.update.keys import sign
from kfdeploy.errors import OutputError, PoolError, UpdateError


def test_older_updates_are_refused_though_their_base_fits(world):
    forth, back = world.update("a", "b", counter=5), world.update("b", "a", counter=6)
    world.apply(forth)
    world.apply(back)
    assert world.has("a")
    world.refuse(forth, r"is an older update: its counter is 5, and '.*' has had 6")
    world.refuse(world.update("a", "c", counter=6), "has the counter 6, and '.*' has had another update with it")
    world.apply(world.update("a", "b", counter=7))
    assert world.has("b")


def test_after_going_back_the_same_update_may_come_again_and_an_older_one_may_not(world):
    older, update = world.update("a", "c", counter=4), world.update("a", "b", counter=5)
    world.apply(update)
    assert world.apply(update).already
    rollback(world.device)
    assert tree(world.device) == world.before
    world.refuse(older, "is an older update")
    world.apply(update)
    assert world.has("b")


def test_a_counter_goes_with_an_assembly_and_its_copies_and_outlives_them(world):
    world.apply(world.update("a", "b", counter=5))
    older, same = world.update("a", "c", counter=4), world.update("a", "b", counter=5)
    with pytest.raises(UpdateError, match="is an older update: its counter is 4") as caught:
        apply(older, world.root / "a" / "assembly", state=world.state)  # a copy, elsewhere
    assert "--counter 6" in caught.value.hint
    assert not apply(same, world.root / "a" / "assembly", state=world.state).already
    assemble(world.root / "c" / "assembly" / "parts", ["élan"], world.root / "other")  # another name, another counter
    assert len(list((world.state / "counters").iterdir())) == 1
    shutil.rmtree(world.device)
    assemble(world.root / "b" / "assembly" / "parts", ["pets"], world.device)
    world.refuse(world.root / "ac.kfu", "is an older update")


def test_a_counter_of_0_1_0_by_place_still_counts(world):
    world.apply(world.update("a", "b", counter=5))
    (record,) = (world.state / "counters").iterdir()
    short = hashlib.sha256(os.fsencode(world.device.resolve())).hexdigest()[:12]
    about = {"schema": 1, "kind": "counter", "assembly": str(world.device.resolve()), "counter": 5, "update": "0"}
    record.with_name(f"assembly-{short}.json").write_text(json.dumps(about))
    record.unlink()
    (world.device / COUNTER).unlink()
    world.refuse(world.update("b", "a", counter=3), "its counter is 3, and '.*' has had 5")
    moved = world.root / "elsewhere" / "assembly"
    moved.parent.mkdir()
    world.device.rename(moved)
    with pytest.raises(UpdateError, match="its counter is 3, and '.*' has had 5"):
        apply(world.root / "ba.kfu", moved, state=world.state)


def test_no_counter_is_above_the_largest_and_the_hint_says_so(world):
    world.apply(world.update("a", "b", counter=2**63 - 1))
    with pytest.raises(UpdateError, match="is an older update") as caught:
        world.apply(world.update("b", "a", counter=3))
    assert "no counter is above that: a new key starts afresh (kfdeploy rotate)" in caught.value.hint


def test_what_is_found_applied_already_is_remembered(world):
    update = world.update("a", "b", counter=5)
    shutil.rmtree(world.device)
    shutil.copytree(world.root / "b" / "assembly", world.device)
    assert world.apply(update).already
    world.refuse(world.update("b", "a", counter=4), "has had 5")


def test_a_counter_that_cannot_be_read_or_written_is_not_passed_over(world):
    world.apply(world.update("a", "b", counter=5))
    (record,) = (world.state / "counters").iterdir()
    record.write_text("{")
    world.refuse(world.update("b", "c", counter=6), "cannot be read", PoolError)
    record.write_text('{"schema": 1, "kind": "counter"}')
    world.refuse(world.root / "bc.kfu", "holds no counter")
    shutil.rmtree(world.state / "counters")
    (world.state / "counters").write_text("")
    world.refuse(world.root / "bc.kfu", "what this device remembers in .* cannot be read: Not a directory")


def test_a_state_that_cannot_be_written_stops_the_update(world, monkeypatch):
    from kfdeploy.deploy.update import counters

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(counters, "replacing", full)
    world.refuse(
        world.update("a", "b", counter=5), r"counters/assembly-.*\.json' cannot be written: No space", OutputError
    )


def test_a_folder_takes_its_counter_to_another_device(world):
    """It is the last update's own statement, so it counts where its key is known, and nobody can make one up."""
    world.apply(world.update("a", "b", counter=5))
    fresh = world.root / "fresh"
    shutil.copytree(world.state / "keys", fresh / "keys")
    copied = shutil.copytree(world.device, world.root / "copied" / "assembly")
    with pytest.raises(UpdateError, match="its counter is 4, and '.*' has had 5"):
        apply(world.update("b", "a", counter=4), copied, state=fresh)
    about = json.loads((copied / COUNTER).read_text())
    for change in ({"manifest": about["manifest"] | {"counter": 2**63 - 1}}, {"signer": "0" * 16}, {"signature": 7},
                   {"manifest": []}):  # fmt: skip
        (copied / COUNTER).write_text(json.dumps(about | change))
        rollback(copied)
        assert not apply(world.update("a", "b", counter=4), copied, state=fresh).already  # nobody is locked out by it
        shutil.rmtree(fresh / "counters")
    (copied / COUNTER).unlink()
    (copied / COUNTER).symlink_to(world.root / "elsewhere.json")
    with pytest.raises(PoolError, match="is a symbolic link"):
        apply(world.root / "ab.kfu", copied, state=fresh)
    assert not (world.root / "elsewhere.json").exists()


def test_counters_of_a_lineage_go_with_a_new_name(world):
    """An update that calls the assembly something else does not begin from nothing, nor fall behind what is called so."""
    other = assemble(world.root / "b" / "assembly" / "parts", ["pets"], world.root / "renamed").path
    path = world.root / "named.kfu"
    write_update(world.root / "a" / "assembly", other, path)
    sign(path, world.key, counter=9)
    world.apply(path)
    assert len(list((world.state / "counters").iterdir())) == 2
    (world.device / COUNTER).unlink()
    write_update(other, world.root / "c" / "assembly", path, force=True)
    sign(path, world.key, counter=8)
    world.refuse(path, "its counter is 8, and '.*' has had 9")
    sign(path, world.key, counter=10)
    world.apply(path)
    assert world.has("c")


def test_what_an_update_is_called_after_it_may_have_come_further(world):
    world.apply(world.update("a", "b", counter=100))
    other = assemble(world.root / "b" / "assembly" / "parts", ["pets"], world.root / "renamed").path
    write_update(other, world.root / "c" / "assembly", world.root / "x.kfu")
    sign(world.root / "x.kfu", world.key, counter=50)
    before = tree(other)
    with pytest.raises(UpdateError, match="its counter is 50, and '.*' has had 100"):
        apply(world.root / "x.kfu", other, state=world.state)
    assert tree(other) == before
    assert not list(other.glob(".*"))


def test_a_counter_only_grows(world):
    world.apply(world.update("a", "b", counter=7))
    (record,) = (world.state / "counters").iterdir()
    about = json.loads(record.read_text())
    assert about["highest"] == {about["signer"]: 7}
    rollback(world.device)
    world.apply(world.root / "ab.kfu")
    assert json.loads(record.read_text())["highest"] == {about["signer"]: 7}
    for wrong in ({"highest": {}}, {"highest": {"a": "1"}}, {"highest": 7}, {"signer": 1}):
        record.write_text(json.dumps(about | wrong))
        world.refuse(world.update("b", "c", counter=8), "holds no counter")


def test_a_folder_with_a_counter_is_still_ours(world):
    world.apply(world.update("a", "b", counter=5))
    assemble(world.root / "b" / "assembly" / "parts", ["pets"], world.device, force=True)
    assert not (world.device / COUNTER).exists()
