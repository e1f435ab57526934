"""Keys, and what they sign."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import SECP521R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
    load_pem_private_key,
)

from kfdeploy.deploy.update.file import Update
from kfdeploy.deploy.update.keys import keygen, sign
from kfdeploy.deploy.update.public import fingerprint, load_public, pem, read_public
from kfdeploy.deploy.update.rotation import Rotation, rotate
from kfdeploy.errors import MissingDependencyError, OutputError, UpdateError, UsageError


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


def test_a_passphrase_from_the_environment_a_file_or_a_prompt(world, monkeypatch, tmp_path):
    import getpass

    monkeypatch.setenv("WORD", "a secret")
    monkeypatch.delenv("KFDEPLOY_PASSPHRASE", raising=False)
    private, public = keygen(tmp_path / "locked", passphrase="env:WORD")
    assert b"ENCRYPTED" in private.read_bytes()
    shutil.copy(public, world.state / "keys")
    word = tmp_path / "word"
    word.write_text("a secret\n")
    word.chmod(0o600)
    plain = world.update("a", "b", key=private, counter=5, passphrase="env:WORD").read_bytes()
    assert world.update("a", "b", key=private, counter=5, passphrase=f"file:{word}").read_bytes() == plain
    asked = []
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr(getpass, "getpass", lambda what: asked.append(what) or "a secret")
    assert world.update("a", "b", key=private, counter=5, passphrase="ask").read_bytes() == plain
    assert world.update("a", "b", key=private, counter=5).read_bytes() == plain  # nobody said from where
    assert asked == [f"the passphrase of '{private}': "] * 2
    monkeypatch.setenv("KFDEPLOY_PASSPHRASE", "a secret")
    assert world.update("a", "b", key=private, counter=5).read_bytes() == plain
    assert len(asked) == 2
    assert world.apply(world.root / "ab.kfu").key.name == "locked.pub"
    keygen(tmp_path / "asked", passphrase="ask")
    assert asked[2:] == [f"the passphrase of '{tmp_path / 'asked.key'}': ", "again: "]


def test_passphrases_that_are_none(world, monkeypatch, tmp_path):
    import getpass

    update, word = world.update("a", "b"), tmp_path / "word"
    word.write_text("a secret\n")
    monkeypatch.delenv("KFDEPLOY_PASSPHRASE", raising=False)
    monkeypatch.setenv("WORD", "another")
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(UpdateError, match="others may read '.*word', which has the passphrase of"):
        word.chmod(0o644)
        keygen(tmp_path / "locked", passphrase=f"file:{word}")
    word.chmod(0o600)
    private, _ = keygen(tmp_path / "locked", passphrase=f"file:{word}")
    for source, message in (
        ("env:WORD", "the passphrase of '.*locked.key' is another one"),
        ("env:NONE_OF_THESE", "in the environment variable NONE_OF_THESE, which is not set"),
        ("env:EMPTY", "is empty"),
        (f"file:{tmp_path / 'nothing'}", "cannot be read from"),
        ("ask", "there is no terminal to ask at"),
    ):
        with pytest.raises(UpdateError, match=message) as caught:
            sign(update, private, passphrase=source)
        assert caught.value.hint
    for source in ("a secret", "pass:a secret", "env:", "file:"):
        with pytest.raises(UsageError, match="cannot come from") as caught:
            sign(update, private, passphrase=source)
        assert "secret" not in str(caught.value) or source == "a secret"
    with pytest.raises(UsageError, match="has no passphrase"):
        sign(update, world.key, passphrase="env:WORD")
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    words = iter(("one", "two"))
    monkeypatch.setattr(getpass, "getpass", lambda _: next(words))
    with pytest.raises(UpdateError, match="was typed in two ways"):
        keygen(tmp_path / "asked", passphrase="ask")
    assert not list(tmp_path.glob("asked*"))
    assert Update.read(update).signature == ""


def test_a_counter_goes_on_from_the_last_whatever_the_clock_says(world, monkeypatch):
    """A clock that was once ahead leaves a high counter: what is signed here after it counts on from there."""
    now = time.time_ns()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now + 10**18)  # in thirty years
        ahead = sign(world.update("a", "b"), world.key).counter
    world.apply(world.root / "ab.kfu")
    assert sign(world.update("b", "c"), world.key).counter == ahead + 1
    world.apply(world.root / "bc.kfu")
    assert world.has("c")
    noted = world.key.with_name("update.key.last")
    for text in ("{", "[]", '{"counter": -5}', '{"counter": "9"}'):
        noted.write_text(text)
        assert now < sign(world.update("b", "c"), world.key).counter < time.time_ns()
    noted.unlink()
    # Elsewhere that is not known; the device says what helps, and it does.
    with pytest.raises(
        UpdateError, match=r"its counter is \d+ \(20\d\d-\d\d-\d\d\), and '.*' has had \d+ \(20\d\d"
    ) as caught:
        world.apply(world.update("c", "b", counter=now))
    words = caught.value.hint.split("--counter ")[1]
    world.apply(world.update("c", "b", counter=int(words.split(";")[0])))
    assert world.has("b")
    sign(world.update("b", "c"), world.key, counter=2**63 - 1)  # no time: no default goes on from it
    assert sign(world.update("b", "c"), world.key).counter < time.time_ns() + 10**18
    monkeypatch.setattr(time, "time_ns", lambda: 2**62)
    with pytest.raises(UpdateError, match="a time after 2116") as caught:
        sign(world.update("b", "c"), world.key)
    assert "--counter" in caught.value.hint


def test_days_that_are_none(world):
    for day in ("soon", "2027-13-01", "0d", "-1d", "1999-01-01", "2027-01-01T00:00", "", "1e9d"):
        with pytest.raises(UpdateError, match="is to expire at"):
            sign(world.update("a", "b"), world.key, expires=day)
        with pytest.raises(UpdateError, match="is to expire at"):
            keygen(world.root / "other", expires=day)
    assert not list(world.root.glob("other*"))


@pytest.mark.parametrize("links", [True, False])
def test_a_keygen_that_is_killed_leaves_whole_files_or_none(tmp_path, links):
    """At every file operation; also where the file system has no hard links. The next one finishes what was begun."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[2] / "helpers" / "killed_keygen.py", tmp_path, str(int(links))],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    points, halves = json.loads(done.stdout)
    assert points > 10
    assert halves >= 1  # once at least the private key was there alone


