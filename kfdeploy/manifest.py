"""Manifests: what a folder of ours says of itself, typed, opened in one way, and its files held to it."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from kfdeploy.errors import PoolError
from kfdeploy.files import sha256

POOL = "pool.json"
ASSEMBLY = "assembly.json"  # of students and teachers too
MODELS = ("assembly", "student", "teacher")  # the kinds that it has
ARTIFACT = "manifest.json"
GRAPH = "model.onnx"
PARTS = "parts"  # in an assembly: the part of the pool it was made from
GOLDEN = "golden.npz"
TRAINING = "train/"  # in a pool: what resuming or adding a task needs; not needed to deploy
# The schema that this version writes and reads, a number for each kind of file.
SCHEMAS: Mapping[str, int] = dict.fromkeys(
    ("pool", "assembly", "student", "teacher", "artifact", "task", "evidence", "calibration", "state", "replay",
     "update", "swap", "counter", "benchmark", "inspection", "costs", "subsets"), 1,
)  # fmt: skip


class FileEntry(TypedDict):
    """A file as its manifest knows it."""

    bytes: int
    sha256: str


Files = dict[str, FileEntry]  # by relative name


class DataOrigin(TypedDict):
    """Where a model's images came from: the source's name, and the root it was read from."""

    source: str
    root: str
    names: NotRequired[str | dict[str, str]]  # what classes are called instead of their folders
    test: NotRequired[float]  # the share of train that is for testing, where there is no test split


class TaskEntry(TypedDict):
    """A task in a manifest; in a pool also the names of its files."""

    name: str
    classes: list[str]
    kind: str
    file: NotRequired[str]
    evidence: NotRequired[str]
    calibration: NotRequired[str]  # its ranges of activations
    weights: NotRequired[str]  # float16; float32 where it is not said


class BlockEntry(TypedDict):
    """Validation images that came with an added task."""

    task: str
    file: str
    classes: list[str]
    data: NotRequired[DataOrigin]
    without: NotRequired[list[str]]  # tasks that have no logits for them, after a merge


class PoolManifest(TypedDict):
    """`pool.json`."""

    schema: int
    kind: str
    version: str
    name: str
    recipe: dict[str, Any]
    image: dict[str, Any]
    coupling: str
    temperatures: dict[str, float]
    teacher: dict[str, Any]
    versions: dict[str, str]
    nets: dict[str, Any]
    training: dict[str, Any]
    images: NotRequired[dict[str, Any]]  # how many it was made from, and a hash of them all
    tasks: list[TaskEntry]
    classes: list[str]  # that the labels of evidence/shared count in
    files: Files
    calibration: NotRequired[str]
    blocks: NotRequired[list[BlockEntry]]
    added: NotRequired[list[dict[str, Any]]]
    merged: NotRequired[list[str]]
    converted: NotRequired[dict[str, Any]]


class ModelManifest(TypedDict):
    """`assembly.json` of an assembly, a student or a teacher."""

    schema: int
    kind: str
    version: str
    name: str
    image: dict[str, Any]
    tasks: list[TaskEntry]
    parameters: int
    golden: dict[str, Any]
    accuracy: dict[str, Any]
    files: Files
    data: DataOrigin
    fuse: NotRequired[str]  # an assembly's form
    provenance: NotRequired[dict[str, Any]]
    open_set: NotRequired[dict[str, Any]]
    training: NotRequired[dict[str, Any]]  # a student's or a teacher's
    images: NotRequired[dict[str, Any]]  # how many it was made from, and a hash of them all
    recipe: NotRequired[dict[str, Any]]
    calibration: NotRequired[str]


class ArtifactManifest(TypedDict):
    """`manifest.json` of an artifact."""

    schema: int
    kind: str
    version: str
    model: dict[str, Any]
    target: str
    precision: str
    options: dict[str, Any]
    fuse: dict[str, Any] | None
    image: dict[str, Any]
    tasks: list[TaskEntry]
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    open_set: dict[str, Any] | None
    parameters: int
    model_files: list[str]
    versions: dict[str, str]
    training: dict[str, Any] | None
    data: DataOrigin
    verify: dict[str, Any]
    executed: dict[str, Any]
    files: Files
    auto: NotRequired[dict[str, Any]]
    kit: NotRequired[list[str]]  # the files of the device kit beside it


def stamp(kind: str) -> dict[str, Any]:
    """Return what every file of ours says first: its schema and its kind."""
    return {"schema": SCHEMAS[kind], "kind": kind}


def versions(*names: str) -> dict[str, str]:
    """Return the installed versions of distributions, without importing them."""
    from importlib import metadata

    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def open_manifest(data: bytes, place: str, kinds: Sequence[str], needs: Sequence[str], hint: str) -> Any:
    """Return the manifest of a pool, a model or an artifact, which names no file outside its folder.

    `data` came from `place`. `needs` are the keys that it must have, dotted where one is inside another.

    Raises:
        PoolError: it is not JSON, of another schema or kind, incomplete, or names a file outside its folder.
    """
    manifest = parse_manifest(data, place, kinds, hint)
    try:
        for key in ("files", "tasks", "image", *needs):
            found: Any = manifest
            for part in key.split("."):
                found = found[part]
        names = [*manifest["files"], *manifest.get("model_files", ())]
        for entry in manifest["tasks"]:
            texts = (entry["name"], entry["kind"], *entry["classes"])
            if isinstance(entry["classes"], str) or not all(isinstance(text, str) for text in texts):
                raise TypeError(f"a task is {entry['name']!r:.40} with the classes {entry['classes']!r:.40}")
            names += [entry[key] for key in ("file", "evidence", "calibration") if key in entry]
        names += [block["file"] for block in manifest.get("blocks", ())]
        names += [manifest["calibration"]] if "calibration" in manifest else []
        check_inside(place.rpartition("/")[0] or ".", names)
        for name, about in manifest["files"].items():
            if not isinstance(about, dict) or not {"bytes", "sha256"} <= about.keys():
                raise TypeError(f"of the file '{name}' it has no bytes and sha256")
        if "pool" not in kinds and "artifact" not in kinds and GRAPH not in manifest["files"]:
            raise KeyError(f"'{GRAPH}' is not among the files")
        check_name(manifest["model"]["name"] if "artifact" in kinds else manifest["name"], f"the name in '{place}'")
    except (KeyError, TypeError, AttributeError) as error:
        raise PoolError(f"'{place}' is incomplete: {error}", hint=hint) from None
    return manifest


def read_manifest(path: Path, kind: str | Sequence[str], hint: str) -> dict[str, Any]:
    """Read a manifest and check its schema and kind.

    Raises:
        PoolError: the file is missing or not JSON, or of another schema or kind.
    """
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    return parse_manifest(read_bytes(path, kinds[0], hint), str(path), kinds, hint)


def read_bytes(path: Path, kind: str, hint: str) -> bytes:
    """Return the bytes of a manifest.

    Raises:
        PoolError: it is missing, or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise PoolError(f"there is no {kind} at '{path.parent}' ('{path.name}' is missing)", hint=hint) from None
    except OSError as error:
        raise PoolError(f"'{path}' cannot be read: {error}", hint=hint) from None


