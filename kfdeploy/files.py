"""Files that are either whole or absent: hashes, reproducible bytes, and outputs written beside and renamed."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from kfdeploy.errors import OutputError, PoolError
from kfdeploy.reading import (
    MOST_JSON,
    ReadingError,
    header_of,
    json_of,
    open_regular,
    read_regular,
    reason,
    tensors_of,
)  # fmt: skip

# One of these is in every folder that we make, and says what it is; the name alone may be anybody's.
OURS = {"pool.json": ("pool",), "assembly.json": ("assembly", "student", "teacher"), "manifest.json": ("artifact",),
        "demo.json": ()}  # fmt: skip
# What a disk or a folder can be to blame for; any other OSError inside a block is a mistake of ours.
_PLACE = {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EDQUOT, errno.ENOTDIR, errno.EIO, errno.ENOENT,
          errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP}  # fmt: skip
CHECKPOINTS = "checkpoint-*.pt"  # what training leaves to go on from
TIMING = "timing.csv"  # how long each epoch took: of no pool's identity, so not among the files it answers for
METADATA_KEY = "kfdeploy"  # the one metadata key of every file of ours, holding sorted JSON


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_name(task: str) -> str:
    """Return the percent-encoded file name of a task; task names may hold spaces and any letters."""
    if task == "shared":  # evidence/shared.safetensors is taken
        return "%73hared"
    name = quote(task, safe="")
    if len(name) > 180:  # a file name has at most 255 bytes
        name = f"{name[:150]}-{hashlib.sha256(task.encode()).hexdigest()[:16]}"
    return name.replace(".", "%2E") if name.startswith(".") else name


def dump_json(value: Any) -> str:
    """Return sorted, indented JSON that ends with a newline."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def dump_line_json(value: dict[str, Any]) -> str:
    """Return JSON with indented keys and every list of numbers on one line: raw samples would fill pages."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    return (
        re.sub(r"\[\s+([-0-9.eE,\s]+?)\s+\]", lambda found: f"[{re.sub(chr(92) + 's+', ' ', found[1])}]", text) + "\n"
    )


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray[Any, Any]], about: Mapping[str, Any]) -> None:
    """Write arrays as safetensors with one metadata key, so that the bytes are reproducible."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    text = json.dumps(dict(about), sort_keys=True, ensure_ascii=False)
    try:
        save_file(whole, path, metadata={METADATA_KEY: text})
    except SafetensorError as error:  # how it reports a full disk
        raise OutputError(f"'{path}' cannot be written: {error}", hint="free some space") from None
    path.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the arrays of a safetensors file.

    Raises:
        PoolError: the file is not safetensors.
    """
    try:
        return tensors_of(read_regular(path))
    except (ReadingError, OSError) as error:
        raise _unreadable(str(path), error) from None


def parse_tensors(data: bytes, origin: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays in the bytes of a safetensors file that came from `origin`.

    Raises:
        PoolError: they are not safetensors.
    """
    try:
        return tensors_of(data)
    except ReadingError as error:
        raise _unreadable(origin, error) from None


def about_of(data: bytes) -> dict[str, Any]:
    """Return what the bytes of a safetensors file of ours say of themselves.

    Raises:
        ReadingError: they are not safetensors, or say nothing.
    """
    found = json_of(header_of(data, len(data)).about.get(METADATA_KEY, "{}"))
    if not isinstance(found, dict):
        raise ReadingError(f"what it says of itself is a {type(found).__name__}")
    return found


def _unreadable(origin: str, error: OSError | ValueError) -> PoolError:
    return PoolError(f"'{origin}' is not a readable safetensors file: {reason(error)}", hint="make it again")


