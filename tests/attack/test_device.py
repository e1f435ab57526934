"""A device with a key, and everything that it must refuse: each of its rules broken, with seeds; none may be taken.

Who attacks holds every update that was ever signed, keys of his own, and what he reads; he writes files into the inbox,
names places on the command line, moves and copies folders, and shares the machine. He has neither a trusted private key
nor the rights of whoever owns the state folder.
"""

import itertools
import json
import os
import random
import shutil
from datetime import timedelta

import pytest
from devices import World
from killed import tree

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.swap import COUNTER
from kfdeploy.deploy.update import public, trust, when
from kfdeploy.deploy.update.apply import apply
from kfdeploy.deploy.update.diff import write_update
from kfdeploy.deploy.update.file import Update
from kfdeploy.deploy.update.keys import keygen, sign
from kfdeploy.deploy.update.rotation import Rotation, is_rotation, rotate
from kfdeploy.deploy.update.signers import open_signer
from kfdeploy.deploy.update.trust import device_of
from kfdeploy.errors import KfdeployError

SEEDS = range(8)
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
STRANGER = 54321


class Device(World):
    """It has come to the counter 100 of its second key, the first of which is replaced; and has a third that has expired."""

    def __init__(self, toy, root):
        super().__init__(toy, root)
        self.number = itertools.count()
        self.first, (self.key, new) = self.key, keygen(root / "second")
        self.stranger, self.strange = keygen(root / "stranger")
        keygen(root / "accomplice")
        self.short, made = keygen(root / "short", expires="1d")
        shutil.copy(made, self.state / "keys")
        self.old = [self.kept("a", "b", self.first, 5), self.kept("b", "c", self.first, 6)]
        self.apply(self.old[0])
        rotate(new, self.first, root / "rotation.json")
        device_of(self.state).rotate(root / "rotation.json")
        self.old += [self.kept("b", "c", self.key, 7)]
        self.apply(self.old[2])
        self.old += [self.kept("c", "b", self.key, 100)]
        self.apply(self.old[3])
        self.good = self.kept("b", "c", self.key, 101)

    def kept(self, old, new, key, counter):
        path = self.root / f"{old}{new}{counter}-{key.stem}.kfu"
        write_update(self.root / old / "assembly", self.root / new / "assembly", path, force=True)
        sign(path, key, counter=counter)
        return path

    def variant(self, manifest=None, payloads=None, signature=None, signer=None):
        found = Update.read(self.good)
        path = self.root / f"variant{next(self.number)}.kfu"
        given = (found.manifest if manifest is None else manifest, found.payloads if payloads is None else payloads,
                 found.signature if signature is None else signature, found.signer if signer is None else signer)  # fmt: skip
        path.write_bytes(Update(path, *given).to_bytes())
        return path

    def signed(self, key, **fields):
        """An update signed as it is, whatever its fields are: `sign` would refuse some."""
        found, signer = Update.read(self.good), open_signer(key)
        stated = Update(found.path, found.manifest | fields, found.payloads)
        return self.variant(stated.manifest, None, signer.sign(stated.message).hex(), signer.name)

    def attempt(self, update, *, device=None, state=None, unsigned=False):
        """Take a file as the command line does; return whether anything was taken."""
        device, state = device or self.device, state or self.state
        try:
            if is_rotation(update):
                device_of(state, unsigned=unsigned).rotate(update)
            else:
                apply(update, device, state=None if unsigned and state is self.state else state, unsigned=unsigned)
        except KfdeployError:
            return False
        return True


@pytest.fixture(scope="module")
def device(toy, tmp_path_factory):
    return Device(toy, tmp_path_factory.mktemp("attack"))


def stripped(device, dice, _):
    return [device.attempt(path) for path in (device.variant(signature=""), device.variant(signature="", signer=""))]


def strangers(device, dice, _):
    mine = open_signer(device.stranger)
    trusted = open_signer(device.key).name
    found = Update.read(device.good)
    forged = mine.sign(found.message).hex()
    return [device.attempt(path) for path in (
        device.signed(device.stranger, counter=dice.randrange(101, 2**63)), device.variant(signature=forged, signer=trusted),
        device.variant(signer=mine.name), device.variant(signature=dice.randbytes(64).hex()))]  # fmt: skip