def parse_manifest(data: bytes, path: str, kinds: Sequence[str], hint: str) -> dict[str, Any]:
    """Read the bytes of a manifest that came from `path`, and check its schema and kind.

    Raises:
        PoolError: they are not JSON, or of another schema or kind.
    """
    try:
        manifest = json.loads(data.decode())
    except ValueError as error:
        raise PoolError(f"'{path}' cannot be read: {error}", hint=hint) from None
    schema = SCHEMAS[kinds[0]]
    if not isinstance(manifest, dict) or manifest.get("schema") != schema:
        seen = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise PoolError(
            f"'{path}' has schema {seen!r}, and this version of kfdeploy reads schema {schema}",
            hint="update kfdeploy, or make it again with this version",
        )
    if manifest.get("kind") not in kinds:
        raise PoolError(f"'{path}' describes a '{manifest.get('kind')}'", allowed=kinds, hint=hint)
    return manifest


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


def check_files(root: Path, files: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> None:
    """Check that each named file is there, whole, and as its manifest says.

    Raises:
        PoolError: a file is missing, of another length, or of another hash; or not in the manifest.
    """
    for name in names:
        path = _there(root, files, name)
        _same(path, files[name], path.stat().st_size, lambda path=path: sha256(path))  # type: ignore[misc]


def read_file(root: Path, files: Mapping[str, Mapping[str, Any]], name: str) -> bytes:
    """Return a file's bytes, which are what its manifest says.

    Raises:
        PoolError: it is missing, of another length, or of another hash; or not in the manifest.
    """
    path = _there(root, files, name)
    data = path.read_bytes()
    _same(path, files[name], len(data), lambda: hashlib.sha256(data).hexdigest())
    return data


_AGAIN = "copy the folder again, or make it again"


def _there(root: Path, files: Mapping[str, Mapping[str, Any]], name: str) -> Path:
    path = inside(root, name)
    about = files.get(name, {})
    if type(about.get("bytes")) is not int or not re.fullmatch("[0-9a-f]{64}", str(about.get("sha256"))):
        raise PoolError(f"'{name}' is not among the files of '{root}'", hint=_AGAIN)
    if not path.is_file():
        raise PoolError(f"'{path}' is missing", hint=_AGAIN)
    return path


def _same(path: Path, about: Mapping[str, Any], size: int, digest: Callable[[], str]) -> None:
    if size != about["bytes"]:
        raise PoolError(f"'{path}' has {size} bytes, its manifest says {about['bytes']}", hint=_AGAIN)
    if (seen := digest()) != about["sha256"]:
        raise PoolError(
            f"'{path}' was altered: its sha256 is {seen[:12]}…, its manifest says {about['sha256'][:12]}…", hint=_AGAIN
        )


def describe_files(root: Path, paths: Iterable[Path]) -> Files:
    """Return `{relative name: {"bytes", "sha256"}}`, as manifests hold it."""
    return {
        path.relative_to(root).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(paths)
    }
