"""Keys, and what they sign."""

import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP521R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from kfdeploy.deploy.update.file import Update
from kfdeploy.deploy.update.keys import keygen, sign
from kfdeploy.deploy.update.public import fingerprint, load_public
from kfdeploy.errors import OutputError, UpdateError


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
        (
            key.private_bytes(*secret, BestAvailableEncryption(b"secret")),
            "the passphrase of '.*' is needed, and there is no terminal",
        ),
        (generate_private_key(SECP521R1()).private_bytes(*secret, NoEncryption()), "but not an ed25519 one"),
        ((world.root / "update.pub").read_bytes(), "it is not PEM"),
    ):
        path.write_bytes(data)
        with pytest.raises(UpdateError, match=message):
            sign(update, path)
    assert Update.read(update).signature == ""
