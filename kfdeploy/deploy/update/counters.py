"""How far a device has come: of each lineage the counters of the signed updates that it took, so that no older one is.

A lineage is an assembly's name and its pool's, which stand in the assembly, not the place where it lies. Its counters
are in two places, and the larger counts:

    STATE/counters/*.json     of this device: it outlives the assembly
    assembly/.counter.json    the last update's signed statement: it goes with the folder, also to another device, and
                              counts where the device knows the key that signed it

Counters are compared among all keys but those that the signer has replaced: a rotated key counts from nothing. They
only grow. Records of 0.1.0, which go by the place, are read too, also when the assembly has been moved since.
"""

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from kfdeploy.deploy.model import Model
from kfdeploy.deploy.swap import COUNTER
from kfdeploy.deploy.update.file import Update, canonical
from kfdeploy.deploy.update.public import Public
from kfdeploy.errors import UpdateError
from kfdeploy.files import dump_json, file_name
from kfdeploy.locks import lock
from kfdeploy.manifest import read_manifest, stamp
from kfdeploy.names import refuse_link
from kfdeploy.reading import LARGEST
from kfdeploy.writing import make_folder, place_errors, replacing

_MEND = "mend it, or remove it to start from nothing"


class Lineage(NamedTuple):
    """What an assembly is known by."""

    pool: str
    name: str


def lineage_of(assembly: Model) -> Lineage:
    """Return what an assembly is known by, wherever it lies."""
    return Lineage(str((assembly.source or {}).get("name", "")), assembly.name)


@dataclass(frozen=True)
class _Record:
    """The counters of a lineage: of each signer the highest, and the update that was the last."""

    path: Path
    highest: Mapping[str, int]
    counter: int
    update: str
    signer: str


