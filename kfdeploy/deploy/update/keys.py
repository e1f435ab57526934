"""Keys: an ed25519 pair, the private half where updates are made, the public half on every device that takes them."""

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kfdeploy.deploy.update.file import Update
from kfdeploy.errors import OutputError, UpdateError, require
from kfdeploy.outputs import check_place
from kfdeploy.reading import LARGEST, MOST_TEXT, read_regular
from kfdeploy.writing import place_errors, replacing, write_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


_PAIR = "kfdeploy keygen makes a pair"


def keygen(name: str | Path = "update") -> tuple[Path, Path]:
    """Make a pair of keys: `name.key` (private, readable by its owner alone) and `name.pub`; return both paths.

    Raises:
        OutputError: one of them is there already, or cannot be written.
        MissingDependencyError: `cryptography` is not installed.
    """
    require("cryptography", "sign", "making keys")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    if Path(name).name in ("", ".."):
        raise OutputError(f"'{name}' is no name of a key", hint="kfdeploy keygen update")
    private, public = Path(f"{name}.key"), Path(f"{name}.pub")
    for path in (private, public):
        if path.exists():
            raise OutputError(
                f"'{path}' is already there, and a key that is lost cannot be made again",
                hint="choose another name: kfdeploy keygen NAME",
            )
        check_place(path, force=True)
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    opened = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with place_errors(private, "choose another place"):
        try:
            # Never readable by others, not even for the moment between making it and changing its mode.
            with replacing(private, new=True, mode=0o600) as stream:
                stream.write(secret)
            try:
                with replacing(public, new=True) as stream:
                    stream.write(opened)
            except BaseException:
                private.unlink(missing_ok=True)
                raise
        except FileExistsError as error:
            raise OutputError(
                f"'{error.filename2 or error.filename}' was made by another process meanwhile",
                hint="choose another name: kfdeploy keygen NAME",
            ) from None
    return private, public


def sign(
    update: str | Path,
    key: str | Path,
    *,
    counter: int | None = None,
    out: str | Path | None = None,
    force: bool = False,
) -> Update:
    """Sign an update, in place or as `out`; a signature that it has is replaced.

    `counter` must grow from one update to the next, as a device refuses one that is older than its last; the default
    is the time, in nanoseconds since 1970.

    Raises:
        UpdateError: it is no update, the key is no private ed25519 key, or the counter is not a count.
        OutputError: `out` is there and `force` is not set, or cannot be written to.
        MissingDependencyError: `cryptography` is not installed.
    """
    counter = time.time_ns() if counter is None else counter
    if not 0 <= counter <= LARGEST:
        raise UpdateError(f"the counter is {counter}", allowed=[f"0 … {LARGEST}"], hint="leave it out to use the time")
    private = load_private(Path(key))
    if out is not None:
        check_place(Path(out), force=force)
    found = Update.read(update)
    found.check()
    counted = found.counted(counter)
    signed = counted.signed(private.sign(counted.message), fingerprint(private.public_key()))
    write_file(found.path if out is None else Path(out), signed.to_bytes())
    return signed


def load_private(path: Path) -> "Ed25519PrivateKey":
    """Return the private key in a PEM file.

    Raises:
        UpdateError: it is missing, or none without a passphrase, or of another kind.
        MissingDependencyError: `cryptography` is not installed.
    """
    require("cryptography", "sign", "signing an update")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(read_regular(path, MOST_TEXT), None)
    except FileNotFoundError:
        raise UpdateError(f"there is no key at '{path}'", hint=_PAIR) from None
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UpdateError(f"'{path}' is no private key that can be used: {_why(error)}", hint=_PAIR) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UpdateError(f"'{path}' is a private key, but not an ed25519 one", hint=_PAIR)
    return key


def load_public(path: Path) -> "Ed25519PublicKey":
    """Return the public key in a PEM file.

    Raises:
        UpdateError: it cannot be read, or is of another kind.
        MissingDependencyError: `cryptography` is not installed.
    """
    require("cryptography", "sign", "checking a signature")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(read_regular(path, MOST_TEXT))
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise UpdateError(f"'{path}' is no public key that can be used: {_why(error)}", hint=_PAIR) from None
    if not isinstance(key, Ed25519PublicKey):
        raise UpdateError(f"'{path}' is a public key, but not an ed25519 one", hint=_PAIR)
    return key


def fingerprint(key: "Ed25519PublicKey") -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a public key: its name among people."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it has a passphrase" if isinstance(error, TypeError) else "it is not PEM of a known kind"
