"""Keys and signatures: a pair of keys, the private half where updates are made, the public half on every device."""

import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from kfdeploy.deploy.update.file import Update
from kfdeploy.deploy.update.public import headed, pem
from kfdeploy.deploy.update.signers import Signing, load_private, open_signer, secret
from kfdeploy.deploy.update.when import moment, until
from kfdeploy.errors import OutputError, UpdateError, require
from kfdeploy.files import dump_json
from kfdeploy.locks import lock
from kfdeploy.outputs import check_place
from kfdeploy.reading import LARGEST, MOST_TEXT, read_regular
from kfdeploy.writing import TOKEN, make_folder, place_errors, replacing, stem, write_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_MOST_TIME = 2**62  # nanoseconds since 1970: in the year 2116


def keygen(
    name: str | Path = "update", *, passphrase: str | None = None, expires: str | None = None
) -> tuple[Path, Path]:
    """Make a pair of keys: `name.key` (private, readable by its owner alone) and `name.pub`; return both paths.

    `passphrase` says where one comes from: "ask", "env:NAME" or "file:PATH"; without it the key has none. `expires` is
    a day, or "90d". Both files are whole or absent whatever ends the process, and nothing is ever overwritten: where
    the private key is there without the public one, the latter is made of it.

    Raises:
        OutputError: they are there already, or cannot be written.
        UpdateError: there is no passphrase where it is said to be, or the day is none.
        MissingDependencyError: `cryptography` is not installed.
    """
    require("cryptography", "sign", "making keys")
    if Path(name).name in ("", ".."):
        raise OutputError(f"'{name}' is no name of a key", hint="kfdeploy keygen update")
    private, public = Path(f"{name}.key"), Path(f"{name}.pub")
    taken = [path for path in (private, public) if os.path.lexists(path)]
    if taken and (taken != [private] or expires is not None):
        raise OutputError(
            f"'{taken[0]}' is already there, and a key that is lost cannot be made again",
            hint="choose another name: kfdeploy keygen NAME",
        )
    for path in (private, public):
        check_place(path, force=True)
    day = None if expires is None else until(expires, "the key")
    with place_errors(private, "choose another place"):
        make_folder(private.parent)
        with lock(private):
            _sweep(private, public)
            try:
                if taken:
                    key, when = load_private(private, passphrase)
                else:
                    key, when = _write_private(private, passphrase, day), moment(day)
                try:
                    with replacing(public, new=True) as stream:
                        stream.write(pem(key.public_key(), when))
                except BaseException:
                    if not taken:
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
    expires: str | None = None,
    passphrase: str | None = None,
    public: Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
) -> Update:
    """Sign an update, in place or as `out`; a signature that it has is replaced.

    `key` is the file of a private key, or the URI of one in a token or a KMS, whose `public` half is then named.
    `counter` must grow from one update to the next, as a device refuses one that is older than its last; the default is
    the time, in nanoseconds since 1970, and never less than one more than the last that this key has signed here (it is
    noted in `<key>.last`). `expires` is the day from which on no device takes it any more.

    Raises:
        UpdateError: it is no update, the key is none that can be used, or the counter is not a count.
        OutputError: `out` is there and `force` is not set, or cannot be written to.
        MissingDependencyError: `cryptography` is not installed, or securesystemslib for a token.
    """
    if counter is not None and not 0 <= counter <= LARGEST:
        raise UpdateError(f"the counter is {counter}", allowed=[f"0 … {LARGEST}"], hint="leave it out to use the time")
    day = None if expires is None else until(expires, "the update")
    signer = open_signer(key, passphrase=passphrase, public=public)
    if out is not None:
        check_place(Path(out), force=force)
    found = Update.read(update)
    found.check()
    last = _last(signer)
    if counter is None:
        counter = max(time.time_ns(), last + 1)
        if counter >= _MOST_TIME:
            raise UpdateError(
                f"the counter would be {counter}, a time after 2116, and no device took a true one again",
                hint="set this machine's clock, or say --counter",
            )
    stated = found.stated(counter, day)
    signed = stated.signed(signer.sign(stated.message), signer.name)
    if last < counter < _MOST_TIME:  # what somebody has chosen above that is no time, and no default goes on from it
        _note(signer, counter)
    write_file(found.path if out is None else Path(out), signed.to_bytes())
    return signed


def _write_private(path: Path, passphrase: str | None, day: str | None) -> "Ed25519PrivateKey":
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    how = (
        NoEncryption()
        if passphrase is None
        else BestAvailableEncryption(secret(passphrase, f"the passphrase of '{path}'", twice=True))
    )
    key = Ed25519PrivateKey.generate()
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)
    # Never readable by others, not even for the moment between making it and changing its mode.
    with replacing(path, new=True, mode=0o600) as stream:
        stream.write(headed(data, moment(day)))
    return key


def _sweep(*paths: Path) -> None:
    """Remove what a killed keygen has left beside its files: it may hold a private key."""
    for path in paths:
        known = re.compile(re.escape(stem(path)) + rf"\.{TOKEN}\.partial")
        for entry in path.absolute().parent.iterdir():
            if known.fullmatch(entry.name) and entry.is_file() and not entry.is_symlink():
                entry.unlink(missing_ok=True)


def _noted(signer: Signing) -> Path:
    return signer.beside.with_name(f"{signer.beside.name}.last")


def _last(signer: Signing) -> int:
    """Return the highest counter that this key has signed on this machine, or -1."""
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads(read_regular(_noted(signer), MOST_TEXT))
        value = found.get("counter") if found.get("key") == signer.name else None
        if type(value) is int and 0 <= value < _MOST_TIME:
            return value
    return -1


def _note(signer: Signing, counter: int) -> None:
    """Note the highest counter beside the key; where that cannot be written, the clock alone counts."""
    with suppress(OSError):
        if not _noted(signer).is_symlink():
            with replacing(_noted(signer)) as stream:
                stream.write(dump_json({"counter": counter, "key": signer.name}).encode())