def test_a_public_key_is_made_again_of_the_private_one(tmp_path):
    private, public = keygen(tmp_path / "k", expires="9d")
    was = private.read_bytes(), public.read_bytes()
    public.unlink()
    with pytest.raises(OutputError, match=r"k\.key' is already there"):
        keygen(tmp_path / "k", expires="10d")
    keygen(tmp_path / "k")
    assert (private.read_bytes(), public.read_bytes()) == was
    private.write_bytes(b"")  # what an older version that was killed may have left
    public.unlink()
    with pytest.raises(UpdateError, match="is no private key"):
        keygen(tmp_path / "k")


class Token:
    """A key that never leaves: a signer of securesystemslib with a PIN."""

    key = Ed25519PrivateKey.generate()

    def __init__(self, secrets):
        self.secrets = secrets

    @classmethod
    def from_priv_key_uri(cls, uri, public_key, secrets_handler=None):
        if "missing" in uri:
            raise RuntimeError("no token with\nthat label")
        return cls(secrets_handler)

    def sign(self, payload):
        from securesystemslib.signer import Signature

        if self.secrets("pin") != "1234":
            raise PermissionError("the PIN is wrong")
        return Signature("", self.key.sign(payload).hex())


def test_a_key_in_a_token(world, monkeypatch):
    signer = pytest.importorskip("securesystemslib.signer")
    monkeypatch.setitem(signer.SIGNER_FOR_URI_SCHEME, "softtoken", Token)
    monkeypatch.setenv("PIN", "1234")
    public = world.root / "token.pub"
    public.write_bytes(pem(Token.key.public_key()))
    shutil.copy(public, world.state / "keys")
    options = {"key": "softtoken:slot?label=x", "public": public, "passphrase": "env:PIN", "counter": 5}
    assert world.apply(world.update("a", "b", **options)).key.name == "token.pub"
    assert world.root.joinpath("token.pub.last").is_file()
    # It changes its place with a key in a file, and back.
    statement = world.root / "statement.json"
    rotate(world.key.with_suffix(".pub"), "softtoken:slot", statement, public=public, passphrase="env:PIN")
    assert Rotation.read(statement).by(read_public(public))
    for change, error, message in (
        ({"key": "softtoken:missing"}, UpdateError, r"the key softtoken:… did not sign: no token with$"),
        ({"public": None}, UsageError, "so its public half must be named"),
        ({"public": world.root / "update.pub"}, UpdateError, "the key softtoken:… is not the one of '.*update.pub'"),
        ({"key": "nothing:here"}, UsageError, "nothing signs with 'nothing:'"),
        ({"passphrase": "env:HOME"}, UpdateError, "did not sign: the PIN is wrong"),
        ({"passphrase": "env:NONE_OF_THESE"}, UpdateError, "the pin of softtoken:… is to be in the environment"),
        ({"key": world.key, "passphrase": None}, UsageError, "leave --public out|has its public half"),
    ):
        with pytest.raises(error, match=message):
            world.update("b", "c", **(options | change))


