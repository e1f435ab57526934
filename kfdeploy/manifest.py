"""Manifests: what a folder of ours says of itself, typed, opened in one way, and its files held to it."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from kfdeploy.errors import PoolError
from kfdeploy.files import sha256
from kfdeploy.names import check_inside, check_name, inside
from kfdeploy.reading import MOST_FILE, parse_json, read_named, read_regular, reason
from kfdeploy.schema import SHAPES, require

POOL = "pool.json"
ASSEMBLY = "assembly.json"  # of students and teachers too
MODELS = ("assembly", "student", "teacher")  # the kinds that it has
ARTIFACT = "manifest.json"
GRAPH = "model.onnx"
PARTS = "parts"  # in an assembly: the part of the pool it was made from
GOLDEN = "golden.npz"
TRAINING = "train/"  # in a pool: what resuming or adding a task needs; not needed to deploy
# The newest schema that this version reads, a number for each kind of file; older ones are read too, and the lowest
# that can say it is written.
SCHEMAS: Mapping[str, int] = dict.fromkeys(
    ("task", "evidence", "calibration", "state", "replay", "update", "swap", "counter", "rotation", "benchmark",
     "inspection", "costs", "subsets"), 1,
) | dict.fromkeys(("pool", "assembly", "student", "teacher", "artifact"), 2)  # fmt: skip


class FileEntry(TypedDict):
    """A file as its manifest knows it."""

    bytes: int
    sha256: str


Files = dict[str, FileEntry]  # by relative name


class DataOrigin(TypedDict):
    """Where a model's images came from: the source's name, and the root it was read from."""

    source: str
    root: str  # relative and downwards, or empty: `places` knows where it is on this machine
    names: NotRequired[str | dict[str, str]]  # what classes are called instead of their folders
    images: NotRequired[str]  # a hash of them all, by which `places` knows them
    test: NotRequired[float]  # the share of train that is for testing, where there is no test split
    ignore: NotRequired[list[str]]  # classes that no task has, and fields that are not read
    fields: NotRequired[dict[str, dict[str, Any]]]  # as in a recipe: of a field its kind, classes, coupling
    partial: NotRequired[bool]  # images and rows that lack each other were left out
    count: NotRequired[int]  # of the images of dsprites, which in a recipe is `images`


class TaskEntry(TypedDict):
    """A task in a manifest; in a pool also the names of its files."""

    name: str
    classes: list[str]
    kind: str
    field: NotRequired[str]  # schema 2: `class` where it is not said
    template: NotRequired[str]  # in a pool of schema 2: `task` where it is not said
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


class FieldEntry(TypedDict):
    """What a pool says of one thing that it knows of an image."""

    kind: str
    classes: list[str]  # that the labels of evidence/shared count in
    coupling: str


class FaceEntry(TypedDict):
    """What a common network gives to the tasks: `z`, a vector."""

    channels: int


class TemplateEntry(TypedDict):
    """One architecture of a task's network: its graph, what it reads, the face it adds to, and its width."""

    file: str
    tap: str
    face: str
    D: int


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
    classes: NotRequired[list[str]]  # schema 1: that the labels of evidence/shared count in
    fields: NotRequired[dict[str, FieldEntry]]  # schema 2: of each field its kind, classes, coupling
    faces: NotRequired[dict[str, FaceEntry]]  # schema 2
    templates: NotRequired[dict[str, TemplateEntry]]  # schema 2
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


def stamp(kind: str, tasks: Iterable[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return what every file of ours says first: its schema, the lowest that can say what it holds, and its kind.

    `tasks` are the manifest's own entries: schema 1 knows of one field alone, `class`, and does not name it.
    """
    return {"schema": 2 if any("field" in entry for entry in tasks) else 1, "kind": kind}


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
    require(manifest, SHAPES[manifest["kind"]], place, hint)
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
    return read_named(path, f"there is no {kind} at '{path.parent}' ('{path.name}' is missing)", hint)


def parse_manifest(data: bytes, path: str, kinds: Sequence[str], hint: str) -> dict[str, Any]:
    """Read the bytes of a manifest that came from `path`, and check its schema and kind.

    Raises:
        PoolError: they are not JSON, or of another schema or kind.
    """
    manifest = parse_json(data, path, hint=hint, constants=kinds[0] in _MEASURED)
    newest = SCHEMAS[kinds[0]]
    seen = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
    if type(seen) is not int or not 1 <= seen <= newest:
        known = "schema 1" if newest == 1 else f"schemas 1 to {newest}"
        raise PoolError(
            f"'{path}' has schema {seen!r:.40}, and this version of kfdeploy reads {known}",
            hint="update kfdeploy, or make it again with this version",
        )
    if manifest.get("kind") not in kinds:
        raise PoolError(f"'{path}' describes a '{manifest.get('kind')}'", allowed=kinds, hint=hint)
    if manifest["kind"] in SHAPES and "files" not in manifest:  # else `open_manifest` looks at the names first
        require(manifest, SHAPES[manifest["kind"]], path, hint)
    return dict(manifest)


_MEASURED = ("benchmark", "inspection")  # where a number may be none that is known


def check_files(root: Path, files: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> None:
    """Check that each named file is there, whole, and as its manifest says.

    Raises:
        PoolError: a file is missing, of another length, or of another hash; or not in the manifest.
    """
    for name in names:
        path = _there(root, files, name)
        with _readable(path):
            _same(path, files[name], path.stat().st_size, lambda path=path: sha256(path))  # type: ignore[misc]


def read_file(root: Path, files: Mapping[str, Mapping[str, Any]], name: str) -> bytes:
    """Return a file's bytes, which are what its manifest says.

    Raises:
        PoolError: it is missing, of another length, or of another hash; or not in the manifest.
    """
    path = _there(root, files, name)
    most = files[name]["bytes"]
    with _readable(path):
        if (size := path.stat().st_size) != most or size > MOST_FILE:  # before any of it is read
            _same(path, files[name], size, str)
        data = read_regular(path, min(most, MOST_FILE))
    _same(path, files[name], len(data), lambda: hashlib.sha256(data).hexdigest())
    return data


_AGAIN = "copy the folder again, or make it again"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say of a file that it cannot be read.

    Raises:
        PoolError: an OSError happened inside.
    """
    try:
        yield
    except OSError as error:
        raise PoolError(f"'{path}' cannot be read: {reason(error)}", hint=_AGAIN) from None


def size_of(root: object, files: Mapping[str, Mapping[str, Any]], name: str) -> int:
    """Return how many bytes a manifest says that a file has.

    Raises:
        PoolError: it does not name the file.
    """
    if name not in files:
        raise PoolError(f"'{name}' is not among the files of '{root}'", hint=_AGAIN)
    return int(files[name]["bytes"])


def _there(root: Path, files: Mapping[str, Mapping[str, Any]], name: str) -> Path:
    path = inside(root, name)
    about = files.get(name, {})
    if type(about.get("bytes")) is not int or not re.fullmatch("[0-9a-f]{64}", str(about.get("sha256"))):
        raise PoolError(f"'{name}' is not among the files of '{root}'", hint=_AGAIN)
    with _readable(path):
        there = path.is_file()
    if not there:
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
