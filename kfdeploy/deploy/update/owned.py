"""Who may change what a device trusts: keys, and every folder above them, are our own and nobody else's to write.

The rule is sshd's. A file or a folder belongs to whoever runs this or to root, and neither its group nor others may
write to it; a group of the owner's own name, which nobody else is in, is the owner. Above the state folder a folder
that all may write to, such as /tmp, passes where the system keeps their hands off each other's (the sticky bit). Where
the system has no owners, nothing is asked.
"""

import os
import stat
from pathlib import Path

from kfdeploy.errors import UpdateError


def require_own(path: Path, top: Path) -> None:
    """Refuse a file of a device's state, below its folder `top`, that somebody else may change or replace.

    Raises:
        UpdateError: it, or a folder that leads to it, belongs to somebody else, or others may write to it.
    """
    if not hasattr(os, "geteuid"):
        return
    top = top.resolve()
    # Of a link, whoever may change the link and whoever may change what it leads to.
    places = {path.absolute(), path.resolve()}
    for place in sorted({*places, *(above for each in places for above in each.parents)}):
        inside = place == top or top in place.parents or place == path.resolve()
        try:
            found = place.stat()
        except OSError as error:
            raise UpdateError(
                f"'{place}' cannot be looked at: {error.strerror}", hint="run this as the user whose keys these are"
            ) from None
        if found.st_uid not in (0, os.geteuid()):
            raise UpdateError(
                f"'{place}' belongs to {_user(found.st_uid)}, who could change what this device trusts",
                hint=f"chown it to {_user(os.geteuid())} or root, or run this as the user whose keys these are",
            )
        if _others_write(found) and (inside or not found.st_mode & stat.S_ISVTX):
            raise UpdateError(
                f"others than {_user(found.st_uid)} may write to '{place}', and so change what this device trusts",
                hint=f"chmod go-w '{place}'",
            )


def _others_write(found: os.stat_result) -> bool:
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _own_group(found)


def _own_group(found: os.stat_result) -> bool:
    """Return whether a file's group is its owner's alone, as systems make one for every user."""
    import grp
    import pwd

    if found.st_gid == 0:
        return True
    try:
        user, group = pwd.getpwuid(found.st_uid), grp.getgrgid(found.st_gid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and user.pw_gid == found.st_gid and not {*group.gr_mem} - {user.pw_name}


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"the user {number}"
