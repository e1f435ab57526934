"""Every file of ours: whole or absent, on the disk before it is told of, and through nobody else's link.

A file is written beside its place, under a name that nobody can foresee, seen on the disk, and renamed. What is a log,
a cache or can be made again in seconds may be cheap: `durable=False` does not wait for the disk. Folders are made in
`kfdeploy.outputs`, under the locks of `kfdeploy.locks`.
"""

import ctypes
import errno
import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from kfdeploy.errors import OutputError

# What a disk or a folder can be to blame for; any other OSError inside a block is a mistake of ours.
_PLACE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.ENOTDIR, errno.EIO, errno.ENOENT,
          errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP}  # fmt: skip
_LONGEST = 200  # bytes of a name, that leave room for what is put around it; file systems allow 255
TOKEN = "[0-9a-f]{16}"
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def followed(path: Path) -> Path:
    """Return the place that a symbolic link leads to, or the path itself where it is none; `.` gets its own name.

    Raises:
        OutputError: the link leads in a circle, or it is the root of the file system, beside which there is nothing.
    """
    if not path.is_symlink():
        if path.name not in ("", ".."):
            return path
        path = Path(os.path.realpath(path))
        if not path.name:
            raise OutputError(f"'{path}' is no place to write to", hint="name a folder")
        return path
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise OutputError(f"'{path}' is a link that leads in a circle", hint="choose another place")
    return real


@contextmanager
def place_errors(out: Path, hint: str) -> Iterator[None]:
    """Say of a full or forbidden disk that `out` cannot be written.

    Raises:
        OutputError: an error of the place happened inside; any other OSError is a mistake of ours and passes.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _PLACE:
            raise
        raise OutputError(f"'{out}' cannot be written: {error.strerror or error}", hint=hint) from error


def place_of(out: Path) -> Path:
    """Return the folder on the disk of `out` that is there."""
    out = out.absolute().parent
    while not out.is_dir():
        out = out.parent
    return out


def require_writable(folder: Path) -> None:
    """Refuse a folder whose disk is full or may not be written: a small file is written, and removed.

    Raises:
        OutputError: as above.
    """
    with place_errors(folder, "free some space, or choose another --out"):
        folder.stat()
        probe = fresh(folder / "probe", "partial")
        try:
            write(probe, b"\0" * 65536)
        finally:
            probe.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path, *, durable: bool = True, new: bool = False, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Give a stream to write to, which becomes the file at `path` when the block ends well, and vanishes else.

    A link at `path` is followed, and what it leads to is replaced in its own place. With `new`, nothing may be there.

    Raises:
        FileExistsError: `new`, and something is there.
        OSError: the place cannot be written.
    """
    path = followed(path)
    make_folder(path.parent)
    place = fresh(path, "partial")
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        _put_new(place, path) if new else place.replace(path)
    except BaseException:
        with suppress(OSError):
            place.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def _put_new(place: Path, path: Path) -> None:
    """Give a file its name, unless somebody has it."""
    try:
        os.link(place, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if _rename(place, path, _NEVER_OVER):
            return
        # Nor such renames: whoever makes the name has it.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NOFOLLOW, 0o600))
        place.replace(path)
    else:
        place.unlink()


def write_file(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Write a file that is whole or absent, and on the disk.

    Raises:
        OutputError: the place cannot be written to.
    """
    try:
        if path.exists() and not path.is_file():
            raise OutputError(f"'{path}' is not a file", hint="name a file")
        with replacing(path, durable=durable) as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
    except OSError as error:
        raise OutputError(
            f"'{path}' cannot be written: {error.strerror or error}", hint="choose another place"
        ) from None


def write(path: Path, data: bytes) -> None:
    """Write a new file inside a folder that is ours alone, and see it on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NOFOLLOW, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(source: Path, target: Path) -> None:
    """Let `target` be the same file; a copy where the file system or the owner has no hard links to give."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        write(target, source.read_bytes())


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each seen in the one it is in."""
    if folder.is_dir():
        return
    if folder.exists() and not folder.is_dir():  # asked again: another thread may have made it meanwhile
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """See a folder's entries on the disk."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing for folders
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """See every file and every folder below, and then the folder itself, on the disk."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(place) / name
            if path.is_symlink():
                continue
            descriptor = os.open(path, os.O_RDONLY | NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(place))


# Flags of a rename: Linux's, and the Mac's.
_NEVER_OVER, _EXCHANGE = (1, 2) if sys.platform == "linux" else (4, 2)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; return False where the system cannot."""
    return _rename(one, other, _EXCHANGE)


def _rename(one: Path, other: Path, flag: int) -> bool:
    name = "renameat2" if sys.platform == "linux" else "renamex_np"
    try:
        function: Any = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError, TypeError):
        return False
    here, there = os.fsencode(one), os.fsencode(other)
    failed = function(-100, here, -100, there, flag) if sys.platform == "linux" else function(here, there, flag)
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def stem(path: Path) -> str:
    """Return how the names begin of what lies beside `path` for us: hidden, and short enough for any file system."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST:
        short = os.fsencode(name)[:150].decode("utf-8", "ignore")
        name = f"{short}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"
    return f".{name}"


def beside(path: Path, word: str) -> Path:
    """Return the name beside `path` of something of ours."""
    return path.with_name(f"{stem(path)}.{word}")


def fresh(path: Path, word: str) -> Path:
    """Return a name beside `path` that nobody can foresee."""
    return beside(path, f"{secrets.token_hex(8)}.{word}")
