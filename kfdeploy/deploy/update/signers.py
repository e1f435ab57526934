"""What signs: a private key in a file, with a passphrase or without, or a key that never leaves a token or a KMS.

The latter are named by a URI, such as `awskms:…`, `gcpkms:…`, `azurekms:…` or `hsm:2?label=…` (PKCS#11), and reached
through securesystemslib, whose documentation has their forms. A passphrase or a PIN comes from a prompt, an environment
variable or a file, never from the command line, where everybody on the machine could read it.
"""

import os
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfdeploy.deploy.update.public import PAIR, Public, PublicKey, expiry_in, fingerprint, read_public
from kfdeploy.deploy.update.when import now, written
from kfdeploy.errors import KfdeployError, UpdateError, UsageError, first_line, require
from kfdeploy.reading import MOST_TEXT, read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PASSPHRASE = "KFDEPLOY_PASSPHRASE"
SOURCES = ("ask", "env:NAME", "file:PATH")
_URI = re.compile(r"[a-z][a-z0-9+.-]+:")  # of two letters at least: C: is a disk


@dataclass(frozen=True)
class Signing:
    """A key that signs: its public half, and where its last counter is noted."""

    public: PublicKey
    sign: Callable[[bytes], bytes]
    beside: Path  # a file of it that is on this machine

    @property
    def name(self) -> str:
        """Its fingerprint."""
        return fingerprint(self.public)


def open_signer(key: str | Path, *, passphrase: str | None = None, public: Path | None = None) -> Signing:
    """Return what signs with a private key in a file, or by a URI, for which its `public` half must be at hand.

    Raises:
        UpdateError: there is no such key, it is of another kind, it has expired, or its passphrase is wrong.
        UsageError: a URI came without the public key, or a file with one.
        MissingDependencyError: `cryptography`, or for a URI `securesystemslib`, is not installed.
    """
    require("cryptography", "sign", "signing an update")
    if isinstance(key, str) and _URI.match(key) and not Path(key).exists():
        return _token(key, passphrase, public)
    if public is not None:
        raise UsageError(f"'{key}' is a key in a file, and has its public half", hint="leave --public out")
    return _file(Path(key), passphrase)


def secret(source: str | None, what: str, *, twice: bool = False) -> bytes:
    """Return a passphrase or a PIN: from where `source` says, else from KFDEPLOY_PASSPHRASE, else from a prompt.

    Raises:
        UpdateError: it is not there, is empty, or others may read its file.
        UsageError: there is no such source.
    """
    if source is None:
        source = f"env:{PASSPHRASE}" if PASSPHRASE in os.environ else "ask"
    kind, _, name = source.partition(":")
    if source == "ask":
        found = _asked(what, twice)
    elif kind == "env" and name:
        if name not in os.environ:
            raise UpdateError(f"{what} is to be in the environment variable {name}, which is not set", hint="set it")
        found = os.environb[os.fsencode(name)] if hasattr(os, "environb") else os.environ[name].encode()
    elif kind == "file" and name:
        found = _from_file(Path(name), what)
    else:
        raise UsageError(f"{what} cannot come from '{kind}'", allowed=SOURCES, hint="it is never on the command line")
    if not found:
        raise UpdateError(f"{what} is empty", hint="choose one, or leave --passphrase out")
    return found


def _asked(what: str, twice: bool) -> bytes:
    import getpass

    if not sys.stdin.isatty():
        raise UpdateError(
            f"{what} is needed, and there is no terminal to ask at",
            hint=f"--passphrase env:NAME or file:PATH, or set {PASSPHRASE}",
        )
    found = getpass.getpass(f"{what}: ")
    if twice and getpass.getpass("again: ") != found:
        raise UpdateError(f"{what} was typed in two ways", hint="try it again")
    return found.encode()


def _from_file(path: Path, what: str) -> bytes:
    try:
        mode = path.stat().st_mode
        data = read_regular(path, MOST_TEXT)
    except OSError as error:
        raise UpdateError(f"{what} cannot be read from '{path}': {error.strerror}", hint="name its file") from None
    if os.name != "nt" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UpdateError(f"others may read '{path}', which has {what}", hint=f"chmod 600 '{path}'")
    return data.rstrip(b"\r\n")


