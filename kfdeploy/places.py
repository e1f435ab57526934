"""Where images and files lie on this machine: remembered here, and said in no file that ships.

What ships (pools, assemblies, students, artifacts, kits, updates) says of its images what they are, by a hash of them
all, and of a checkpoint its name. An absolute path, or one that leads upwards, is left out of it and kept for the same
user and machine in STATE/places/<hash>/, so that nobody has to name his data twice. STATE is `KFDEPLOY_STATE`, else
`kfdeploy` in the user's state folder (XDG_STATE_HOME). Where it is not there, `--data` names the folder.

A path that is relative and leads down stays: it says nothing of a machine. What 0.1.0 wrote is read as it is.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, cast

from kfdeploy.files import dump_json
from kfdeploy.reading import MOST_TEXT, ReadingError, json_of, read_regular
from kfdeploy.writing import write_file

_MOST = 256  # places of one set of images of a kind: copies are changed, and thrown away
_READ = 4096  # files of places that are read at most
_KEY = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"[0-9a-f]{32}\.json").fullmatch
# What of a recipe names a place; a star is any of several. `roots` are left out whole, of others the last part stays.
_ROOTS = ("data.root", "run.replay")
_FILES = (
    "data.names", "teacher.source", "teacher.weights", "teacher.classes", "teacher.net.weights", "ckn.weights",
    "tsn.net.weights", "students.*.net.weights",
)  # fmt: skip
_KINDS = re.compile(r"(file|onnx|pool):")


def shipped_recipe(recipe: Mapping[str, Any], images: str = "") -> dict[str, Any]:
    """Return a recipe without places of this machine, which are remembered as of `images`, the hash of them all."""
    found = _nothing()
    out: Any = recipe
    for names, change in ((_ROOTS, _rootless), (_FILES, _last)):
        for name in names:
            out = _changed(out, name.split("."), lambda text, change=change: change(text, found))  # type: ignore[misc]
    _remember(images, found)
    return dict(out)


def shipped_data(about: Mapping[str, Any], images: str = "") -> dict[str, Any]:
    """Return where images came from without the place, which is remembered as of `images` (default: what it says).

    That hash is said where it is needed to find them.
    """
    about = origin_of(about)  # of a student, the recipe's
    images = images or str(about.get("images", ""))
    out: dict[str, Any] = shipped_recipe({"data": about}, images)["data"]
    ours = out["source"] in ("digits", "dsprites")  # they come with us
    left_out = not ours and (not out["root"] or out.get("names") != about.get("names"))
    out.pop("images", None)
    return out | ({"images": images} if left_out and _KEY.fullmatch(images) else {})


def origin_of(data: Mapping[str, Any], images: str = "") -> dict[str, Any]:
    """Return `[data]` of a recipe as where images came from, which has their hash as `images`, and their `count`.

    A recipe says as `images` how many are asked for. What is no recipe's keeps its hash where none is given.
    """
    asked = data.get("images")
    count = {"count": asked, "images": ""} if type(asked) is int else {}
    return {**data, **count, **({"images": images} if images else {})}


def found_recipe(recipe: Mapping[str, Any], images: str) -> dict[str, Any]:
    """Return a recipe that was shipped with the places that this machine remembers for it."""
    known, out = _recall(images), recipe
    for name in _FILES:
        out = _changed(out, name.split("."), lambda text: _named(text, known))
    root = _there(str(recipe.get("data", {}).get("root", "")), known)
    return dict(_changed(out, ["data", "root"], lambda _: root))


def found_data(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return where images came from, with the place that this machine remembers for them."""
    return dict(found_recipe({"data": about}, str(about.get("images", "")))["data"])


