"""Folders that we make: whole or absent, under a lock, and in nobody else's place.

A folder is made beside its place, seen on the disk, and renamed. One that is replaced is exchanged for the new one in
one step where the system can do that; where it cannot, the old one is put aside and, if the process dies between the
two renames, put back by the next that writes there. That one also sweeps what processes that died have left.
"""

import os
import re
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kfdeploy.errors import OutputError
from kfdeploy.locks import lock
from kfdeploy.reading import MOST_JSON, ReadingError, json_of, read_regular
from kfdeploy.writing import TOKEN, exchange, followed, fresh, make_folder, place_errors, stem, sync_folder, sync_tree

# The manifest in every folder that we make, and what it may say it is; the name alone may be anybody's.
KINDS = {"pool.json": ("pool",), "assembly.json": ("assembly", "student", "teacher"), "manifest.json": ("artifact",)}


def partial(out: Path) -> Path:
    """Return the folder beside `out` in which a training works, and from which it goes on."""
    return out.with_name(out.name + ".partial")


def check_output(out: Path, *, force: bool) -> None:
    """Refuse an output that exists, or a parent that cannot be written to; with `force`, one that is not all ours.

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
    with place_errors(out, "choose another --out"):
        there = os.path.lexists(out) and _kind(out)
    if there and not force:
        raise OutputError(f"'{out}' is already there", hint="choose another --out, or replace it with --force")
    if there and there != "folder":
        raise OutputError(f"'{out}' is {there}, and a folder is to be made there", hint="choose another --out")
    if there and any(out.iterdir()) and (why := not_ours(out)):
        raise OutputError(
            f"'{out}' {why}, so --force does not replace it", hint="choose another --out, or remove it by hand"
        )
    _check_parent(out)


def _kind(path: Path) -> str:
    """Return what is at a path: "folder", or in words what else."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link that leads nowhere"
    return "folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "a device or a pipe"


def _check_parent(out: Path) -> None:
    parent, names = out.absolute().parent, [out.name]
    with place_errors(out, "choose another --out"):
        while not parent.exists():
            names.append(parent.name)
            parent = parent.parent
        if not parent.is_dir():
            raise OutputError(f"'{out}' cannot be made: '{parent}' is a file", hint="choose another --out")
        # A name that is too long for the file system is told before anything is computed, or made.
        for name in names:
            with suppress(FileNotFoundError):
                (parent / name).lstat()
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"'{parent}' cannot be written to", hint="choose another --out")


# What is in a folder of ours besides the files that its manifest lists: what training, updates, kits and engines leave.
_BESIDE = ("train/", "parts/", ".update/", ".update.partial/", ".previous/", ".counter.json", "recipe.json",
           "state.safetensors")  # fmt: skip


_DEMO = {"demo.json", "images", "pool", "students", "assembly", "artifacts", "three-seven", "small", "benchmark.json",
         "benchmark.png"}  # fmt: skip


def not_ours(folder: Path) -> str:
    """Return why a folder is not one that kfdeploy made, or holds something else besides; "" where it is all ours.

    Its manifest says what it is, and the files that the manifest lists are there with their sizes.
    """
    if (folder / "demo.json").is_file() and _read(folder / "demo.json") in ({}, {"kind": "demo"}):
        strange = sorted({entry.name for entry in folder.iterdir()} - _DEMO)
        return f"holds '{strange[0]}', which the demo did not write" if strange else ""
    for name, kinds in KINDS.items():
        about = _read(folder / name)
        if not isinstance(about, dict) or about.get("kind") not in kinds or not isinstance(about.get("files"), dict):
            continue
        files: dict[str, Any] = about["files"]
        for file, entry in files.items():
            size = entry.get("bytes") if isinstance(entry, dict) else None
            with suppress(OSError, ValueError):
                if not file.startswith(("/", "..")) and (folder / file).lstat().st_size == size:
                    continue
            return f"has a {name} that names '{file}', and that is missing or another file"
        kit = about.get("kit")
        if name == "manifest.json" and not isinstance(kit, list):  # 0.1.0 did not list a kit's files
            return ""
        return _strange(folder, {name, "model.onnx", *files, *(kit or ())})
    return "was not made by kfdeploy"