def test_a_key_in_a_file_through_securesystemslib(world):
    pytest.importorskip("securesystemslib.signer")
    key = ec.generate_private_key(ec.SECP256R1())
    path, public = world.root / "curve.pem", world.root / "curve.pub"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(pem(key.public_key()))
    shutil.copy(public, world.state / "keys")
    assert world.apply(world.update("a", "b", key=f"file2:{path}", public=public, counter=5)).key.name == "curve.pub"


def test_without_securesystemslib_there_are_no_tokens(world, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "securesystemslib" else find(name, *a)
    )
    with pytest.raises(MissingDependencyError, match="signing with a token or a KMS needs securesystemslib") as caught:
        world.update("a", "b", key="awskms:x", public=world.root / "update.pub")
    assert caught.value.hint == 'pip install "kfdeploy[sign]"'


@pytest.mark.slow
def test_a_key_in_softhsm(world, monkeypatch, tmp_path):
    """PKCS#11 with SoftHSM: where its library and python-pkcs11 are (SOFTHSM2_LIB and SOFTHSM2_UTIL say where else)."""
    pkcs11 = pytest.importorskip("pkcs11")
    pytest.importorskip("securesystemslib.signer")
    library = os.environ.get("SOFTHSM2_LIB", "/usr/lib/softhsm/libsofthsm2.so")
    tool = os.environ.get("SOFTHSM2_UTIL") or shutil.which("softhsm2-util")
    if not Path(library).is_file() or tool is None:
        pytest.skip("SoftHSM is not installed")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm.conf").write_text(
        f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n"
    )
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm.conf"))
    monkeypatch.setenv("PYKCS11LIB", library)
    monkeypatch.setenv("PIN", "123456")
    init = [
        tool,
        "--init-token",
        "--free",
        "--label",
        "field",
        "--pin",
        "123456",
        "--so-pin",
        "123456",
        "--module",
        library,
    ]
    subprocess.run(init, check=True, capture_output=True)
    token = pkcs11.lib(library).get_token(token_label="field")
    with token.open(rw=True, user_pin="123456") as session:
        curve = pkcs11.util.ec.encode_named_curve_parameters("secp256r1")
        parameters = session.create_domain_parameters(
            pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: curve}, local=True
        )
        made, _ = parameters.generate_keypair(store=True, label="k", id=b"\2")
        key = load_der_public_key(pkcs11.util.ec.encode_ec_public_key(made))
    public = world.root / "hsm.pub"
    public.write_bytes(pem(key))
    shutil.copy(public, world.state / "keys")
    update = world.update("a", "b", key="hsm:2?label=field", public=public, passphrase="env:PIN", counter=5)
    assert world.apply(update).key.name == "hsm.pub"
