"""Another key in the place of the one that a device trusts."""

import json
import shutil
from datetime import timedelta

import pytest
from killed import tree

from kfdeploy.deploy.update import public, when
from kfdeploy.deploy.update.apply import rollback
from kfdeploy.deploy.update.keys import keygen
from kfdeploy.deploy.update.rotation import Rotation, is_rotation, rotate
from kfdeploy.deploy.update.trust import DeviceState
from kfdeploy.errors import OutputError, UpdateError


class Rotated:
    """Three keys, and the statements that lead from one to the next."""

    def __init__(self, world):
        self.world, self.device = world, DeviceState(world.state)
        self.keys = [world.key, *(keygen(world.root / name)[0] for name in ("second", "third"))]
        self.names = [self.pub(key).name for key in self.keys]
        self.statements = [self.rotate(0, 1), self.rotate(1, 2)]

    def pub(self, key):
        return public.read_public(key.with_suffix(".pub"))

    def rotate(self, old, new):
        path = self.world.root / f"{old}-{new}.json"
        rotate(self.keys[new].with_suffix(".pub"), self.keys[old], path)
        return path

    def refuse(self, path, message):
        before = tree(self.world.state)
        with pytest.raises(UpdateError, match=message) as caught:
            self.device.rotate(path)
        assert caught.value.hint
        assert tree(self.world.state) == before


@pytest.fixture
def rotated(world):
    return Rotated(world)


def test_from_the_old_key_to_an_applied_update(rotated):
    world = rotated.world
    world.apply(world.update("a", "b", counter=100))
    rollback(world.device)
    for i in (0, 1):
        new = world.update("a", "b", key=rotated.keys[i + 1], counter=1)
        world.refuse(new, r"is signed by '[0-9a-f]{16}', and this device takes only")
        old, comes = rotated.device.rotate(rotated.statements[i])
        assert (old.name, comes.name) == (rotated.names[i], rotated.names[i + 1])
        assert rotated.device.rotate(rotated.statements[i])[1].name == comes.name  # again: nothing
        for past in range(i + 1):
            older = world.update("a", "c", key=rotated.keys[past], counter=1000)
            world.refuse(older, rf"which was replaced by {rotated.names[past + 1]}, and this device takes only")
        # A new key counts from nothing, wherever the old one's clock was.
        world.apply(world.update("a", "b", key=rotated.keys[i + 1], counter=1))
        assert world.has("b")
        rollback(world.device)
    assert sorted(path.name for path in (world.state / "rotations").iterdir()) == sorted(
        f"{name}.json" for name in rotated.names[:2]
    )


def test_statements_that_are_none(rotated):
    world, (first, second) = rotated.world, rotated.statements
    rotated.refuse(second, "is not signed by a key that this device knows")  # the chain has a hole
    about = json.loads(first.read_text())
    evil = public.pem(rotated.pub(rotated.keys[2]).key).decode()
    for change, message in (
        ({"rotation": about["rotation"] | {"new": evil}}, "is not signed by a key that this device knows"),
        ({"rotation": about["rotation"] | {"old": rotated.names[1]}}, "is not signed by a key"),
        ({"rotation": about["rotation"] | {"new": "PEM"}}, "is no public key that can be used"),
        ({"rotation": about["rotation"] | {"kind": "update"}}, "is not the whole of a rotation"),
        ({"rotation": [1]}, "is not the whole of a rotation"),
        ({"signature": 5}, "is not the whole of a rotation"),
        ({"signature": "00"}, "is not signed by a key"),
        ({"schema": 2}, "has schema 2"),
        ({"kind": "pool"}, "describes a 'pool'"),
    ):
        path = world.root / "odd.json"
        path.write_text(json.dumps(about | change))
        rotated.refuse(path, message)
    path.write_text("{" * 100)
    rotated.refuse(path, "cannot be read")
    rotated.refuse(world.root / "none.json", "there is no file at")
    # An update's signature is none of a statement's, nor the other way round.
    assert is_rotation(first)
    assert not is_rotation(world.update("a", "b", counter=1))
    assert not is_rotation(world.root / "none.json")


