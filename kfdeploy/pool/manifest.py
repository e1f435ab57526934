"""Writing `pool.json`, which makes a folder a pool."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kfdeploy.files import CHECKPOINTS, TIMING, dump_json, file_name
from kfdeploy.manifest import POOL, SCHEMA, describe_files
from kfdeploy.tasks.spec import TaskSpec

SHARED = "evidence/shared.safetensors"


def write_manifest(root: Path, fields: dict[str, Any], tasks: Sequence[TaskSpec], calibration: dict[str, str]) -> None:
    """Write `pool.json` for the files that lie in `root`, which is the last thing that makes it a pool.

    `calibration` names the files with the ranges of the CKN ("") and of each task.
    """
    from kfdeploy.version import __version__

    left_out = (POOL, "recipe.json", TIMING)
    files = [
        path for path in root.rglob("*") if path.is_file() and path.name not in left_out and not path.match(CHECKPOINTS)
    ]
    entries = [
        task.to_json()
        | {
            "file": f"tasks/{file_name(task.name)}.safetensors",
            "evidence": f"evidence/{file_name(task.name)}.safetensors",
            "calibration": calibration[task.name],
        }
        for task in tasks
    ]
    manifest = {
        "schema": SCHEMA,
        "kind": "pool",
        "version": __version__,
        "tasks": entries,
        "classes": [name for task in tasks for name in task.classes],
        "calibration": calibration[""],
        "files": describe_files(root, files),
    } | fields
    (root / POOL).write_text(dump_json(manifest), encoding="utf-8")
