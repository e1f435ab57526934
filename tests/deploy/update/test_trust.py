import importlib.util
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from killed import tree

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.update.apply import apply, rollback
from kfdeploy.deploy.update.diff import write_update
from kfdeploy.deploy.update.file import Update
from kfdeploy.deploy.update.keys import fingerprint, keygen, load_public, sign
from kfdeploy.deploy.update.trust import state_folder
from kfdeploy.errors import MissingDependencyError, OutputError, PoolError, UpdateError


class World:
    """A device that holds a key, three assemblies, and the updates between them."""

    def __init__(self, toy, root):
        self.root, self.state, self.device = root, root / "state", root / "device" / "assembly"
        for name, tasks in (("device", ["pets"]), ("b", ["pets", "élan"]), ("c", ["élan"])):
            assemble(toy.pool, tasks, root / name / "assembly")
        shutil.copytree(root / "device", root / "a")
        self.key, public = keygen(root / "update")
        (self.state / "keys").mkdir(parents=True)
        shutil.copy(public, self.state / "keys")
        self.before = tree(self.device)

    def update(self, old, new, **options):
        path = self.root / f"{old}{new}.kfu"
        write_update(self.root / old / "assembly", self.root / new / "assembly", path, force=True)
        if options:
            sign(path, **{"key": self.key, **options})
        return path

    def apply(self, update):
        return apply(update, self.device, state=self.state)

    def refuse(self, update, message, error=UpdateError):
        before = tree(self.device)
        with pytest.raises(error, match=message) as caught:
            self.apply(update)
        assert caught.value.hint
        assert tree(self.device) == before
        assert not list(self.device.glob(".update*"))

    def has(self, name):
        return tree(self.device) == tree(self.root / name / "assembly")


@pytest.fixture
def world(toy, tmp_path):
    return World(toy, tmp_path)


def test_a_signed_update_is_taken_and_named(world):
    done = world.apply(world.update("a", "b", counter=5))
    assert (done.key.name, done.counter) == ("update.pub", 5)
    assert world.has("b")
    (record,) = (world.state / "counters").iterdir()
    assert json.loads(record.read_text())["counter"] == 5


def test_what_is_not_signed_by_a_known_key_is_refused(world):
    world.refuse(
        world.update("a", "b"),
        r"is not signed, and this device takes only what is signed by [0-9a-f]{16} \(update.pub\)",
    )
    other, public = keygen(world.root / "other")
    stranger = world.update("a", "b", key=other)
    world.refuse(stranger, rf"is signed by '{fingerprint(load_public(public))}', and this device takes only")
    # It says it is by the known key; that does not make it so.
    found = Update.read(stranger)
    mine = fingerprint(load_public(world.state / "keys" / "update.pub"))
    stranger.write_bytes(Update(stranger, found.manifest, found.payloads, found.signature, mine).to_bytes())
    world.refuse(stranger, "was altered after it was signed")
    stranger.write_bytes(Update(stranger, found.manifest, found.payloads, "no hex", mine).to_bytes())
    world.refuse(stranger, "was altered after it was signed")
    shutil.copy(public, world.state / "keys")
    assert world.apply(world.update("a", "b", key=other)).key.name == "other.pub"


def test_whatever_is_altered_after_signing_is_refused(world):
    update = world.update("a", "b", counter=5)
    found = Update.read(update)

    def altered(manifest, payloads=found.payloads):
        update.write_bytes(Update(update, manifest, payloads, found.signature, found.signer).to_bytes())
        return update

    for fields in ({"counter": 6}, {"version": "9"}, {"base": found.manifest["base"] | {"tasks": []}}):
        world.refuse(altered(found.manifest | fields), "was altered after it was signed")
    world.refuse(altered(found.manifest | {"counter": None}), "is not signed")
    name = min(found.payloads)
    payloads = {**found.payloads, name: found.payloads[name] + b"x"}
    world.refuse(altered(found.manifest, payloads), f"was altered: the sha256 of '{name}'")
    altered(found.manifest)
    world.apply(update)
    assert world.has("b")


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
    import hashlib

    world.apply(world.update("a", "b", counter=5))
    (record,) = (world.state / "counters").iterdir()
    short = hashlib.sha256(os.fsencode(world.device.resolve())).hexdigest()[:12]
    record.rename(record.with_name(f"assembly-{short}.json"))
    world.refuse(world.update("b", "a", counter=3), "its counter is 3, and '.*' has had 5")


def test_no_counter_is_above_the_largest_and_the_hint_says_so(world):
    world.apply(world.update("a", "b", counter=2**63 - 1))
    with pytest.raises(UpdateError, match="is an older update") as caught:
        world.apply(world.update("b", "a", counter=3))
    assert "no counter is above that" in caught.value.hint


def test_what_is_found_applied_already_is_remembered(world):
    update = world.update("a", "b", counter=5)
    shutil.rmtree(world.device)
    shutil.copytree(world.root / "b" / "assembly", world.device)
    assert world.apply(update).already
    world.refuse(world.update("b", "a", counter=4), "has had 5")


def test_the_default_counter_is_the_time(world):
    before = time.time_ns()
    first, second = (sign(world.update("a", "b"), world.key).counter for _ in range(2))
    assert before < first < second < time.time_ns()
    for counter in (-1, 2**63):
        with pytest.raises(UpdateError, match=f"the counter is {counter}"):
            sign(world.root / "ab.kfu", world.key, counter=counter)


