"""Places where writing fails: a disk that is full, one that is only read, and another user's."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

NOBODY = 65534


@contextlib.contextmanager
def small_disk(megabytes):
    """Give a file system of its own, in memory; the test is skipped where none can be mounted."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    place = Path(tempfile.mkdtemp(prefix="kf-disk-"))
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(place)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        place.rmdir()
        pytest.skip("mounts are refused here")
    before = Path.cwd()
    try:
        yield place
    finally:
        os.chdir(before)
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)
        place.rmdir()


def fill(place, free):
    """Fill a disk with a file, but for some bytes; return the file."""
    filler = place / "filler"
    found = os.statvfs(place)
    size = max(0, found.f_bavail * found.f_frsize - free)
    with filler.open("wb") as stream:
        left = size
        while left > 0:
            left -= stream.write(b"\0" * min(left, 1 << 20))
    return filler


@contextlib.contextmanager
def only_read(place):
    """Let a mounted place be only read."""
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True, capture_output=True)


@contextlib.contextmanager
def nobody():
    """Be a user who owns nothing, in this process; the test is skipped where that cannot be."""
    if os.name != "posix" or not hasattr(os, "setresuid") or os.geteuid() != 0:
        pytest.skip("only root can be another user")
    import typer.rich_utils  # noqa: F401  # loaded before: that user may not be allowed to read where Python is

    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
