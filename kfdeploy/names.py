"""One check for every name that comes out of a file: it never leads anywhere but into its own folder."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from kfdeploy.errors import PoolError

_LONGEST, _PART = 1024, 255  # bytes of a name, and of one part of it: what file systems have room for
_TEXT = re.compile(r"[^\\\x00-\x1f\x7f-\x9f\ud800-\udfff]+")  # no backslash, no control character, no half of a pair
_DO_NOT_USE = "do not use this folder"


def inside(root: Path, name: str) -> Path:
    """Return `root/name`, refusing a name that leads outside `root`, and a symbolic link on the way to it.

    `root` itself may be reached through one.

    Raises:
        PoolError: the name is none (see `check_inside`), or the file or a folder below `root` is a link.
    """
    check_inside(root, (name,))
    path = root
    for part in name.split("/"):
        path = path / part
        refuse_link(path)
    return path


def refuse_link(path: Path) -> None:
    """Refuse a symbolic link inside a folder of ours: it would let a folder read, write or delete elsewhere.

    Raises:
        PoolError: as above.
    """
    if path.is_symlink():
        raise PoolError(
            f"'{path}' is a symbolic link, and inside a folder of kfdeploy none is followed",
            hint="put the file itself there, if the folder is yours; else do not use it",
        )


def tree(root: Path) -> list[Path]:
    """Return every file in a folder of ours and below, sorted; nothing is read or followed.

    Raises:
        PoolError: there is a symbolic link.
    """
    found: list[Path] = []
    refuse_link(root)
    for place, folders, names in os.walk(root):
        for name in (*folders, *names):
            refuse_link(Path(place, name))
        found += [Path(place, name) for name in names]
    return sorted(found)


def check_inside(root: Path | str, names: Iterable[object]) -> None:
    """Refuse names that lead outside `root`, or are no names; quick, because a pool may have ten thousand tasks.

    A name is relative, with `/` between its parts, none of them empty, `.` or `..`; it has no backslash, no control
    character and no drive letter, and is bounded in length.

    Raises:
        PoolError: as above.
    """
    for name in names:
        if not isinstance(name, str) or (why := _fault(name)):
            why = why if isinstance(name, str) else "that is no text"
            raise PoolError(f"the manifest of '{root}' names a file {why}: {name!r:.100}", hint=_DO_NOT_USE)


def check_name(name: object, what: str) -> str:
    """Return a name out of a file that becomes a file's or a folder's own name: one plain part, and no path.

    Raises:
        PoolError: it is none; `what` says where it stood.
    """
    if not isinstance(name, str) or "/" in name or _fault(name):
        raise PoolError(
            f"{what} is {name!r:.100}, which cannot be the name of a folder",
            allowed=(f"one part of a path, up to {_PART} bytes, without '/', '\\' and control characters",),
            hint=_DO_NOT_USE,
        )
    return name


def _fault(name: str) -> str:
    """Return in what way a name leads outside its folder, or is none; else an empty string."""
    if name[:1] == "/" or name[1:2] == ":" or "\\" in name:
        return "outside it"
    parts = name.split("/")
    if ".." in parts or name == ".":
        return "outside it"
    if not _TEXT.fullmatch(name):
        return "by nothing" if not name else "with a control character in its name"
    if "" in parts or "." in parts:
        return "with an empty part in its name"
    if len(name) > _PART // 4 and (len(name.encode()) > _LONGEST or max(len(p.encode()) for p in parts) > _PART):
        return f"with more than {_LONGEST} bytes in its name, or {_PART} in a part of it"
    return ""
