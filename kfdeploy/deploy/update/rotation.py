"""Changing the key that devices trust: a statement, signed by the old key, that another one takes its place.

A device keeps it in STATE/rotations/<the old key's fingerprint>.json. Its keys are those in STATE/keys and those that a
chain of such statements leads to from there, without those that were replaced: the file is the whole change, and proves
itself whenever it is read. A key is replaced once; the first statement counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kfdeploy.deploy.update.file import canonical
from kfdeploy.deploy.update.public import Public, pem, public_of, read_public
from kfdeploy.deploy.update.signers import open_signer
from kfdeploy.errors import PoolError, UpdateError
from kfdeploy.files import dump_json
from kfdeploy.manifest import parse_manifest, stamp
from kfdeploy.outputs import check_place
from kfdeploy.reading import MOST_TEXT, open_regular, read_named
from kfdeploy.writing import write_file

_MAKE = "kfdeploy rotate NEW.pub --key OLD.key"


@dataclass(frozen=True)
class Rotation:
    """What a key says of the one that takes its place."""

    path: Path
    about: Mapping[str, Any]
    signature: str

    @property
    def old(self) -> str:
        """The fingerprint of the key that signed it, and goes."""
        return str(self.about["old"])

    @cached_property
    def new(self) -> Public:
        """The key that comes."""
        return public_of(str(self.about["new"]).encode(), self.path)

    @property
    def data(self) -> bytes:
        """The file; the same statement gives the same bytes."""
        return dump_json({**stamp("rotation"), "rotation": self.about, "signature": self.signature}).encode()

    def by(self, key: Public) -> bool:
        """Return whether this key made the statement."""
        return key.name == self.old and key.verifies(self.signature, canonical(self.about))

    @classmethod
    def read(cls, path: Path) -> "Rotation":
        """Read a statement; nothing of it is trusted yet.

        Raises:
            UpdateError: it is none, or not whole.
        """
        data = read_named(path, f"there is no file at '{path}'", _MAKE, error=UpdateError, most=MOST_TEXT)
        try:
            whole = parse_manifest(data, str(path), ("rotation",), _MAKE)
        except PoolError as error:
            raise UpdateError(error.what, allowed=error.allowed, hint=error.hint) from None
        about, signature = whole.get("rotation"), whole.get("signature")
        texts = [about.get(key) for key in ("old", "new")] if isinstance(about, dict) else [None]
        if not all(isinstance(text, str) for text in (*texts, signature)) or about.get("kind") != "rotation":  # type: ignore[union-attr]
            raise UpdateError(f"'{path}' is not the whole of a rotation", hint=f"copy it again, or make it: {_MAKE}")
        found = cls(path, about or {}, str(signature))
        _ = found.new
        return found


def is_rotation(path: Path) -> bool:
    """Return whether a file begins as one does: an update has its length there, which is never so large."""
    try:
        with open_regular(path) as stream:
            begin = stream.read(8)
    except OSError:
        return False
    return begin[:1] == b"{" and len(begin) == 8 and begin[7] != 0


def rotate(
    new: str | Path,
    key: str | Path,
    out: str | Path = "rotation.json",
    *,
    passphrase: str | None = None,
    public: Path | None = None,
    force: bool = False,
) -> Rotation:
    """Let the old private `key` say that the public key in `new` takes its place; written to `out`, for `apply`.

    Raises:
        UpdateError: a key is none that can be used, has expired, or they are the same.
        OutputError: `out` is there and `force` is not set, or cannot be written to.
        MissingDependencyError: `cryptography` is not installed, or securesystemslib for a token.
    """
    from kfdeploy.version import __version__

    check_place(Path(out), force=force)
    comes = read_public(Path(new))
    if comes.expired:
        raise UpdateError(f"the key '{new}' has expired", hint="kfdeploy keygen makes another")
    signer = open_signer(key, passphrase=passphrase, public=public)
    if comes.name == signer.name:
        raise UpdateError(f"'{new}' is the public half of the same key", hint="kfdeploy keygen NAME makes another")
    about = {
        **stamp("rotation"),
        "version": __version__,
        "old": signer.name,
        "new": pem(comes.key, comes.expires).decode(),
    }
    found = Rotation(Path(out), about, signer.sign(canonical(about)).hex())
    write_file(Path(out), found.data)
    return found
