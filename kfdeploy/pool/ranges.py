"""The files of ranges in a pool, a student or a teacher."""

import hashlib
from pathlib import Path

from kfdeploy.files import dump_json, file_name, write_file
from kfdeploy.graph.ranges import Range
from kfdeploy.manifest import SCHEMA, read_manifest

FOLDER = "calibration"


def write_pool_ranges(root: Path, found: dict[str, dict[str, Range]], images: int) -> dict[str, str]:
    """Write a pool's ranges, the CKN's ("") and each task's in files of their own, and return their names."""
    return {
        task: write_ranges(root, f"task-{file_name(task)}" if task else "common", ranges, images)
        for task, ranges in found.items()
    }


def write_ranges(root: Path, name: str, ranges: dict[str, Range], images: int) -> str:
    """Write ranges and return the file's name, which holds its hash: what a manifest names is never overwritten."""
    listed = {tensor: list(values) for tensor, values in ranges.items()}
    text = dump_json({"schema": SCHEMA, "kind": "calibration", "images": images, "ranges": listed})
    path = f"{FOLDER}/{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    write_file(root / path, text)
    return path


def read_ranges(path: Path) -> dict[str, Range]:
    """Read what `write_ranges` wrote.

    Raises:
        PoolError: it is not there, or of another kind.
    """
    found = read_manifest(path, "calibration", "kfdeploy calibrate")
    return {name: (float(low), float(high)) for name, (low, high) in found["ranges"].items()}
