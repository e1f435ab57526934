"""What a device remembers outside its assemblies: whose updates it takes, and how far it has come.

    STATE/keys/*.pub         the keys it trusts: it takes nothing unsigned, and nothing signed by another
    STATE/rotations/*.json   keys that were replaced, and by which: statements signed by the old ones; see `rotation`
    STATE/counters/*.json    of each lineage the counters of the signed updates that it took; see `counters`

STATE is what `--state` says, else `KFDEPLOY_STATE`, else `kfdeploy` in the user's state folder (XDG_STATE_HOME).
Without a key that can be used nothing is taken: that a device has none, and takes whatever is whole, must be said
(`unsigned`), and cannot be where a state folder is named or has `keys`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kfdeploy.deploy.model import Model
from kfdeploy.deploy.update.counters import Counters
from kfdeploy.deploy.update.file import Update
from kfdeploy.deploy.update.owned import require_own
from kfdeploy.deploy.update.public import Public, read_public
from kfdeploy.deploy.update.rotation import Rotation
from kfdeploy.deploy.update.when import now, written
from kfdeploy.errors import UpdateError, UsageError
from kfdeploy.writing import place_errors, replacing


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


def device_of(state: str | Path | None, *, unsigned: bool = False) -> "DeviceState":
    """Return the device whose state folder that is; with `unsigned`, it must have no keys, and is not named.

    Raises:
        UsageError: both are said.
        UpdateError: it has a folder `keys`, or cannot be looked at.
    """
    if unsigned and state is not None:
        raise UsageError(
            f"--state names '{state}', whose keys say what is taken, and --unsigned that there are none",
            hint="leave out one of them",
        )
    device = DeviceState(state_folder(state), unsigned)
    if unsigned and device.keyed:
        raise UpdateError(
            f"'{device.folder}' is there, so this device takes only what is signed by a key in it",
            hint="leave --unsigned out; kfdeploy sign … signs the update",
        )
    return device


@dataclass(frozen=True)
class Keys:
    """The public keys that a device knows, by fingerprint, and which of them were replaced by which."""

    known: Mapping[str, Public]
    replaced: Mapping[str, str]
    only: str  # the one key in the folder, or nothing where there are more

    @property
    def trusted(self) -> dict[str, Public]:
        """Those whose signatures count."""
        return {name: key for name, key in self.known.items() if name not in self.replaced and not key.expired}

    def before(self, name: str) -> set[str]:
        """Return the keys that this one has replaced, one after the other."""
        found: set[str] = set()
        while more := {old for old, new in self.replaced.items() if new in {name, *found}} - found:
            found |= more
        return found


@dataclass(frozen=True)
class DeviceState:
    """A device's state folder; `unsigned` where somebody has said that it has no keys."""

    state: Path
    unsigned: bool = False

    @property
    def folder(self) -> Path:
        """Where its keys are."""
        return self.state / "keys"

    @property
    def keyed(self) -> bool:
        """Whether there is a place for keys, whatever is in it.

        Raises:
            UpdateError: that cannot be looked at.
        """
        try:
            self.folder.lstat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unreadable(self.folder, error) from None
        return True

    def keys(self) -> Keys:
        """Return the keys that it knows: those in its folder, and those that replaced them.

        Raises:
            UpdateError: the folder, a key or a statement in it cannot be read, or others could change them; that is not
                the same as having none.
            MissingDependencyError: it has keys, and `cryptography` is not installed.
        """
        paths = self._listed(self.folder, ".pub")
        for path in paths:
            require_own(path, self.state)
        roots = [read_public(path) for path in paths]
        known, replaced = {key.name: key for key in roots}, {}
        left = [Rotation.read(path) for path in self._listed(self.state / "rotations", ".json")] if roots else []
        while taken := [each for each in left if each.old in known and each.by(known[each.old])]:
            for each in taken:
                left.remove(each)
                if each.old not in replaced:
                    replaced[each.old] = each.new.name
                    known.setdefault(each.new.name, each.new)
        return Keys(known, replaced, roots[0].name if len(roots) == 1 else "")

    def counters(self, keys: Keys) -> Counters:
        """Return how far it has come.

        Raises:
            UpdateError: others could change that.
        """
        for path in self._listed(self.state / "counters", ".json"):
            require_own(path, self.state)
        return Counters(self.state, keys.known, keys.only)

    def check(self, update: Update, assembly: Model) -> Public | None:
        """Refuse an update that this device should not take; return the key it is signed by, None where it has no key.

        Raises:
            UpdateError: there is no key, or it is not signed, not by a key this device trusts, was altered, has
                expired, or is an older one.
            MissingDependencyError: it has keys, and `cryptography` is not installed.
        """
        if update.expires is not None and update.expires <= now():
            raise UpdateError(
                f"'{update.path}' expired at {written(update.expires)}",
                hint="sign it again (kfdeploy sign … --expires), or set this device's clock",
            )
        if self.unsigned:
            return None
        keys = self.keys()
        key = self._signer(update, keys)
        if not key.verifies(update.signature, update.message):
            raise UpdateError(
                f"'{update.path}' was altered after it was signed: its signature by {key.path.name} does not fit",
                hint="copy the update again; if that does not help, do not use it",
            )
        self.counters(keys).check(update, keys.before(key.name), assembly)
        return key

    def remember(self, update: Update, key: Public, before: Model, after: Model) -> None:
        """Write down, on the disk, that this signed update is the newest; `check` it first.

        Raises:
            UpdateError: a newer one was taken meanwhile.
            OutputError: the state folder or the assembly cannot be written to.
        """
        keys = self.keys()
        self.counters(keys).remember(update, key, keys.before(key.name), before, after)

    def rotate(self, path: Path) -> tuple[Public, Public]:
        """Take a statement that a key is replaced; return the old key and the new one. Again, it changes nothing.

        Raises:
            UpdateError: it is none, not by a key that this device trusts, or that key was replaced by another.
            OutputError: the state folder cannot be written to.
            MissingDependencyError: `cryptography` is not installed.
        """
        keys, found = self.keys(), Rotation.read(path)
        self._require_keys(keys)
        old, new = keys.known.get(found.old), found.new
        if old is None or not found.by(old):
            raise UpdateError(
                f"'{path}' is not signed by a key that this device knows", allowed=[*keys.trusted], hint=self._bring()
            )
        if keys.replaced.get(found.old) == new.name:
            return old, new
        if found.old not in keys.trusted:
            why = "was replaced by another key" if found.old in keys.replaced else "has expired"
            raise UpdateError(f"'{path}' is signed by {old.path.name}, which {why}", hint=self._bring())
        if new.expired or new.name in keys.replaced or new.name in keys.known:
            why = "has expired" if new.expired else "this device knows already"
            raise UpdateError(f"the new key in '{path}', {new.name}, is one that {why}", hint=self._bring())
        place = self.state / "rotations" / f"{found.old}.json"
        with place_errors(place, "run this as the user whose keys these are"), replacing(place, mode=0o644) as stream:
            stream.write(found.data)
        return old, new

    def _signer(self, update: Update, keys: Keys) -> Public:
        """Return the key that an update says it is signed by, if this device trusts it.

        Raises:
            UpdateError: it is not signed, or by another.
        """
        trusted = self._require_keys(keys)
        names = ", ".join(f"{name} ({key.path.name})" for name, key in trusted.items())
        if not update.signature or update.counter is None:
            raise UpdateError(
                f"'{update.path}' is not signed, and this device takes only what is signed by {names}",
                hint=f"kfdeploy sign {update.path} --key …",
            )
        if update.signer in trusted:
            return trusted[update.signer]
        told, hint = f"{update.signer!r:.40}", f"sign it with that key, or put the other's .pub in '{self.folder}'"
        if old := keys.known.get(update.signer):
            told += f" ({old.path.name}), which " + (
                f"was replaced by {keys.replaced[old.name]}"
                if old.name in keys.replaced
                else f"expired at {'' if old.expires is None else written(old.expires)}"
            )
            hint = "sign it with that key"
        raise UpdateError(
            f"'{update.path}' is signed by {told}, and this device takes only what is signed by {names}", hint=hint
        )

    def _require_keys(self, keys: Keys) -> dict[str, Public]:
        """Return the keys that count.

        Raises:
            UpdateError: there is none.
        """
        if keys.trusted:
            return keys.trusted
        if keys.known:
            raise UpdateError(
                f"every key in '{self.folder}' has expired or was replaced, so this device takes nothing",
                hint=self._bring(),
            )
        if not self.keyed:
            raise UpdateError(
                f"this device has no key: '{self.folder}' is not there, so nothing says whose updates it takes",
                hint="put the signer's .pub there, or name another --state; on a device without a key, that takes "
                "anything whole, say so: --unsigned, without --state",
            )
        others = sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))[:3]
        has = f"has no key, but {', '.join(others)}" if others else "is empty"
        raise UpdateError(f"'{self.folder}' {has}: this device takes nothing", hint=self._bring())

    def _bring(self) -> str:
        return f"bring the signer's .pub (kfdeploy keygen makes it) to '{self.folder}'"

    def _listed(self, folder: Path, ending: str) -> list[Path]:
        """Return the files of a folder of the state, which nobody else may write to.

        Raises:
            UpdateError: it cannot be read, or others could change what is in it.
        """
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - glob is silent where it may not look
        except FileNotFoundError:
            if not folder.is_symlink():
                return []
            raise UpdateError(f"'{folder}' is a link that leads nowhere", hint="mend it, or remove it") from None
        except OSError as error:
            raise self._unreadable(folder, error) from None
        require_own(folder, self.state)
        return [folder / name for name in names if name.endswith(ending) and not name.startswith(".")]

    def _unreadable(self, folder: Path, error: OSError) -> UpdateError:
        what = "the keys of this device in" if folder == self.folder else "what this device remembers in"
        return UpdateError(
            f"{what} '{folder}' cannot be read: {error.strerror}",
            hint="run this as the user who may, or name another --state",
        )
