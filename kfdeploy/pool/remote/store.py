"""A folder on a server, through fsspec: read in pieces, listed, and written to."""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

from kfdeploy.errors import (
    MissingDependencyError,
    PoolError,
    StoreError,
    UnsupportedError,
    first_line,
    nearest,
    unloaded,
)
from kfdeploy.names import check_inside, inside
from kfdeploy.pool.remote.failures import Asked, explain, may_pass
from kfdeploy.pool.remote.locate import locate
from kfdeploy.reading import MOST_FILE
from kfdeploy.shown import place, without_secrets

T = TypeVar("T")
CONNECT_SECONDS, READ_SECONDS = 3.0, 10.0  # a server that is there answers sooner
WAITS = (0.2, 0.6)  # seconds before the second and the third attempt
READ_ONLY = ("http", "https")
_PIECE, _PATIENCE, _SLOWEST = 1 << 16, 30.0, 2000.0  # bytes, seconds, and bytes a second that are waited for
_COMMON = ("s3", "gs", "hf", "https", "http", "file", "memory")
_KEYED = ("s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "memory")  # have no folders that would have to be made first
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "http": "aiohttp",
    "https": "aiohttp",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "az": "adlfs",
    "abfs": "adlfs",
}
_OURS = ("fsspec", "s3fs", "aiohttp")  # what the extra brings


class Listed(NamedTuple):
    """What a listing says of a file; `md5` is empty where the server does not tell."""

    size: int
    md5: str


class Store:
    """A folder on a server, or (to push to) one of this machine. `where` names it in messages, without secrets."""

    def __init__(self, named: str | Path) -> None:
        found = locate(named)
        self.protocol = "file" if isinstance(found, Path) else urlsplit(found).scheme.lower()
        self.url = str(found.absolute()) if isinstance(found, Path) else self.protocol + found[found.index("://") :]
        self.where = str(found) if isinstance(found, Path) else place(self.url)
        self.answered = False
        self.fs, root = _file_system(self.protocol, self.url, self.where)
        self.root = root.rstrip("/")

    def read(self, name: str, start: int = 0, end: int | None = None, *, most: int = MOST_FILE) -> bytes:
        """Return a file's bytes from `start` to `end`, or all of them where the server knows no ranges.

        Raises:
            StoreError: the server cannot be reached, refuses, or breaks off, or never comes to an end.
            PoolError: there is no such file, it ends before `start`, or has more than `most` bytes.
        """
        if self.protocol in READ_ONLY:  # whatever is asked for, it may send more, and for ever
            data: bytes = self._ask(name, "reading", self._stream, self._address(name), start, end, most)
        else:  # `start` is always given: s3fs asks for the size first where no range is
            last = start + most + 1 if end is None else end
            data = self._ask(name, "reading", self.fs.cat_file, self._address(name), start=start, end=last)
        if len(data) > most:
            raise PoolError(
                f"'{self.at(name)}' has more than the {most:,} bytes that are read of it", hint="do not use this pool"
            )
        return data

    def _stream(self, address: str, start: int, end: int | None, most: int) -> bytes:
        """Return what an HTTP server sends, of `most` bytes one more at most, and not for ever."""
        wanted = {} if end is None else {"headers": {"Range": f"bytes={start}-{end - 1}"}}
        pieces, have, began = [], 0, time.monotonic()
        with self.fs.open(address, block_size=0, size=1, **wanted) as stream:
            while have <= most and (piece := stream.read(_PIECE)):
                pieces.append(piece)
                have += len(piece)
                if (seconds := time.monotonic() - began) > _PATIENCE + have / _SLOWEST:
                    raise TimeoutError(f"{have} bytes came in {seconds:.0f} seconds")
        return b"".join(pieces)[: most + 1]

    def there(self, name: str) -> bool:
        """Return whether there is such a file.

        Raises:
            StoreError: as above.
        """
        try:
            self._ask(name, "reading", self.fs.info, self._address(name))
        except PoolError:
            return False
        return True

    def write(self, name: str, data: bytes) -> None:
        """Write a file; on this machine beside its place and renamed, as object stores do by themselves.

        Raises:
            StoreError: the server cannot be reached, refuses, or breaks off.
            OutputError: the folder of this machine cannot be written to.
        """
        if self.protocol == "file":
            from kfdeploy.writing import write_file

            write_file(inside(Path(self.root), name), data)
            return
        address = self._address(name)
        if self.protocol not in _KEYED:
            self._ask(name, "writing", self.fs.makedirs, address.rpartition("/")[0], exist_ok=True)
        self._ask(name, "writing", self.fs.pipe_file, address, data)

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises:
            StoreError: the server cannot be reached, refuses, or breaks off.
        """
        if self.protocol == "file":
            inside(Path(self.root), name)
        self._ask(name, "removing", self.fs.rm_file, self._address(name))

    def list(self) -> dict[str, Listed]:
        """Return every file in the folder and below, by its name in it.

        Raises:
            StoreError: the server cannot be reached, refuses, or breaks off.
        """
        self.fs.invalidate_cache()
        found: Mapping[str, Any] = self._ask("", "listing", self.fs.find, self.root, detail=True)
        names = {path[len(self.root) :].lstrip("/"): info for path, info in found.items()}
        return {name: Listed(int(info["size"]), _md5(info)) for name, info in names.items() if name}

    def at(self, name: str) -> str:
        """Return a file's address for messages."""
        return f"{self.where}/{name}" if name else self.where

    def _address(self, name: str) -> str:
        check_inside(self.where, (name,))
        if self.protocol in READ_ONLY:  # a file's name may hold a '%', and the URL a query
            parts = urlsplit(self.url)
            return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))
        return f"{self.root}/{name}"

    def _ask(self, name: str, doing: str, call: Callable[..., T], *words: Any, **more: Any) -> T:
        """Call fsspec, more than once where the trouble may pass, and turn what it raises into an error of ours."""
        waits = iter(WAITS)
        while True:
            try:
                answer = call(*words, **more)
            # Each file system raises errors of its own libraries, so there is no narrower class to catch.
            except Exception as error:
                wait = next(waits, None) if may_pass(error) else None
                if wait is None:
                    asked = Asked(self.where, self.protocol, self.root.partition("/")[0], self.answered, self.url)
                    raise explain(error, asked, name, doing) from None  # whose text may hold a password
                time.sleep(wait)
            else:
                self.answered = True
                return answer


