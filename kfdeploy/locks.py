"""Locks: one process at a time writes to a place, or changes what is there; the others are told which one."""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kfdeploy.errors import OutputError
from kfdeploy.writing import NOFOLLOW, beside, followed


@contextmanager
def lock(out: Path, *, wait: bool = False, folder: bool = True) -> Iterator[None]:
    """Hold `out` for this process alone: whoever writes there, or changes what is there, holds it meanwhile.

    The lock is the file `.<name>.lock` beside it, with the process's number; where that cannot be made and `out` is a
    folder, the folder itself, or with `folder` unset nothing. It ends with its process, whatever ends that. Without
    `wait`, a lock that another holds is an error. Where the system has no locks, nothing is held.

    Raises:
        OutputError: another process holds it, or the place cannot be written to.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    out = followed(out)
    place = beside(out, "lock")
    while True:
        descriptor = _open_lock(place, out, folder)
        if descriptor is None:
            yield
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            if not wait:
                raise OutputError(
                    f"another kfdeploy writes to '{out}'" + (f" (process {holder})" if holder else ""),
                    hint="wait for it with --wait, or choose another place",
                ) from None
            time.sleep(0.05)
            continue
        except OSError:  # a file system without locks
            with suppress(OSError):
                place.unlink()
            try:
                yield
            finally:
                os.close(descriptor)
            return
        if _still(descriptor, place, out):
            break
        os.close(descriptor)  # whoever held it has removed the file that we opened
    try:
        named = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if named:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        if named:
            with suppress(OSError):
                place.unlink()
        os.close(descriptor)


def _open_lock(place: Path, out: Path, folder: bool) -> int | None:
    try:
        return os.open(place, os.O_RDWR | os.O_CREAT | NOFOLLOW, 0o666)
    except OSError as error:
        if out.is_dir() and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return None if not folder else os.open(out, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        told = "it is a link" if error.errno == errno.ELOOP else error.strerror or str(error)
        raise OutputError(
            f"'{out}' cannot be written: the lock '{place.name}' beside it cannot be held: {told}",
            hint="choose another place",
        ) from None


def _holder(descriptor: int) -> str:
    with suppress(OSError):
        text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        return text if text.isdigit() else ""
    return ""


def _still(descriptor: int, place: Path, out: Path) -> bool:
    """Return whether what we hold is what the next process will open."""
    held = os.fstat(descriptor)
    try:
        there = out.stat() if stat.S_ISDIR(held.st_mode) else place.lstat()
    except OSError:
        return False
    return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)
