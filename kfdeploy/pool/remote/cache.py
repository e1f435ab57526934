"""The files of pools on servers, kept here by their hash: each is fetched once, whatever pool it is in."""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kfdeploy.errors import OutputError, PoolError
from kfdeploy.files import sha256
from kfdeploy.manifest import POOL, TRAINING
from kfdeploy.names import inside
from kfdeploy.pool.remote.store import Store
from kfdeploy.reading import MOST_FILE, MOST_JSON, read_regular, reason

PIECE = 8 << 20  # bytes asked for at once, and so the most that is lost when a connection breaks
AT_ONCE = 8  # requests in flight: small files cost a round trip each
_HINT = "set KFDEPLOY_CACHE to a folder that can be written to, or free some space"


def cache_folder() -> Path:
    """Return `KFDEPLOY_CACHE`, else `kfdeploy` in the user's cache folder.

    Raises:
        OutputError: nobody says where the user's folder is.
    """
    if chosen := os.environ.get("KFDEPLOY_CACHE"):
        try:
            return Path(chosen).expanduser()
        except RuntimeError as error:
            raise OutputError(f"'{chosen}' is no place for the cache: {error}", hint=_HINT) from None
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "kfdeploy"
    except RuntimeError as error:
        raise OutputError(f"there is no place for the cache: {error}", hint="set KFDEPLOY_CACHE to a folder") from None