def _file(path: Path, passphrase: str | None) -> Signing:
    key, expires = load_private(path, passphrase)
    if expires is not None and expires <= now():
        raise UpdateError(
            f"the key '{path}' expired at {written(expires)}: no device takes what it signs",
            hint="make another (kfdeploy keygen) and bring its .pub to the devices: docs/updates.md",
        )
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256, SHA384

    if isinstance(key, Ed25519PrivateKey):
        return Signing(key.public_key(), key.sign, path)
    hashed = SHA256() if key.curve.key_size == 256 else SHA384()
    return Signing(key.public_key(), lambda message: key.sign(message, ECDSA(hashed)), path)


def load_private(
    path: Path, passphrase: str | None = None
) -> "tuple[Ed25519PrivateKey | EllipticCurvePrivateKey, datetime | None]":
    """Return the private key in a PEM file, and until when it counts; a passphrase is asked for where it has one.

    Raises:
        UpdateError: it is missing, or of another kind, or the passphrase is wrong.
        MissingDependencyError: `cryptography` is not installed.
    """
    require("cryptography", "sign", "signing an update")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        data = read_regular(path, MOST_TEXT)
        try:
            key: Any = load_pem_private_key(data, None)
        except TypeError:  # it has a passphrase
            key = _decrypted(path, data, passphrase)
        else:
            if passphrase is not None:
                raise UsageError(f"'{path}' has no passphrase", hint="leave --passphrase out")
    except FileNotFoundError:
        raise UpdateError(f"there is no key at '{path}'", hint=PAIR) from None
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not PEM of a known kind"
        raise UpdateError(f"'{path}' is no private key that can be used: {why}", hint=PAIR) from None
    if isinstance(key, EllipticCurvePrivateKey) and key.curve.key_size in (256, 384) and key.curve.name[-2:] == "r1":
        return key, expiry_in(data, path)
    if not isinstance(key, Ed25519PrivateKey):
        raise UpdateError(f"'{path}' is a private key, but not an ed25519 one", hint=PAIR)
    return key, expiry_in(data, path)


def _decrypted(path: Path, data: bytes, passphrase: str | None) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    given = secret(passphrase, f"the passphrase of '{path}'")
    try:
        return load_pem_private_key(data, given)
    except ValueError:
        raise UpdateError(f"the passphrase of '{path}' is another one", hint="try it again") from None


def _token(uri: str, passphrase: str | None, public: Path | None) -> Signing:
    """Return what signs with a key that stays where it is."""
    require("securesystemslib", "sign", "signing with a token or a KMS")
    scheme = uri.partition(":")[0]
    if public is None:
        raise UsageError(
            f"the key {scheme}:… stays where it is, so its public half must be named",
            hint="--public update.pub: the PEM file that the devices have",
        )
    from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, Signer, SSlibKey

    if scheme not in SIGNER_FOR_URI_SCHEME:
        raise UsageError(f"nothing signs with '{scheme}:'", allowed=sorted(SIGNER_FOR_URI_SCHEME))
    known: Public = read_public(public)
    if known.expired:
        raise UpdateError(
            f"the key '{public}' expired: no device takes what it signs",
            hint="make another, and bring it to the devices: docs/updates.md",
        )

    def sign(message: bytes) -> bytes:
        try:
            about = SSlibKey.from_crypto(known.key)
            signer = Signer.from_priv_key_uri(
                uri, about, lambda what: secret(passphrase, f"the {what} of {scheme}:…").decode()
            )
            signature = signer.sign(message).signature
        except KfdeployError:
            raise
        except Exception as error:  # every kind of token has errors of its own
            raise UpdateError(
                f"the key {scheme}:… did not sign: {first_line(error)}", hint="securesystemslib documents what it needs"
            ) from None
        if not known.verifies(signature, message):
            raise UpdateError(
                f"the key {scheme}:… is not the one of '{public}'", hint="name the public key that belongs to it"
            )
        return bytes.fromhex(signature)

    return Signing(known.key, sign, public)