def test_a_key_is_replaced_once_and_never_comes_back(rotated):
    rotated.device.rotate(rotated.statements[0])
    other = rotated.rotate(0, 2)
    rotated.refuse(other, "update.pub, which was replaced by another key")
    back = rotated.rotate(1, 0)
    rotated.refuse(back, "is one that this device knows already")
    # By hand neither: the first statement counts, and a circle leaves no key.
    shutil.copy(other, rotated.world.state / "rotations" / "zz.json")
    assert set(rotated.device.keys().trusted) == {rotated.names[1]}
    shutil.copy(back, rotated.world.state / "rotations" / "zz.json")
    rotated.world.refuse(rotated.world.update("a", "b", counter=1), "has expired or was replaced")


def test_without_its_beginning_a_chain_is_worth_nothing(rotated):
    world = rotated.world
    rotated.device.rotate(rotated.statements[0])
    update = world.update("a", "b", key=rotated.keys[1], counter=1)
    (world.state / "keys" / "update.pub").unlink()
    world.refuse(update, "is empty: this device takes nothing")
    shutil.copy(rotated.keys[2].with_suffix(".pub"), world.state / "keys")
    world.refuse(update, "is signed by")
    shutil.copy(rotated.keys[1].with_suffix(".pub"), world.state / "keys")  # the new key by hand
    world.apply(update)
    place = world.state / "rotations" / f"{rotated.names[0]}.json"
    place.write_text("{}")
    world.refuse(world.update("b", "c", key=rotated.keys[1], counter=2), "has schema None")


def test_days_of_keys_go_with_them(rotated, monkeypatch):
    world, later = rotated.world, when.now() + timedelta(days=8)
    private, made = keygen(world.root / "short", expires="7d")
    path = world.root / "short.json"
    rotate(made, world.key, path)
    assert Rotation.read(path).new.expires == public.read_public(made).expires
    with monkeypatch.context() as patch:
        patch.setattr(public, "now", lambda: later)
        rotated.refuse(path, "is one that has expired")
        with pytest.raises(UpdateError, match="has expired"):
            rotate(made, world.key, path, force=True)
    rotated.device.rotate(path)
    with monkeypatch.context() as patch:
        patch.setattr(public, "now", lambda: later)
        world.refuse(world.update("a", "b", key=private, counter=1), "every key in '.*' has expired or was replaced")
    world.apply(world.update("a", "b", key=private, counter=1))
    # One that has expired says nothing more.
    onward = world.root / "onward.json"
    rotate(rotated.keys[2].with_suffix(".pub"), private, onward)
    monkeypatch.setattr(public, "now", lambda: later)
    rotated.refuse(onward, "every key in '.*' has expired or was replaced")


def test_of_two_keys_the_other_one_is_not_let_back(rotated):
    """What one key has signed stays too old, whatever becomes of the other key."""
    world = rotated.world
    backup, made = keygen(world.root / "backup")
    shutil.copy(made, world.state / "keys")
    world.apply(world.update("a", "b", counter=100))
    rotated.device.rotate(rotated.statements[0])
    world.refuse(world.update("b", "c", key=backup, counter=50), "its counter is 50, and '.*' has had 100")
    world.apply(world.update("b", "c", key=rotated.keys[1], counter=1))
    world.refuse(world.update("c", "b", key=backup, counter=50), "its counter is 50, and '.*' has had 100")
    world.apply(world.update("c", "b", key=backup, counter=101))


def test_what_cannot_be_said(rotated):
    world = rotated.world
    with pytest.raises(UpdateError, match="is the public half of the same key"):
        rotate(world.key.with_suffix(".pub"), world.key, world.root / "r.json")
    with pytest.raises(OutputError, match="is already there"):
        rotate(rotated.keys[1].with_suffix(".pub"), world.key, rotated.statements[0])
    with pytest.raises(UpdateError, match="is no public key"):
        rotate(world.key, world.key, world.root / "r.json")
    (world.state / "keys" / "update.pub").unlink()
    rotated.refuse(rotated.statements[0], "is empty: this device takes nothing")
