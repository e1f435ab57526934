"""What a device remembers outside its assemblies: whose updates it takes, and how far it has come.

    STATE/keys/*.pub       a device with one takes nothing unsigned, and nothing signed by another
    STATE/counters/*.json  of each assembly the counter of the last signed update, so that an older one is refused

An assembly is known by its pool's name and its own, wherever it lies: a copy, or one that was moved, has come as far.

STATE is what `--state` says, else `KFDEPLOY_STATE`, else `kfdeploy` in the user's state folder (XDG_STATE_HOME).
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfdeploy.deploy.model import Model
from kfdeploy.deploy.update.file import Update
from kfdeploy.errors import UpdateError
from kfdeploy.files import dump_json, file_name
from kfdeploy.manifest import read_manifest, stamp
from kfdeploy.reading import LARGEST
from kfdeploy.writing import place_errors, replacing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def state_folder(state: str | Path | None = None) -> Path:
    """Return the device's state folder; it need not exist.

    Raises:
        UpdateError: nobody says where the user's folder is.
    """
    if state is not None:
        return Path(state)
    if given := os.environ.get("KFDEPLOY_STATE"):
        return Path(given)
    home = os.environ.get("XDG_STATE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".local" / "state") / "kfdeploy"
    except RuntimeError as error:
        raise UpdateError(
            f"there is no place for what this device remembers: {error}", hint="name it with --state, or KFDEPLOY_STATE"
        ) from None


@dataclass(frozen=True)
class DeviceState:
    """A device's state folder."""

    state: Path

    def keys(self) -> "dict[str, tuple[Path, Ed25519PublicKey]]":
        """Return the public keys it trusts, by fingerprint.

        Raises:
            UpdateError: the folder or a key in it cannot be read; that is not the same as having none.
            MissingDependencyError: it has keys, and `cryptography` is not installed.
        """
        from kfdeploy.deploy.update.keys import fingerprint, load_public

        folder = self.state / "keys"
        try:
            paths = sorted(folder / name for name in os.listdir(folder) if name.endswith(".pub"))  # noqa: PTH208 - glob is silent where it may not look
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UpdateError(
                f"the keys of this device in '{folder}' cannot be read: {error.strerror}",
                hint="run this as the user who may, or name another --state",
            ) from None
        keys = [(path, load_public(path)) for path in paths]
        return {fingerprint(key): (path, key) for path, key in keys}

    def check(self, update: Update, assembly: Model) -> Path | None:
        """Refuse an update that this device should not take; return the key it is signed by, None where it has no key.

        Raises:
            UpdateError: it is not signed, not by a key this device trusts, was altered, or is an older one.
            MissingDependencyError: it has keys, and `cryptography` is not installed.
        """
        keys = self.keys()
        if not keys:
            return None
        from cryptography.exceptions import InvalidSignature

        trusted = ", ".join(f"{name} ({path.name})" for name, (path, _) in keys.items())
        if not update.signature or update.counter is None:
            raise UpdateError(
                f"'{update.path}' is not signed, and this device takes only what is signed by {trusted}",
                hint=f"kfdeploy sign {update.path} --key …",
            )
        if update.signer not in keys:
            raise UpdateError(
                f"'{update.path}' is signed by {update.signer!r:.40}, and this device takes only what is signed by "
                f"{trusted}",
                hint=f"sign it with that key, or put the other's .pub in '{self.state / 'keys'}'",
            )
        path, key = keys[update.signer]
        try:
            key.verify(bytes.fromhex(update.signature), update.message)
        except (InvalidSignature, ValueError):
            raise UpdateError(
                f"'{update.path}' was altered after it was signed: its signature by {path.name} does not fit",
                hint="copy the update again; if that does not help, do not use it",
            ) from None
        self._check_counter(update, update.counter, assembly)
        return path

    def remember(self, update: Update, assembly: Model) -> None:
        """Write down, on the disk, that this signed update is the newest; `check` it first.

        Raises:
            OutputError: the state folder cannot be written to.
        """
        record = {
            **stamp("counter"),
            "assembly": assembly.name,
            "pool": _pool(assembly),
            "counter": update.counter,
            "update": update.identity,
        }
        path = self._record(assembly)
        hint = "name another --state, or free some space; the model is as it was"
        with place_errors(path, hint), replacing(path) as stream:
            stream.write(dump_json(record).encode())

    def _check_counter(self, update: Update, counter: int, assembly: Model) -> None:
        # The last by lineage, and by place, as 0.1.0 wrote it.
        for path in (self._record(assembly), self._record_of_place(assembly.path)):
            try:
                path.stat()
            except FileNotFoundError:
                continue
            except OSError:
                pass  # reading says what is wrong
            record: dict[str, Any] = read_manifest(path, "counter", "mend it, or remove it to start from nothing")
            last, who = record.get("counter"), record.get("update")
            if not isinstance(last, int):
                raise UpdateError(f"'{path}' holds no counter", hint="mend it, or remove it to start from nothing")
            fresh = (
                f"make a fresh one (kfdeploy diff), and sign it with a counter above that: kfdeploy sign … --counter "
                f"{last + 1}"
                if last < LARGEST
                else f"no counter is above that: make sure that nobody else has the key, then remove '{path}'"
            )
            # The very same update may come again: after a rollback, or after a power cut.
            if counter < last:
                raise UpdateError(
                    f"'{update.path}' is an older update: its counter is {counter}, and '{assembly.path}' has had "
                    f"{last}",
                    hint=fresh,
                )
            if counter == last and who != update.identity:
                raise UpdateError(
                    f"'{update.path}' has the counter {counter}, and '{assembly.path}' has had another update with it",
                    hint=fresh,
                )

    def _record(self, assembly: Model) -> Path:
        """Where the counter of an assembly is: told apart by its pool's name and its own."""
        short = hashlib.sha256(f"{_pool(assembly)}\0{assembly.name}".encode()).hexdigest()[:12]
        return self.state / "counters" / f"{file_name(assembly.name)[:80]}-{short}.json"

    def _record_of_place(self, assembly: Path) -> Path:
        place = Path(os.path.realpath(assembly))
        short = hashlib.sha256(os.fsencode(place)).hexdigest()[:12]
        return self.state / "counters" / f"{file_name(place.name)[:80]}-{short}.json"


def _pool(assembly: Model) -> str:
    return str((assembly.source or {}).get("name", ""))