class Mirror:
    """A pool's folder on a server, its files read through the cache.

    In the cache, `sha256/<ab>/<hash>` are whole files, `partial/<hash>` are begun ones, and `locks/<ab>` let one
    process at a time fetch what begins with those two digits; a lock goes with its process, however that ends.
    """

    def __init__(self, url: str) -> None:
        self.store = Store(url)
        self.cache = cache_folder()
        self._text: bytes | None = None
        self.fetched: dict[str, int] = {}  # the bytes that came, by file
        self.had: set[str] = set()  # files that the cache had

    def __str__(self) -> str:
        return self.store.where

    @property
    def folder(self) -> None:
        """None: it is on a server."""

    def manifest(self) -> bytes:
        """Return `pool.json`, fetched afresh when the pool is opened."""
        if self._text is None:
            self._text = self.store.read(POOL, most=MOST_JSON)
        return self._text

    def read(self, name: str, files: Mapping[str, Mapping[str, Any]]) -> bytes:
        """Return a file, fetched if it must be, its hash checked; see `file`."""
        blob = self.file(name, files)
        try:
            return read_regular(blob)
        except OSError as error:
            raise OutputError(f"'{blob}' cannot be read: {reason(error)}", hint=_HINT) from None

    def check(self, names: Sequence[str] | None, files: Mapping[str, Mapping[str, Any]]) -> None:
        """Fetch files, by which they are checked; None: all that deploying needs."""
        self.fetch([name for name in files if not name.startswith(TRAINING)] if names is None else names, files)

    def has(self, name: str) -> bool:
        """Return whether the server has a file."""
        return self.store.there(name)

    def file(self, name: str, files: Mapping[str, Mapping[str, Any]]) -> Path:
        """Return where a file lies in the cache, fetched if it must be, its hash checked against the manifest's.

        Raises:
            PoolError: it is missing on the server, truncated or altered, or not in the manifest.
            StoreError: the server cannot be reached, refuses, or breaks off.
            OutputError: the cache cannot be written to.
        """
        about = files.get(name, {})
        size, digest = about.get("bytes"), about.get("sha256")
        # The hash becomes a file name here, and whoever runs the server has written it.
        if not isinstance(size, int) or size < 0 or not re.fullmatch("[0-9a-f]{64}", str(digest)):
            raise PoolError(f"'{name}' is not among the files of '{self}'", hint="push the pool again")
        if size > MOST_FILE:
            raise PoolError(
                f"'{self.store.at(name)}' is said to have {size:,} bytes, and at most {MOST_FILE:,} are fetched",
                hint="do not use this pool",
            )
        digest = str(digest)
        blob = inside(self.cache, f"sha256/{digest[:2]}/{digest}")
        if not _whole(blob, size, digest):  # looked at without a lock: a cache that is only read needs no writing
            with _place_errors(self.cache), _lock(inside(self.cache, f"locks/{digest[:2]}")) as alone:
                if not _whole(blob, size, digest):  # nobody else fetched it while we waited
                    partial = inside(self.cache, f"partial/{digest if alone else f'{digest}.{os.getpid()}'}")
                    partial.parent.mkdir(parents=True, exist_ok=True)
                    self._fetch(name, partial, size, digest)
                    blob.parent.mkdir(parents=True, exist_ok=True)
                    partial.replace(blob)
                    return blob
        if name not in self.fetched:
            self.had.add(name)
        return blob

    def fetch(self, names: Sequence[str], files: Mapping[str, Mapping[str, Any]]) -> None:
        """Bring several files into the cache at once; see `file`."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda name: self.file(name, files), dict.fromkeys(names)))

    def summary(self) -> str:
        """Return what travelled, for people."""
        came = sum(self.fetched.values()) + len(self.manifest())
        count = 1 + len(self.fetched)
        rest = "; the others were in the cache" if self.had else ""
        return f"{came / 1e6:.2f} MB, {count} of {count + len(self.had)} files{rest}"

    def _fetch(self, name: str, partial: Path, size: int, digest: str) -> None:
        """Write a file to `partial`, going on from what is there."""
        resumed = partial.exists()
        try:
            self._continue(name, partial, size)
            if (seen := sha256(partial)) != digest:
                raise PoolError(
                    f"'{self.store.at(name)}' was altered on the server: its sha256 is {seen[:12]}…, its manifest "
                    f"says {digest[:12]}…",
                    hint="try again if it is being pushed just now, else push the pool again",
                )
        except PoolError:
            partial.unlink(missing_ok=True)
            if not resumed:
                raise
            self._fetch(name, partial, size, digest)  # what was there may have been the wrong half

    def _continue(self, name: str, partial: Path, size: int) -> None:
        have = partial.stat().st_size if partial.exists() else 0
        if size - have > (free := shutil.disk_usage(partial.parent).free):
            raise OSError(errno.ENOSPC, f"'{name}' has {size - have:,} bytes to come, and {free:,} are free")
        if not size:
            partial.touch()
        while have < size:
            asked = min(PIECE, size - have)
            # One that knows no ranges sends the whole file; more than that is not waited for.
            data = self.store.read(name, have, have + asked, most=size)
            everything = len(data) == size > asked  # what a server sends that knows no ranges
            if len(data) != asked and not everything:
                there = len(data) if len(data) > asked else have + len(data)
                raise PoolError(
                    f"'{self.store.at(name)}' has {there} bytes on the server, its manifest says {size}",
                    hint="try again if it is being pushed just now, else push the pool again",
                )
            with partial.open("wb" if everything else "ab") as stream:
                stream.write(data)
            have = size if everything else have + asked
            self.fetched[name] = self.fetched.get(name, 0) + len(data)


def _whole(blob: Path, size: int, digest: str) -> bool:
    """Return whether the cache has a file, as it should be: a damaged one is worth what a missing one is."""
    return blob.is_file() and blob.stat().st_size == size and sha256(blob) == digest


@contextmanager
def _place_errors(folder: Path) -> Iterator[None]:
    """Say of whatever the disk does not let us do that it is the cache; the server's errors are ours by then."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"the cache '{folder}' cannot be written: {error.strerror or error}", hint=_HINT) from error


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Wait until nobody else holds this lock, and tell whether there is one: not every file system has locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        try:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)  # closing the file gives it back, and so does dying
            alone = True
        except (ImportError, OSError):
            alone = False
        yield alone
