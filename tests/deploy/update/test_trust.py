"""Whose updates a device takes."""

import importlib.util
import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, SECP521R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from killed import tree

from kfdeploy.deploy.update import public, trust, when
from kfdeploy.deploy.update.apply import apply
from kfdeploy.deploy.update.file import Update
from kfdeploy.deploy.update.keys import keygen, sign
from kfdeploy.deploy.update.public import fingerprint, load_public, pem
from kfdeploy.deploy.update.trust import state_folder
from kfdeploy.errors import MissingDependencyError, UpdateError, UsageError


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


def test_keys_that_cannot_be_read_are_not_the_same_as_none(world):
    update = world.update("a", "b")
    key = world.state / "keys" / "update.pub"
    for text in (b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        key.write_bytes(text)
        world.refuse(update, "is no public key that can be used: it is not PEM")
    curve = generate_private_key(SECP521R1()).public_key()
    key.write_bytes(curve.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    world.refuse(update, "is a public key, but not an ed25519 one")
    key.unlink()
    key.mkdir()
    world.refuse(update, "is no public key that can be used: Is a directory")
    shutil.rmtree(world.state / "keys")
    (world.state / "keys").write_text("")
    world.refuse(update, r"the keys of this device in '.*' cannot be read: Not a directory")
    (world.state / "keys").unlink()
    world.refuse(update, "this device has no key")


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
    world.refuse(update, "this device takes nothing")


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


def spoil_nothing(state):
    return state.with_name("stat")  # mistyped


def spoil_empty(state):
    (state / "keys" / "update.pub").unlink()
    return state


def spoil_others(state):
    (state / "keys" / "update.pub").rename(state / "keys" / "update.pub.bak")
    (state / "keys" / "README").write_text("keys go here")
    (state / "keys" / ".hidden.pub").write_text("no key")
    return state


def spoil_gone(state):
    shutil.rmtree(state / "keys")
    return state


def spoil_link(state):
    shutil.rmtree(state / "keys")
    (state / "keys").symlink_to(state / "nowhere")
    return state


OPEN = {
    "mistyped": (spoil_nothing, "this device has no key: '.*stat/keys' is not there"),
    "empty": (spoil_empty, "keys' is empty: this device takes nothing"),
    "others": (spoil_others, "keys' has no key, but README, update.pub.bak: this device takes nothing"),
    "no keys": (spoil_gone, "this device has no key"),
    "a link to nothing": (spoil_link, "is a link that leads nowhere"),
}


@pytest.mark.parametrize("case", OPEN)
def test_without_a_usable_key_nothing_is_taken_signed_or_not(world, case, monkeypatch):
    spoil, message = OPEN[case]
    world.state = spoil(world.state)
    for update in (world.update("a", "b", counter=5), world.update("a", "b")):
        world.refuse(update, message)
    monkeypatch.setenv("KFDEPLOY_STATE", str(world.state))
    named, world.state = world.state, None
    world.refuse(update, message)
    with pytest.raises(UsageError, match="--unsigned that there are none"):
        apply(update, world.device, state=named, unsigned=True)
    if os.path.lexists(named / "keys"):
        with pytest.raises(UpdateError, match="is there, so this device takes only what is signed"):
            apply(update, world.device, unsigned=True)
        assert tree(world.device) == world.before
    else:
        assert apply(update, world.device, unsigned=True).key is None


def test_a_device_with_a_key_is_not_talked_out_of_it(world, monkeypatch):
    monkeypatch.setenv("KFDEPLOY_STATE", str(world.state))
    for update in (world.update("a", "b"), world.update("a", "b", counter=5)):
        with pytest.raises(UpdateError, match="is there, so this device takes only what is signed"):
            apply(update, world.device, unsigned=True)
    assert world.apply(update).counter == 5


@pytest.mark.parametrize(("curve", "name"), [(SECP256R1, "P-256"), (SECP384R1, "P-384")])
def test_keys_of_tokens_and_kms_count_too(world, curve, name):
    key = generate_private_key(curve())
    path = world.root / f"{name}.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (world.state / "keys" / f"{name}.pub").write_bytes(pem(key.public_key()))
    update = world.update("a", "b", key=path, counter=5)
    found = Update.read(update)
    turned = found.signature[:-2] + f"{int(found.signature[-2:], 16) ^ 1:02x}"
    update.write_bytes(Update(update, found.manifest, found.payloads, turned, found.signer).to_bytes())
    world.refuse(update, "was altered after it was signed")
    assert world.apply(world.update("a", "b", key=path, counter=5)).key.name == f"{name}.pub"


def test_an_update_expires(world, monkeypatch):
    update = world.update("a", "b", counter=5, expires="30d")
    assert Update.read(update).expires > when.now() + timedelta(days=29)
    later = when.now() + timedelta(days=31)
    with monkeypatch.context() as patch:
        patch.setattr(trust, "now", lambda: later)
        world.refuse(update, r"expired at 20\d\d-\d\d-\d\dT")
    world.apply(update)
    found = Update.read(world.update("b", "c", counter=6, expires="30d"))
    longer = found.manifest | {"expires": "2999-01-01T00:00:00Z"}
    found.path.write_bytes(Update(found.path, longer, found.payloads, found.signature, found.signer).to_bytes())
    world.refuse(found.path, "was altered after it was signed")
    found.path.write_bytes(Update(found.path, found.manifest | {"expires": "soon"}, found.payloads).to_bytes())
    world.refuse(found.path, "it expires at no moment")
    assert "expires" not in Update.read(sign(world.update("b", "c", expires="1d"), world.key).path).manifest


def test_a_key_expires(world, monkeypatch):
    private, made = keygen(world.root / "short", expires="10d")
    shutil.copy(made, world.state / "keys")
    update = world.update("a", "b", key=private, counter=5)
    later = when.now() + timedelta(days=11)
    with monkeypatch.context() as patch:
        patch.setattr(public, "now", lambda: later)
        world.refuse(update, r"\(short.pub\), which expired at .*, and this device takes only .* \(update.pub\)")
        (world.state / "keys" / "update.pub").unlink()
        world.refuse(update, "every key in '.*' has expired or was replaced")
    with monkeypatch.context() as patch:
        patch.setattr("kfdeploy.deploy.update.signers.now", lambda: later)
        with pytest.raises(UpdateError, match=r"short.key' expired at"):
            sign(update, private)
    assert world.apply(update).key.name == "short.pub"
    key = made.read_bytes()
    for line in (b"Expires: soon\n", b"Expires:\n", b"Expires: 2099-01-01\nExpires: 2100-01-01\n"):
        (world.state / "keys" / "short.pub").write_bytes(line + key[key.index(b"-----") :])
        world.refuse(world.update("b", "c", key=private), "does not say when it expires")


def test_what_0_1_0_left_on_a_device_is_read_as_it_is(world):
    """A key with nothing above it, a state that a user's umask made, and an update signed there."""
    key = world.state / "keys" / "update.pub"
    assert key.read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")
    update = world.update("a", "b", counter=5)
    assert "expires" not in Update.read(update).manifest
    assert world.apply(update).key == key
