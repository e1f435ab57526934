"""Where a pool's files are: a folder of this machine, or a server (`remote.cache.Mirror`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kfdeploy.manifest import POOL, TRAINING, check_files, read_bytes, read_file
from kfdeploy.names import inside

AGAIN = "kfdeploy factorize"  # where there is none in a folder


class Place(Protocol):
    """What a pool asks of the place it is in. `files` are those of its manifest, which a file is held to."""

    def __str__(self) -> str:
        """Return where it is, for messages, without secrets."""
        ...

    @property
    def folder(self) -> Path | None:
        """The folder of this machine that it is, if it is one."""
        ...

    def manifest(self) -> bytes:
        """Return `pool.json` as it is.

        Raises:
            PoolError: there is none.
            StoreError: the server cannot be reached, refuses, or breaks off.
        """
        ...

    def read(self, name: str, files: Mapping[str, Mapping[str, Any]]) -> bytes:
        """Return a file, its hash checked.

        Raises:
            PoolError: it is missing, truncated or altered, or not one of the pool's.
            StoreError: the server cannot be reached, refuses, or breaks off.
        """
        ...

    def fetch(self, names: Sequence[str], files: Mapping[str, Mapping[str, Any]]) -> None:
        """Bring several files near at once, where that is a matter of time."""
        ...

    def check(self, names: Sequence[str] | None, files: Mapping[str, Mapping[str, Any]]) -> None:
        """Check files against their hashes; None: every one, of `train/` those that are there."""
        ...

    def has(self, name: str) -> bool:
        """Return whether a file is there."""
        ...

    def summary(self) -> str:
        """Return what travelled, for people; an empty string where nothing does."""
        ...


class Folder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.folder: Path | None = path
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def manifest(self) -> bytes:
        """Return `pool.json` as it is."""
        return read_bytes(inside(self._path, POOL), "pool", AGAIN)

    def read(self, name: str, files: Mapping[str, Mapping[str, Any]]) -> bytes:
        """Return a file, its hash checked."""
        return read_file(self._path, files, name)

    def fetch(self, names: Sequence[str], files: Mapping[str, Mapping[str, Any]]) -> None:
        """Do nothing: everything is here."""

    def check(self, names: Sequence[str] | None, files: Mapping[str, Mapping[str, Any]]) -> None:
        """Check files against their hashes."""
        if names is None:
            names = [name for name in files if not name.startswith(TRAINING) or inside(self._path, name).exists()]
        check_files(self._path, files, names)

    def has(self, name: str) -> bool:
        """Return whether a file is there."""
        return inside(self._path, name).is_file()

    def summary(self) -> str:
        """Return an empty string: nothing travels."""
        return ""