def _strange(folder: Path, known: Collection[str]) -> str:
    """Return that a folder of ours holds a file that we did not write, or "" where it holds none."""
    for place, _, names in os.walk(folder):
        for name in names:
            file = (Path(place) / name).relative_to(folder).as_posix()
            made = file in known or file.startswith(_BESIDE) or "__pycache__/" in file or file.endswith(".engine")
            if not made and name != ".DS_Store":
                return f"holds '{file}', which kfdeploy did not write"
    return ""


def _read(place: Path) -> Any:
    """Return a small JSON file's content, or None."""
    try:
        return json_of(read_regular(place, MOST_JSON))
    except (OSError, ReadingError):
        return None


def check_not_read(out: Path, *sources: Path | None) -> None:
    """Refuse an output in whose place, or around which, lies what it is made from.

    Raises:
        OutputError: as above.
    """
    place = Path(os.path.realpath(out))  # unlike `resolve`, it takes links that lead in a circle as they are
    for source in sources:
        if source is None:
            continue
        read = Path(os.path.realpath(source))
        if place == read or place in read.parents or any(_same(place, each) for each in (read, *read.parents)):
            what = "is" if place == read else "holds"
            raise OutputError(
                f"'{out}' {what} '{source}', which is read: it cannot be replaced by what is made from it",
                hint="choose another --out",
            )


def check_place(path: Path, *, force: bool) -> None:
    """Refuse a file that exists, or a place where none can be made.

    Raises:
        OutputError: as above.
    """
    with place_errors(path, "name another file"):
        found = None
        with suppress(FileNotFoundError, NotADirectoryError):  # of which the parent's check tells
            found = path.stat()
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise OutputError(f"'{path}' is a folder", hint="name a file")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise OutputError(f"'{path}' is a device or a pipe, not a file", hint="name a file")
    if found is not None and not force:
        raise OutputError(f"'{path}' is already there", hint="choose another name, or replace it with --force")
    _check_parent(path)


def _same(one: Path, other: Path) -> bool:
    """Return whether two paths are one place, whatever they are called: mounted twice, or spelt in another case."""
    try:
        return one.samefile(other)
    except OSError:
        return False


@contextmanager
def output_folder(out: Path, *, force: bool = False, wait: bool = False) -> Iterator[Path]:
    """Give a folder to write to, which becomes `out` when the block ends well and vanishes when it does not.

    Raises:
        OutputError: `out` exists and `force` is not set, another process writes there and `wait` is not, or the place
            cannot be written to.
    """
    check_output(out, force=force)
    out = followed(out)
    with place_errors(out, "free some space, or choose another --out"):
        make_folder(out.parent)
        with lock(out, wait=wait):
            sweep(out)
            check_output(out, force=force)
            work = fresh(out, "partial")
            work.mkdir()
            try:
                yield work
                commit(work, out)
            except BaseException:
                shutil.rmtree(work, ignore_errors=True)
                raise


def commit(work: Path, out: Path) -> None:
    """Put the finished folder `work`, seen on the disk, in the place of `out`; hold its lock meanwhile.

    Where `out` is a symbolic link, the folder it leads to is replaced, and the link stays.
    """
    out = followed(out)
    sync_tree(work)
    if not os.path.lexists(out):
        work.rename(out)
        sync_folder(out.parent)
        return
    old = work
    if not exchange(work, out):
        old = fresh(out, "replaced")
        out.rename(old)
        try:
            work.rename(out)
        except BaseException:
            old.rename(out)
            raise
    sync_folder(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def sweep(out: Path) -> None:
    """Remove what processes that died have left beside `out`, and put back an old one; hold its lock meanwhile."""
    known = re.compile(re.escape(stem(out)) + rf"\.{TOKEN}\.(partial|replaced)")
    with suppress(OSError):
        for entry in sorted(os.scandir(out.parent), key=lambda entry: entry.name):
            found = known.fullmatch(entry.name)
            if not found or not entry.is_dir(follow_symlinks=False):
                continue
            if found[1] == "replaced" and not os.path.lexists(out):
                Path(entry.path).rename(out)
                sync_folder(out.parent)
            else:
                shutil.rmtree(entry.path, ignore_errors=True)