def _file_system(protocol: str, url: str, where: str) -> tuple[Any, str]:
    """Return the file system of a URL and the folder's path in it."""
    try:
        from fsspec import available_protocols
        from fsspec.core import url_to_fs
    except ImportError as error:
        absent = _missing("fsspec", where, "")
        raise unloaded(error, "fsspec", absent.what, absent.hint) from None
    if protocol not in available_protocols():
        raise UnsupportedError(
            f"'{where}' has the protocol '{protocol}', which is not known",
            allowed=_COMMON,
            hint=nearest(protocol, available_protocols()) or "a folder of this machine is named by its path",
        )
    try:
        fs, root = url_to_fs(url, **_options(protocol))
    except ImportError as error:  # fsspec's own, which names what to install; what happened is its cause
        package, cause = _PACKAGES.get(protocol, ""), error.__cause__ or error
        absent = _missing(package, where, without_secrets(first_line(error), url))
        if isinstance(cause, ImportError) and not isinstance(cause, ModuleNotFoundError) and cause is not error:
            raise unloaded(cause, package or protocol, absent.what, absent.hint) from None
        raise absent from None
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"'{where}' cannot be opened: {without_secrets(first_line(error), url)}",
            hint="check the URL, and your settings of fsspec",
        ) from None
    return fs, str(root)


def _missing(package: str, where: str, said: str) -> MissingDependencyError:
    if not package:
        return MissingDependencyError(f"a pool at '{where}' needs another package", hint=said)
    return MissingDependencyError(
        f"a pool at '{where}' needs {package}, which is not installed",
        hint='pip install "kfdeploy[remote]"' if package in _OURS else f"pip install {package}",
    )


def _options(protocol: str) -> dict[str, Any]:
    """Return settings that keep a dead server from holding us up; what the user's fsspec settings say goes first."""
    from fsspec.config import conf

    own = conf.get(protocol, {})
    if protocol in ("s3", "s3a"):
        # One attempt: the retries are ours, the same for every protocol. AWS_MAX_ATTEMPTS and the like are respected.
        import os

        config: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS}
        if not {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & set(os.environ):
            config["retries"] = {"total_max_attempts": 1}
        return {"config_kwargs": config | own.get("config_kwargs", {})}
    if protocol in READ_ONLY and "client_kwargs" not in own:
        import aiohttp

        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
        # The proxy of the environment, as others do. What is packed on the way could be a bomb: nothing is unpacked.
        plain = {"auto_decompress": False, "headers": {"Accept-Encoding": "identity"}}
        return {"client_kwargs": {"timeout": timeout, "trust_env": True, **plain}}
    return {}


def _md5(info: Mapping[str, Any]) -> str:
    """Return the MD5 of a listed file where its ETag is one; that of an upload in parts is not."""
    tag = str(info.get("ETag", "")).strip('"')
    return tag if re.fullmatch(r"[0-9a-f]{32}", tag) else ""