def flipped(device, dice, _):
    data = bytearray(device.good.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    begin = 8 if dice.random() < 0.5 else header
    data[dice.randrange(begin, header if begin == 8 else len(data))] ^= 1 << dice.randrange(8)
    path = device.root / "flipped.kfu"
    path.write_bytes(data if dice.random() < 0.8 else data[: dice.randrange(len(data))])
    # A bit of a header's padding or of a hexadecimal digit's case says the same: then it is the good update itself.
    try:
        found, good = Update.read(path), Update.read(device.good)
        if (found.message, bytes.fromhex(found.signature), found.signer, dict(found.payloads)) == (
            good.message, bytes.fromhex(good.signature), good.signer, dict(good.payloads)):  # fmt: skip
            return []
    except (KfdeployError, ValueError):
        pass
    return [device.attempt(path)]


def altered(device, dice, _):
    manifest = Update.read(device.good).manifest
    changes = [{"counter": dice.randrange(102, 2**62)}, {"expires": "2999-01-01"}, {"version": "9"},
               {"new": manifest["new"] | {"tasks": []}}, {"base": manifest["base"] | {"model.onnx": "0"}}, {"more": 1},
               {"files": {}}]  # fmt: skip
    return [device.attempt(device.variant(manifest | dice.choice(changes)))]


def older(device, dice, _):
    return [device.attempt(path) for path in (*device.old[:3], device.signed(device.key, counter=dice.randrange(100)),
                                              device.signed(device.key, counter=100))]  # fmt: skip


def no_counts(device, dice, _):
    odd = [-1, -(2**63), 2**63, 2**64 + 5, True, 1.5e3, "200", [200], None, float("nan")]
    return [device.attempt(device.signed(device.key, counter=dice.choice(odd)))]


def open_states(device, dice, _):
    """A place without a usable key, named on the command line or by mistake, and what is said with it."""
    state = device.root / "state2"
    shutil.rmtree(state, ignore_errors=True)
    kind = dice.choice(["mistyped", "empty", "others", "link", "file", "broken", "strange"])
    if kind not in ("mistyped", "link", "file"):
        (state / "keys").mkdir(parents=True)
    if kind == "others":
        shutil.copy(device.key, state / "keys" / "second.key")
    elif kind in ("link", "file"):
        state.mkdir()
        (state / "keys").symlink_to("nothing") if kind == "link" else (state / "keys").write_text("")
    elif kind == "broken":
        (state / "keys" / "second.pub").write_bytes(b"-----BEGIN PUBLIC KEY-----\n")
    elif kind == "strange":
        shutil.copy(device.strange, state / "keys")
    plain = device.variant(signature="", signer="")
    return [device.attempt(path, state=state, unsigned=unsigned) for path in (device.good, plain)
            for unsigned in (False, True)]  # fmt: skip


def talked_out(device, dice, patch):
    """The device's own state folder, by whatever way it is found, and --unsigned."""
    name = dice.choice(["KFDEPLOY_STATE", "XDG_STATE_HOME"])
    patch.delenv("KFDEPLOY_STATE", raising=False)
    home = device.root / "xdg"
    if name == "XDG_STATE_HOME" and not home.exists():
        home.mkdir()
        (home / "kfdeploy").symlink_to(device.state)
    patch.setenv(name, str(home if name == "XDG_STATE_HOME" else device.state))
    return [device.attempt(path, unsigned=True) for path in (device.good, device.variant(signature=""))]


def moved(device, dice, _):
    """The folder lies elsewhere, is a copy, or is on a device that knows the key and has no counters."""
    place = device.root / f"moved{dice.randrange(10**6)}" / dice.choice(["assembly", "other", "élan"])
    shutil.copytree(device.device, place)
    fresh = device.root / "fresh"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(device.state, fresh)
    if dice.random() < 0.5:
        (place / COUNTER).unlink()
    else:
        shutil.rmtree(fresh / "counters")
    taken = [device.attempt(path, device=place, state=fresh) for path in (device.old[dice.randrange(3)],
             device.signed(device.key, counter=dice.randrange(100)))]  # fmt: skip
    shutil.rmtree(place.parent)
    return taken


def afresh(device, dice, _):
    """The assembly of long ago in the place of today's: old updates fit it, and are too old."""
    place = device.root / "afresh" / "assembly"
    shutil.rmtree(place.parent, ignore_errors=True)
    shutil.copytree(device.root / dice.choice(["a", "b"]) / "assembly", place)
    return [device.attempt(path, device=place) for path in device.old[:3]]


def shared(device, dice, _):
    """Others may write to a key or a folder that leads to it, or it is theirs."""
    state = device.root / "home" / "state"
    shutil.rmtree(state.parent, ignore_errors=True)
    shutil.copytree(device.state, state)
    folders = [state, state / "keys", state / "rotations", state.parent, next((state / "keys").glob("*.pub"))]
    place = dice.choice(folders)
    if ROOT and dice.random() < 0.5:
        os.chown(place, STRANGER, -1)
    else:
        place.chmod(0o777 if place == state.parent or dice.random() < 0.5 else 0o1777)
    return [device.attempt(device.good, state=state)]


def expired(device, dice, patch):
    past = when.written(when.now() - timedelta(days=dice.randrange(1, 4000)))
    taken = [device.attempt(device.signed(device.key, expires=past)),
             device.attempt(device.signed(device.key, expires=dice.choice(["never", 5, "", {}])))]  # fmt: skip
    update = device.signed(device.short, counter=200)
    patch.setattr(public, "now", lambda: when.now() + timedelta(days=dice.randrange(2, 4000)))
    return [*taken, device.attempt(update)]


def replaced(device, dice, _):
    """The key that was replaced, and statements that nobody who may has made."""
    path = device.root / "statement.json"
    kind = dice.choice(["again", "stranger", "forged", "altered", "back", "hex"])
    if kind == "again":
        rotate(device.strange, device.first, path, force=True)
    elif kind == "stranger":
        rotate(device.root / "accomplice.pub", device.stranger, path, force=True)
    elif kind == "back":
        rotate(device.first.with_suffix(".pub"), device.key, path, force=True)
    else:
        found = Rotation.read(device.root / "rotation.json")
        mine = public.pem(public.load_public(device.strange)).decode()
        about = {**found.about, "new": mine, "old": open_signer(device.key if kind == "forged" else device.first).name}
        signature = dice.randbytes(64).hex() if kind == "hex" else found.signature
        path.write_bytes(Rotation(path, about, signature).data)
    before = device_of(device.state).keys().trusted.keys()
    taken = [device.attempt(path), device.attempt(device.signed(device.first, counter=dice.randrange(200, 2**62)))]
    assert device_of(device.state).keys().trusted.keys() == before
    # Put there by who can write there alone, it proves nothing either.
    lure = device.state / "rotations" / "lure.json"
    shutil.copy(path, lure)
    try:
        taken.append(device.attempt(device.signed(device.stranger, counter=300)))
    finally:
        lure.unlink()
    return taken


def others(device, dice, _):
    """Good updates of another assembly, or under another name."""
    renamed = device.root / "renamed"
    if not renamed.exists():
        assemble(device.root / "b" / "assembly" / "parts", ["pets"], renamed)
    path = device.root / "named.kfu"
    write_update(renamed, device.root / dice.choice("ac") / "assembly", path, force=True)
    sign(path, device.key, counter=dice.randrange(100))
    place = device.root / "named"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(renamed, place)
    return [device.attempt(path), device.attempt(path, device=place)]


def carried(device, dice, _):
    """A statement in the folder that nobody has signed locks nobody out; a link there is not followed."""
    place = device.root / "carried" / "assembly"
    shutil.rmtree(place.parent, ignore_errors=True)
    shutil.copytree(device.device, place)
    about = json.loads((place / COUNTER).read_text())
    (place / COUNTER).write_text(json.dumps(about | {"counter": 0, "manifest": about["manifest"] | {"counter": 0}}))
    taken = [device.attempt(device.old[dice.randrange(3)], device=place)]
    (place / COUNTER).unlink()
    (place / COUNTER).symlink_to(device.root / "victim")
    return [*taken, device.attempt(device.good, device=place)]


RULES = (stripped, strangers, flipped, altered, older, no_counts, open_states, talked_out, moved, afresh, shared, expired,
         replaced, others, carried)  # fmt: skip
counted = {}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_what_a_strict_device_refuses_is_not_taken(device, rule, monkeypatch):
    before, state = tree(device.device), tree(device.state)
    made, wrong = 0, []
    for seed in SEEDS:
        with monkeypatch.context() as patch:
            found = rule(device, random.Random(f"{rule.__name__} {seed}"), patch)
        made += len(found)
        wrong += [seed] * any(found)
    assert not wrong, f"taken with the seeds {wrong}"
    assert tree(device.device) == before
    assert tree(device.state) == state
    assert not (device.root / "victim").exists()
    counted[rule.__name__] = made


def test_there_were_a_hundred_attempts_and_the_good_one_is_taken(device, monkeypatch):
    if len(counted) < len(RULES):
        pytest.skip("not every rule was tried in this process")
    print(f"{sum(counted.values())} attempts: {counted}")
    assert sum(counted.values()) >= 100
    assert trust.device_of(device.state).keys().trusted
    assert device.attempt(device.good)
    assert device.has("c")