def alternatives(about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return where images may be, the likeliest first: a copy that was trained from since may have been changed."""
    first = found_data(about)
    known = _recall(str(about.get("images", "")))["roots"]
    others = [place for place in known if Path(place).exists() and place != first["root"]]
    return [first, *({**first, "root": place} for place in others if not about.get("root"))]


def is_private(text: str) -> bool:
    """Return whether a path says something of a machine: it is absolute, leads upwards, or to somebody's home."""
    if not text:
        return False
    parts = PureWindowsPath(text).parts
    absolute = PurePosixPath(text).is_absolute() or bool(PureWindowsPath(text).drive or PureWindowsPath(text).root)
    return absolute or ".." in parts or text.startswith("~")


def _nothing() -> dict[str, list[str]]:
    return {"roots": [], "files": []}


def _rootless(text: str, found: dict[str, list[str]]) -> str:
    if not is_private(text):
        return text
    found["roots"].append(os.path.abspath(text))  # noqa: PTH100 - `Path.absolute` keeps the ".."
    return ""


def _last(text: str, found: dict[str, list[str]]) -> str:
    kind, path = _split(text)
    if not is_private(path):
        return text
    found["files"].append(os.path.abspath(path))  # noqa: PTH100
    return f"{kind}{PureWindowsPath(path).name}"


def _split(text: str) -> tuple[str, str]:
    kind = _KINDS.match(text)
    return (kind[0], text[kind.end() :]) if kind else ("", text)


def _there(text: str, known: Mapping[str, list[str]]) -> str:
    if text and Path(text).exists():
        return text
    return next((place for place in known["roots"] if Path(place).exists()), text)


def _named(text: str, known: Mapping[str, list[str]]) -> str:
    kind, path = _split(text)
    if not path or Path(path).exists():
        return text
    fits = (place for place in known["files"] if Path(place).name == path and Path(place).exists())
    return f"{kind}{next(fits, path)}"


def _changed(value: Any, names: list[str], change: Callable[[str], str]) -> Any:
    """Return a tree of tables with the texts at a dotted name changed; what is not there stays away."""
    if not names:
        return change(value) if isinstance(value, str) else value
    if names[0] == "*" and isinstance(value, list):
        return [_changed(each, names[1:], change) for each in value]
    if isinstance(value, Mapping) and names[0] in value:
        return {**value, names[0]: _changed(value[names[0]], names[1:], change)}
    return value


def _folder(images: str) -> Path | None:
    if not _KEY.fullmatch(images):
        return None
    chosen = os.environ.get("KFDEPLOY_STATE")
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    try:
        state = Path(chosen).expanduser() if chosen else (base if base.is_absolute() else Path.home() / ".local/state")
    except RuntimeError:  # nobody's home
        return None
    return (state if chosen else state / "kfdeploy") / "places" / images


def _recall(images: str) -> dict[str, list[str]]:
    """Return the places of each kind, the oldest first."""
    folder, known = _folder(images), _nothing()
    for name in _names(folder) if folder else ():
        with suppress(OSError, ReadingError):
            read = json_of(read_regular(cast(Path, folder) / name, MOST_TEXT))
            if isinstance(read, dict) and read.get("kind") in known and isinstance(read.get("path"), str):
                known[read["kind"]].append(read["path"])
    return known


def _names(folder: Path) -> list[str]:
    """Return the files of a folder of places, the oldest first, and of very many the last ones."""
    with suppress(OSError), os.scandir(folder) as entries:
        found = [(each.stat(follow_symlinks=False).st_mtime_ns, each.name) for each in entries if _NAME(each.name)]
        return [name for _, name in sorted(found)[-_READ:]]
    return []


def _remember(images: str, found: Mapping[str, list[str]]) -> None:
    """Keep places, each in a file of its own: whoever does the same beside us loses nothing of ours."""
    folder, known = _folder(images), _recall(images)
    fresh = [(kind, path) for kind, paths in found.items() for path in paths if path not in known[kind]]
    if folder is None or not fresh:
        return
    with suppress(Exception):  # a home that cannot be written to: `--data` is then asked for
        folder.mkdir(parents=True, exist_ok=True)
        for kind, path in fresh:
            write_file(folder / _name(kind, path), dump_json({"kind": kind, "path": path}), durable=False)
        for kind, paths in _recall(images).items():
            for path in _too_many(paths):
                (folder / _name(kind, path)).unlink(missing_ok=True)


def _too_many(paths: list[str]) -> list[str]:
    """Return which places to forget: those that are gone, then those in the middle: the first is used longest."""
    if len(paths) <= _MOST:
        return []
    there = [path for path in paths if Path(path).exists()]
    kept = there if len(there) <= _MOST else [*there[: _MOST // 2], *there[-_MOST // 2 :]]
    return [path for path in paths if path not in kept]


def _name(kind: str, path: str) -> str:
    return f"{hashlib.sha256(f'{kind}:{path}'.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
