"""Manifests: what a folder of ours says of itself, read, and its files held to it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from kfdeploy.errors import PoolError
from kfdeploy.files import sha256

ARTIFACT = "manifest.json"
GOLDEN = "golden.npz"
ASSEMBLY = "assembly.json"
GRAPH = "model.onnx"
POOL = "pool.json"


class DataOrigin(TypedDict):
    """Where a model's images came from: the source's name, and the root it was read from."""

    source: str
    root: str


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


SCHEMA = 1


def read_manifest(path: Path, kind: str | tuple[str, ...], hint: str) -> dict[str, Any]:
    """Read a manifest and check its schema and kind.

    Raises:
        PoolError: the file is missing or not JSON, or of another schema or kind.
    """
    kinds = (kind,) if isinstance(kind, str) else kind
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise PoolError(f"there is no {kinds[0]} at '{path.parent}' ('{path.name}' is missing)", hint=hint) from None
    except OSError as error:
        raise PoolError(f"'{path}' cannot be read: {error}", hint=hint) from None
    return parse_manifest(data, str(path), kinds, hint)


def parse_manifest(data: bytes, path: str, kinds: tuple[str, ...], hint: str) -> dict[str, Any]:
    """Read the bytes of a manifest that came from `path`, and check its schema and kind.

    Raises:
        PoolError: they are not JSON, or of another schema or kind.
    """
    try:
        manifest = json.loads(data.decode())
    except ValueError as error:
        raise PoolError(f"'{path}' cannot be read: {error}", hint=hint) from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        seen = manifest.get("schema") if isinstance(manifest, dict) else type(manifest).__name__
        raise PoolError(
            f"'{path}' has schema {seen!r}, and this version of kfdeploy reads schema {SCHEMA}",
            hint="update kfdeploy, or make it again with this version",
        )
    if manifest.get("kind") not in kinds:
        raise PoolError(f"'{path}' describes a '{manifest.get('kind')}'", allowed=kinds, hint=hint)
    return manifest


def inside(root: Path, name: str) -> Path:
    """Return `root/name`, refusing a name that leads outside `root`.

    Raises:
        PoolError: the name is absolute or climbs out.
    """
    check_inside(root, (name,))
    return root / name


def check_inside(root: Path | str, names: Iterable[str]) -> None:
    """Refuse names that lead outside `root`; quick, because a pool may have ten thousand tasks.

    Raises:
        PoolError: a name is absolute or climbs out.
    """
    for name in names:
        if not name or name[0] == "/" or "\\" in name or (".." in name and ".." in name.split("/")) or name == ".":
            raise PoolError(
                f"the manifest of '{root}' names a file outside it: '{name}'", hint="do not use this folder"
            )


def check_files(root: Path, files: Mapping[str, Mapping[str, Any]], names: Iterator[str] | list[str]) -> None:
    """Check that each named file is there, whole, and as its manifest says.

    Raises:
        PoolError: a file is missing, of another length, or of another hash; or not in the manifest.
    """
    again = "copy the folder again, or make it again"
    for name in names:
        path = inside(root, name)
        if not {"bytes", "sha256"} <= set(files.get(name, ())):
            raise PoolError(f"'{name}' is not among the files of '{root}'", hint=again)
        if not path.is_file():
            raise PoolError(f"'{path}' is missing", hint=again)
        size = path.stat().st_size
        if size != files[name]["bytes"]:
            raise PoolError(f"'{path}' has {size} bytes, its manifest says {files[name]['bytes']}", hint=again)
        if (seen := sha256(path)) != files[name]["sha256"]:
            raise PoolError(
                f"'{path}' was altered: its sha256 is {seen[:12]}…, its manifest says {files[name]['sha256'][:12]}…",
                hint=again,
            )


def describe_files(root: Path, paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Return `{relative name: {"bytes", "sha256"}}`, as manifests hold it."""
    return {
        path.relative_to(root).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(paths)
    }