def partial(out: Path) -> Path:
    """Return the folder beside `out` in which unfinished work lives."""
    return out.with_name(out.name + ".partial")


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output that exists, or a parent that cannot be written to.

    Raises:
        OutputError: as above.
    """
    if out.parts and re.fullmatch("[a-z][a-z0-9+.-]+:", out.parts[0]):  # what a path makes of s3://
        raise OutputError(
            f"'{out}' is a URL, and outputs are folders of this machine",
            hint="choose another --out; a pool gets to a server by: kfdeploy pool push <pool> <url>",
        )
    if not out.name or out.name == "..":
        raise OutputError(f"'{out}' has no name of its own", hint="choose another --out")
    if out.exists() and not force:
        raise OutputError(f"'{out}' is already there", hint="choose another --out, or replace it with --force")
    if out.is_dir() and any(out.iterdir()) and not _is_ours(out):
        raise OutputError(
            f"'{out}' was not made by kfdeploy, so --force does not replace it",
            hint="choose another --out, or remove it by hand",
        )
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise OutputError(f"'{out}' cannot be made: '{parent}' is a file", hint="choose another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"'{parent}' cannot be written to", hint="choose another --out")


def _is_ours(folder: Path) -> bool:
    """Return whether a file in a folder says that kfdeploy made it."""
    for name, kinds in OURS.items():
        place = folder / name
        try:
            about = json_of(read_regular(place, MOST_JSON))
        except (OSError, ReadingError):
            continue
        if about == {} if name == "demo.json" else isinstance(about, dict) and about.get("kind") in kinds:
            return True
    return False


def check_not_read(out: Path, *sources: Path | None) -> None:
    """Refuse an output in whose place, or around which, lies what it is made from.

    Raises:
        OutputError: as above.
    """
    place = out.resolve()
    for source in sources:
        if source is None:
            continue
        read = source.resolve()
        if place == read or place in read.parents:
            what = "is" if place == read else "holds"
            raise OutputError(
                f"'{out}' {what} '{source}', which is read: it cannot be replaced by what is made from it",
                hint="choose another --out",
            )


@contextmanager
def locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a folder for this process alone; give False where another holds it and `wait` is not set.

    A lock ends with its process, whatever ends that. Where the system has none, every process gets it.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # a file system without locks
            yield True
            return
        yield True
    finally:
        os.close(handle)


def commit(work: Path, out: Path) -> None:
    """Put the finished folder `work` in the place of `out`: renames only, so that no reader sees half of it.

    Where `out` is a symbolic link, the folder it leads to is replaced, and the link stays.
    """
    out = out.resolve() if out.is_symlink() else out
    aside = out.with_name(f".{out.name}.{os.getpid()}.replaced") if out.exists() else None
    if aside is not None:
        out.rename(aside)
    work.rename(out)
    if aside is not None:
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()


@contextmanager
def output_folder(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Give a folder to write to, which becomes `out` when the block ends well and vanishes when it does not.

    Raises:
        OutputError: `out` exists and `force` is not set, or the place cannot be written to.
    """
    check_output(out, force=force)
    out = out.resolve() if out.is_symlink() else out
    work = partial(out)
    if any(work.rglob(CHECKPOINTS)):
        raise OutputError(f"'{work}' holds an unfinished training", hint="choose another --out, or finish it first")
    with place_errors(out, "free some space, or choose another --out"), ExitStack() as held:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out.parent, wait=True):  # of two that begin at once, one finds the other's folder held
            if work.exists():
                with locked(work, wait=False) as free:
                    if not free:
                        raise OutputError(
                            f"another process is writing to '{out}'", hint="wait for it, or choose another --out"
                        )
                    shutil.rmtree(work)
            work.mkdir()
            held.enter_context(locked(work, wait=True))
        try:
            yield work
            if not force and out.exists():
                raise OutputError(f"'{out}' was made by another process meanwhile", hint="choose another --out")
            commit(work, out)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


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
    probe = folder / ".kfdeploy-probe"
    with place_errors(folder, "free some space, or choose another --out"):
        try:
            probe.write_bytes(b"\0" * 65536)
        finally:
            probe.unlink(missing_ok=True)


def check_place(path: Path, *, force: bool) -> None:
    """Refuse a file that exists, or a place where none can be made.

    Raises:
        OutputError: as above.
    """
    if path.is_dir():
        raise OutputError(f"'{path}' is a folder", hint="name a file")
    if path.exists() and not force:
        raise OutputError(f"'{path}' is already there", hint="choose another name, or replace it with --force")
    check_output(path, force=True)


def write_file(path: Path, data: bytes | str) -> None:
    """Write a file beside its place and rename it, so that it is either whole or absent.

    Raises:
        OutputError: the place cannot be written to.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data.encode() if isinstance(data, str) else data)
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise OutputError(
            f"'{path}' cannot be written: {error.strerror or error}", hint="choose another place"
        ) from None


def write(path: Path, data: bytes) -> None:
    """Write a file, and see it on the disk; the folder it is in may exist or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_over(path: Path, data: bytes) -> None:
    """Put a file in the place of another: whole and on the disk, or not at all."""
    beside = path.with_name(f".{path.name}.partial")
    try:
        write(beside, data)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def link(source: Path, target: Path) -> None:
    """Let `target` be the same file; a copy where the file system or the owner has no hard links to give."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        write(target, source.read_bytes())


def sync_folder(folder: Path) -> None:
    """See a folder's entries on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing for folders
            raise
    finally:
        os.close(descriptor)