def test_signing_gives_the_same_bytes_and_can_be_done_elsewhere(world):
    plain = world.update("a", "b").read_bytes()
    once = world.update("a", "b", counter=5).read_bytes()
    assert world.update("a", "b", counter=5, out=world.root / "signed.kfu").read_bytes() == plain
    assert (world.root / "signed.kfu").read_bytes() == once
    assert 0 < len(once) - len(plain) < 400
    with pytest.raises(OutputError, match="is already there"):
        sign(world.root / "ab.kfu", world.key, out=world.root / "signed.kfu")
    other, _ = keygen(world.root / "other")
    sign(world.root / "signed.kfu", other, counter=1)
    sign(world.root / "signed.kfu", world.key, counter=5)  # a signature is replaced
    assert (world.root / "signed.kfu").read_bytes() == once
    damaged = world.root / "damaged.kfu"
    damaged.write_bytes(once[:-1] + bytes([once[-1] ^ 1]))
    with pytest.raises(UpdateError, match="was altered"):
        sign(damaged, world.key)


def test_a_counter_that_cannot_be_read_or_written_is_not_passed_over(world):
    world.apply(world.update("a", "b", counter=5))
    (record,) = (world.state / "counters").iterdir()
    record.write_text("{")
    world.refuse(world.update("b", "c", counter=6), "cannot be read", PoolError)
    record.write_text('{"schema": 1, "kind": "counter"}')
    world.refuse(world.root / "bc.kfu", "holds no counter")
    shutil.rmtree(world.state / "counters")
    (world.state / "counters").write_text("")
    world.refuse(world.root / "bc.kfu", "cannot be read", PoolError)


def test_a_state_that_cannot_be_written_stops_the_update(world, monkeypatch):
    from kfdeploy.deploy.update import trust

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trust, "replacing", full)
    world.refuse(
        world.update("a", "b", counter=5), r"counters/assembly-.*\.json' cannot be written: No space", OutputError
    )


def test_keys_that_cannot_be_read_are_not_the_same_as_none(world):
    update = world.update("a", "b")
    key = world.state / "keys" / "update.pub"
    for text in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        key.write_bytes(text)
        world.refuse(update, "is no public key that can be used: it is not PEM")
    curve = generate_private_key(SECP256R1()).public_key()
    key.write_bytes(curve.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    world.refuse(update, "is a public key, but not an ed25519 one")
    key.unlink()
    key.mkdir()
    world.refuse(update, "is no public key that can be used: Is a directory")
    shutil.rmtree(world.state / "keys")
    (world.state / "keys").write_text("")
    world.refuse(update, r"the keys of this device in '.*' cannot be read: Not a directory")
    (world.state / "keys").unlink()
    assert world.apply(update).key is None  # a device without a key takes anything whole


def test_keygen_makes_a_pair_and_never_replaces_one(tmp_path):
    private, public = keygen(tmp_path / "deep" / "k")
    assert private.stat().st_mode & 0o777 == 0o600
    key = load_pem_private_key(private.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    assert fingerprint(key.public_key()) == fingerprint(load_public(public))
    before = private.read_bytes()
    with pytest.raises(OutputError, match=r"k\.key' is already there"):
        keygen(tmp_path / "deep" / "k")
    private.unlink()
    with pytest.raises(OutputError, match=r"k\.pub' is already there"):
        keygen(tmp_path / "deep" / "k")
    assert not private.exists()
    private.write_bytes(before)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/k\.key' cannot be made: '.*file' is a file"):
        keygen(tmp_path / "file" / "k")


def test_private_keys_that_are_none(world):
    update, path = world.update("a", "b"), world.root / "odd.key"
    key = Ed25519PrivateKey.generate()
    secret = (Encoding.PEM, PrivateFormat.PKCS8)
    with pytest.raises(UpdateError, match="there is no key at"):
        sign(update, path)
    for data, message in (
        (b"x", "it is not PEM"),
        (key.private_bytes(*secret, BestAvailableEncryption(b"secret")), "it has a passphrase"),
        (generate_private_key(SECP256R1()).private_bytes(*secret, NoEncryption()), "but not an ed25519 one"),
        ((world.root / "update.pub").read_bytes(), "it is not PEM"),
    ):
        path.write_bytes(data)
        with pytest.raises(UpdateError, match=message):
            sign(update, path)
    assert Update.read(update).signature == ""


def test_without_cryptography_a_device_with_a_key_takes_nothing(world, monkeypatch):
    update, find = world.update("a", "b", counter=5), importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "cryptography" else find(name, *a)
    )
    world.refuse(update, "checking a signature needs cryptography, which is not installed", MissingDependencyError)
    with pytest.raises(MissingDependencyError, match="signing an update needs") as caught:
        sign(update, world.key)
    assert caught.value.hint == 'pip install "kfdeploy[sign]"'
    with pytest.raises(MissingDependencyError, match="making keys needs"):
        keygen(world.root / "third")
    (world.state / "keys" / "update.pub").unlink()
    world.apply(update)  # without a key there is nothing to check


def test_where_the_state_is(tmp_path, monkeypatch):
    monkeypatch.delenv("KFDEPLOY_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "x"))
    assert state_folder() == tmp_path / "x" / "kfdeploy"
    monkeypatch.setenv("KFDEPLOY_STATE", str(tmp_path / "k"))
    assert state_folder() == tmp_path / "k"
    assert state_folder("given") == state_folder(os.fspath("given"))
    monkeypatch.delenv("KFDEPLOY_STATE")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local" / "state" / "kfdeploy"


def test_without_a_home_a_place_must_be_named(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    for name in ("KFDEPLOY_STATE", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.raises(UpdateError, match="no place for what this device remembers") as caught:
        state_folder()
    assert "--state" in caught.value.hint
