"""Whether a place is a folder of this machine or a URL."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from kfdeploy import shown
from kfdeploy.errors import UnsupportedError


def locate(place: str | Path) -> Path | str:
    """Return a folder of this machine as a path, and any other URL as it is; `file://` is this machine's.

    Raises:
        UnsupportedError: a URL names nothing, or has lost a slash; a `file://` URL names another host.
    """
    if isinstance(place, Path) or "://" not in place:
        _refuse_one_slash(Path(place))
        return Path(place)
    try:
        parts = urlsplit(place)
    except ValueError:
        raise UnsupportedError(f"'{shown.place(place)}' is no URL", hint="s3://<bucket>/<folder>") from None
    if not parts.netloc and not parts.path.strip("/") and parts.scheme != "memory":
        raise UnsupportedError(
            f"'{shown.place(place)}' names no bucket and no folder", hint=f"{parts.scheme}://<bucket>/<folder>"
        )
    if parts.scheme not in ("file", "local"):
        return place
    if parts.netloc not in ("", "localhost"):
        raise UnsupportedError(
            f"'{place}' names the host '{parts.hostname}'", hint="file:///absolute/folder, or a path"
        )
    return Path(unquote(parts.path))


def _refuse_one_slash(path: Path) -> None:
    first = path.parts[0] if path.parts else ""
    if len(first) > 2 and first.endswith(":") and not Path(first).exists():  # a path makes s3:/ of s3://
        raise UnsupportedError(
            f"'{path}' is neither a folder nor a URL", hint=f"{first}//…, as text: a Path loses a slash"
        )


def local_folder(place: str | Path, doing: str) -> Path:
    """Return a folder of this machine, for what writes to it.

    Raises:
        UnsupportedError: it is on a server.
    """
    found = locate(place)
    if isinstance(found, str):
        raise UnsupportedError(
            f"'{shown.place(found)}' is on a server, and {doing} writes to its pool",
            hint="do it to the pool's folder, then: kfdeploy pool push <pool> <url>",
        )
    return found
