"""The files of ranges in a pool, a student or a teacher."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kfdeploy.errors import PoolError
from kfdeploy.files import dump_json, file_name
from kfdeploy.graph.ranges import Range
from kfdeploy.manifest import ASSEMBLY, POOL, Files, describe_files, parse_manifest, stamp
from kfdeploy.names import inside
from kfdeploy.writing import write_file

FOLDER = "calibration"
_OURS = re.compile(FOLDER + r"/(common|model|task-[^/]+)(-[0-9a-f]{12})?\.json")


def write_pool_ranges(root: Path, found: dict[str, dict[str, Range]], images: int) -> dict[str, str]:
    """Write a pool's ranges, the CKN's ("") and each task's in files of their own, and return their names."""
    return {
        task: write_ranges(root, f"task-{file_name(task)}" if task else "common", ranges, images)
        for task, ranges in found.items()
    }


def write_ranges(root: Path, name: str, ranges: dict[str, Range], images: int) -> str:
    """Write ranges and return the file's name, which holds its hash: what a manifest names is never overwritten."""
    listed = {tensor: list(values) for tensor, values in ranges.items()}
    text = dump_json(stamp("calibration") | {"images": images, "ranges": listed})
    path = f"{FOLDER}/{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    write_file(inside(root, path), text)
    return path


def replaced(root: Path, files: Files, named: Sequence[str], written: Sequence[str]) -> Files:
    """Return a folder's files with newly written ranges in the place of those that its manifest `named`."""
    gone = {name for name in named if name.startswith(f"{FOLDER}/")}
    kept = {name: about for name, about in files.items() if name not in gone}
    return kept | describe_files(root, [root / name for name in written])


def sweep_ranges(root: Path, named: Sequence[str], written: Sequence[str]) -> None:
    """Remove the files of ranges that a manifest named before; it names the `written` ones by now.

    Only what we wrote is removed: a file in `calibration/` by a name that we give.
    """
    for name in set(named) - set(written):
        if _OURS.fullmatch(name):
            with suppress(OSError, PoolError):  # it is in nobody's way
                inside(root, name).unlink()


@contextmanager
def nothing_left(root: Path) -> Iterator[None]:
    """Remove the ranges that were written inside, where that fails before a manifest names them: the disk was full."""
    before = _here(root)
    try:
        yield
    except BaseException:
        with suppress(OSError, PoolError):
            manifests = [root / name for name in (POOL, ASSEMBLY) if (root / name).is_file()]
            texts = [path.read_text(encoding="utf-8") for path in manifests]
            for name in _here(root) - before:
                if _OURS.fullmatch(name) and not any(name in text for text in texts):
                    inside(root, name).unlink()
            if not before:
                inside(root, FOLDER).rmdir()
        raise


def _here(root: Path) -> set[str]:
    return {f"{FOLDER}/{path.name}" for path in inside(root, FOLDER).glob("*")}


def parse_ranges(data: bytes, origin: str) -> dict[str, Range]:
    """Return the ranges in what `write_ranges` wrote, which came from `origin`.

    Raises:
        PoolError: it is of another kind.
    """
    found = parse_manifest(data, origin, ("calibration",), "kfdeploy calibrate")
    return {name: (float(low), float(high)) for name, (low, high) in found["ranges"].items()}