@dataclass(frozen=True)
class Counters:
    """The counters of a device, and the keys that it knows, those that were replaced among them."""

    state: Path
    known: Mapping[str, Public]
    only: str = ""  # the signer of records that name none, where there was one key

    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.state / "counters")

    def check(self, update: Update, replaced: Collection[str], assembly: Model) -> None:
        """Refuse an update that is older than what this lineage has had; `replaced` are the keys before its signer's.

        Raises:
            UpdateError: as above.
        """
        for record in self._records(lineage_of(assembly), assembly.path):
            self._compare(update, record, replaced, assembly.path)

    def remember(self, update: Update, signer: Public, replaced: Collection[str], before: Model, after: Model) -> None:
        """Write down, on the disk, that this signed update is the newest, also for what the assembly is called after.

        Raises:
            UpdateError: another process has taken a newer one meanwhile, or what it makes has had a newer one.
            OutputError: the state folder or the assembly cannot be written to.
        """
        with place_errors(self.folder, "name another --state, or free some space; the model is as it was"):
            make_folder(self.folder)
            with lock(self.folder, wait=True):
                lineages = (lineage_of(before), lineage_of(after))
                found = {lineage: list(self._records(lineage, before.path)) for lineage in lineages}
                for record in (record for records in found.values() for record in records):
                    self._compare(update, record, replaced, before.path)
                for lineage, records in found.items():
                    self._write(lineage, update, signer, records)
        path = before.path / COUNTER
        refuse_link(path)
        last = lineage_of(after)
        about = _record(last, update, signer.name) | {"manifest": update.manifest, "signature": update.signature}
        with place_errors(path, "mend the folder's rights, or free some space; the model is as it was"):
            _put(path, about)

    def _write(self, lineage: Lineage, update: Update, signer: Public, records: Iterable[_Record]) -> None:
        highest = {signer.name: update.counter or 0}
        for record in records:
            for name, value in record.highest.items():
                highest[name] = max(value, highest.get(name, 0))
        path = self._place(lineage)
        with place_errors(path, "name another --state, or free some space; the model is as it was"):
            _put(path, _record(lineage, update, signer.name) | {"highest": highest})

    def _compare(self, update: Update, record: _Record, replaced: Collection[str], assembly: Path) -> None:
        counts = {name: value for name, value in record.highest.items() if name not in replaced}
        counter = update.counter or 0
        last = max(counts.values(), default=-1)
        if counter > last or (counter == last == record.counter and record.update == update.identity):
            return  # the very same update may come again: after a rollback, or after a power cut
        who = next(name for name, value in counts.items() if value == last)
        by = self.known[who].path.name if who in self.known else who or "a key of before"
        hint = (
            f"make a fresh one (kfdeploy diff), and sign it with a counter above that: kfdeploy sign … --counter "
            f"{last + 1}; if the clock was ahead that signed {last}, a new key starts afresh: kfdeploy rotate"
            if last < LARGEST
            else "no counter is above that: a new key starts afresh (kfdeploy rotate), or, where nobody else can have "
            f"had the key, remove '{record.path}'"
        )
        what = "is an older update: its counter is" if counter < last else "has the counter"
        had = f"has had {last}" if counter < last else "has had another update with it"
        told = f"'{update.path}' {what} {counter}{_time(counter)}, and '{assembly}' {had}{_time(last)}"
        raise UpdateError(f"{told} (signed by {by})", hint=hint)

    def _records(self, lineage: Lineage, assembly: Path) -> Iterator[_Record]:
        for path in (self._place(lineage), self._place_of_path(assembly), *self._left(assembly)):
            if _there(path):
                yield self._read(path)
        if (found := self._carried(assembly)) is not None:
            yield found

    def _read(self, path: Path) -> _Record:
        about = read_manifest(path, "counter", _MEND)
        counter, update, signer = about.get("counter"), about.get("update"), about.get("signer", self.only)
        if type(counter) is not int or not isinstance(signer, str):
            raise UpdateError(f"'{path}' holds no counter", hint=_MEND)
        highest = about.get("highest", {signer: counter})
        if not isinstance(highest, dict) or not highest or not all(type(value) is int for value in highest.values()):
            raise UpdateError(f"'{path}' holds no counter", hint=_MEND)
        return _Record(path, highest, counter, str(update), signer)

    def _carried(self, assembly: Path) -> _Record | None:
        """Return what the folder itself says, or None where no key that is known here has signed it."""
        path = assembly / COUNTER
        if not _there(path):
            return None
        refuse_link(path)
        about = read_manifest(path, "counter", "remove it, if the folder is from somebody whom you trust")
        manifest, signature, signer = (about.get(key) for key in ("manifest", "signature", "signer"))
        if not isinstance(manifest, dict) or not isinstance(signature, str) or not isinstance(signer, str):
            return None
        counter, message = manifest.get("counter"), canonical(manifest)
        if manifest.get("kind") != "update" or type(counter) is not int:
            return None
        if signer not in self.known or not self.known[signer].verifies(signature, message):
            return None
        return _Record(path, {signer: counter}, counter, hashlib.sha256(message).hexdigest(), signer)

    def _place(self, lineage: Lineage) -> Path:
        return self.folder / _named(lineage.name, f"{lineage.pool}\0{lineage.name}".encode())

    def _place_of_path(self, assembly: Path) -> Path:
        place = Path(os.path.realpath(assembly))
        return self.folder / _named(place.name, os.fsencode(place))

    def _left(self, assembly: Path) -> Iterator[Path]:
        """Yield the records of 0.1.0 for a place that is gone, and was called like this one: it may have moved here."""
        name = Path(os.path.realpath(assembly)).name
        for path in sorted(self.folder.glob(f"{file_name(name)[:80]}-*.json")) if _there(self.folder) else ():
            about = read_manifest(path, "counter", _MEND)
            place = about.get("assembly")
            if "pool" in about or not isinstance(place, str) or Path(place).name != name:
                continue
            if path.name == _named(name, os.fsencode(place)) and not os.path.lexists(place):
                yield path


def _time(counter: int) -> str:
    """Return which day a counter is, where it is one: the default of `sign` is the time."""
    if not 10**18 < counter < 2**62:
        return ""
    return f" ({datetime.fromtimestamp(counter // 10**9, UTC):%Y-%m-%d})"


def _named(name: str, whole: bytes) -> str:
    return f"{file_name(name)[:80]}-{hashlib.sha256(whole).hexdigest()[:12]}.json"


def _record(lineage: Lineage, update: Update, signer: str) -> dict[str, Any]:
    about = {"assembly": lineage.name, "pool": lineage.pool, "counter": update.counter, "update": update.identity}
    return {**stamp("counter"), **about, "signer": signer}


def _put(path: Path, about: Mapping[str, Any]) -> None:
    with replacing(path, mode=0o644) as stream:
        stream.write(dump_json(about).encode())


def _there(path: Path) -> bool:
    """Return whether something is there, or may be: what cannot be looked at is not the same as nothing."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return path.parent.is_file()  # a file in the folder's place: reading says so
    except OSError:
        return True
    return True
