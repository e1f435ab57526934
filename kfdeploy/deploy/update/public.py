"""Public keys: what a device checks signatures with. ed25519, or ECDSA on P-256 or P-384, which tokens and KMS have.

A key is a PEM file. A line `Expires: 2027-01-31T00:00:00Z` above it says until when it counts; other readers of PEM,
and kfdeploy 0.1.0, pass over it.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Union

from kfdeploy.deploy.update.when import moment, now, written
from kfdeploy.errors import UpdateError, require
from kfdeploy.reading import MOST_TEXT, read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PublicKey = Union["Ed25519PublicKey", "EllipticCurvePublicKey"]
PAIR = "kfdeploy keygen makes a pair"
_CURVES = {"secp256r1": 256, "secp384r1": 384}
_EXPIRES = re.compile(rb"^Expires:[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)


@dataclass(frozen=True)
class Public:
    """A public key, where it came from, and until when it counts."""

    path: Path
    key: PublicKey
    expires: datetime | None

    @property
    def name(self) -> str:
        """Its fingerprint."""
        return fingerprint(self.key)

    @property
    def expired(self) -> bool:
        """Whether its day has passed."""
        return self.expires is not None and self.expires <= now()

    def verifies(self, signature: str, message: bytes) -> bool:
        """Return whether a signature, in hexadecimal digits, is this key's over the message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.hashes import SHA256, SHA384

        try:
            given = bytes.fromhex(signature)
            if isinstance(self.key, Ed25519PublicKey):
                self.key.verify(given, message)
            else:
                hashed = SHA256() if _CURVES[self.key.curve.name] == 256 else SHA384()
                self.key.verify(given, message, ECDSA(hashed))
        except (InvalidSignature, ValueError):
            return False
        return True


def load_public(path: Path) -> PublicKey:
    """Return the public key in a PEM file; see `read_public`."""
    return read_public(path).key


def read_public(path: Path) -> Public:
    """Return the public key in a PEM file, and until when it counts.

    Raises:
        UpdateError: it cannot be read, is of another kind, or says when it expires in words that are no day.
        MissingDependencyError: `cryptography` is not installed.
    """
    require("cryptography", "sign", "checking a signature")
    try:
        data = read_regular(path, MOST_TEXT)
    except OSError as error:
        raise _no_key(path, error.strerror or str(error)) from None
    return public_of(data, path)


def public_of(data: bytes, path: Path) -> Public:
    """Return the public key in the bytes of a PEM file; see `read_public`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise _no_key(path, "it is not PEM of a known kind") from None
    good = isinstance(key, Ed25519PublicKey) or (isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES)
    if not good:
        raise UpdateError(
            f"'{path}' is a public key, but not an ed25519 one", allowed=["ed25519", "ECDSA P-256", "P-384"], hint=PAIR
        )
    assert isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey)
    return Public(path, key, expiry_in(data, path))


def expiry_in(data: bytes, path: Path) -> datetime | None:
    """Return the moment that stands above a key, or None where none does.

    Raises:
        UpdateError: what stands there is none, or it stands there twice.
    """
    found = _EXPIRES.findall(data)
    if not found:
        return None
    when = moment(found[0].decode("utf-8", "replace")) if len(found) == 1 else None
    if when is None:
        raise UpdateError(
            f"'{path}' does not say when it expires: {found[0].decode('utf-8', 'replace')!r:.40}",
            hint="one line above the key: Expires: 2027-01-31T00:00:00Z",
        )
    return when


def pem(key: PublicKey, expires: datetime | None = None) -> bytes:
    """Return the bytes of a PEM file with a public key."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return headed(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), expires)


def headed(data: bytes, expires: datetime | None) -> bytes:
    """Return a PEM file's bytes with the line that says when it expires."""
    return data if expires is None else f"Expires: {written(expires)}\n".encode() + data


def fingerprint(key: PublicKey) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a public key: its name among people."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if isinstance(key, Ed25519PublicKey):
        data = key.public_bytes_raw()
    else:
        data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(data).hexdigest()[:16]


def _no_key(path: Path, why: str) -> UpdateError:
    return UpdateError(f"'{path}' is no public key that can be used: {why}", hint=PAIR)
