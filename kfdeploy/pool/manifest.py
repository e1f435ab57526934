"""`pool.json`: how it follows from what a pool holds, and from another pool's; pure but for `write`.

Writing it is the last thing that makes a folder a pool.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from kfdeploy.arrays import Arrays
from kfdeploy.errors import PoolError
from kfdeploy.files import CHECKPOINTS, TIMING, about_of, dump_json, file_name, parse_tensors
from kfdeploy.manifest import (
    POOL,
    TRAINING,
    BlockEntry,
    FieldEntry,
    Files,
    PoolManifest,
    TaskEntry,
    describe_files,
    stamp,
)
from kfdeploy.names import inside
from kfdeploy.places import is_private, shipped_data, shipped_recipe
from kfdeploy.pool.fields import (
    as_first,
    as_second,
    block_columns,
    field_of,
    label_columns,
    says_first,
    second_entry,
    upgraded,
    with_classes,
)
from kfdeploy.tasks.spec import CLASS, TaskSpec
from kfdeploy.version import __version__
from kfdeploy.writing import write_file

SHARED = "evidence/shared.safetensors"
COMMON = "common.onnx"
RECIPE = "recipe.json"  # beside an unfinished pool: what it is being made from
_OWN = ("file", "evidence", "calibration")  # the keys of a task's own files


def write(root: Path, manifest: PoolManifest) -> None:
    """Write `pool.json`, whole or not at all, with no place of this machine: from then on the folder is this pool."""
    write_file(inside(root, POOL), dump_json(shipped(manifest)))


def images_key(manifest: PoolManifest) -> str:
    """Return the hash by which `places` knows a pool's images; 0.1.0 kept none of them all, but of some."""
    own = manifest["files"].get(SHARED)
    return str(manifest.get("images", {}).get("sha256") or (own["sha256"] if own else ""))


def shipped(manifest: PoolManifest) -> PoolManifest:
    """Return a manifest without places of this machine, which are remembered for it; see `kfdeploy.places`."""
    out: dict[str, Any] = {**manifest, "recipe": shipped_recipe(manifest["recipe"], images_key(manifest))}
    for key in ("blocks", "added"):
        if key in out:
            out[key] = [_shipped_entry(entry, manifest["files"]) for entry in out[key]]
    return cast(PoolManifest, out)


def _shipped_entry(entry: Mapping[str, Any], files: Files) -> dict[str, Any]:
    about = entry.get("data")
    if not about or not is_private(about["root"]):
        return dict(entry)
    own = files.get(str(entry.get("file", "")))
    return {**entry, "data": shipped_data(about, about.get("images") or (own["sha256"] if own else ""))}


def made(
    root: Path, fields: Mapping[str, Any], tasks: Sequence[TaskSpec], calibration: Mapping[str, str]
) -> PoolManifest:
    """Return the manifest of a pool that was factorized, for the files that lie in `root`.

    `calibration` names the files with the ranges of the CKN ("") and of each task. The labels of each field in
    evidence/shared count in the classes of its tasks, one task after another; where there are several fields, `fields`
    has what is said of each as `fields`. The lowest schema that can say it is written.
    """
    left_out = (POOL, RECIPE, TIMING)
    files = [
        path for path in root.rglob("*") if path.is_file() and path.name not in left_out and not path.match(CHECKPOINTS)
    ]
    entries = [task.to_json() | task_files(task.name) | {"calibration": calibration[task.name]} for task in tasks]
    manifest = {
        **stamp("pool", entries),
        "version": __version__,
        "tasks": entries,
        "classes": [name for task in tasks for name in task.classes],
        "calibration": calibration[""],
        "files": describe_files(root, files),
        **fields,
    }
    if manifest["schema"] == 1:
        return cast(PoolManifest, manifest)
    return as_second(cast(PoolManifest, manifest), fields["fields"])


def file_names(manifest: PoolManifest) -> list[str]:
    """Return the names of a pool's files."""
    return list(manifest["files"])


def task_files(task: str) -> dict[str, str]:
    """Return the names of a task's weights and evidence."""
    stem = file_name(task)
    return {"file": f"tasks/{stem}.safetensors", "evidence": f"evidence/{stem}.safetensors"}


def owned(kind: str, entry: TaskEntry) -> dict[str, Any]:
    """Return what a task's own file says of itself; see `own_arrays`."""
    field = {} if field_of(entry) == CLASS else {"field": entry["field"]}
    return stamp(kind) | {"task": entry["name"], "classes": entry["classes"]} | field


def own_arrays(data: bytes, task: TaskSpec, name: str, where: str) -> Arrays:
    """Return the arrays in the bytes of a task's own file, which says itself whose it is.

    Raises:
        PoolError: it is another task's, of other classes or another field, has another number of outputs, or is no
            safetensors file.
    """
    arrays, about = parse_tensors(data, f"{where}/{name}"), about_of(data)
    seen, hint = about.get("classes"), "copy the pool again, or make it again; do not use what somebody has altered"
    if (about.get("task"), seen) != (task.name, list(task.classes)):
        classes = ", ".join(map(str, seen)) if isinstance(seen, list) else ""
        whose = f"task '{about['task']}' with the classes {classes}" if "task" in about else "no task"
        raise PoolError(
            f"'{name}' is of {whose}, and '{where}' names it as of task '{task.name}' with the classes "
            f"{', '.join(task.classes)}",
            hint=hint,
        )
    if (field := about.get("field", CLASS)) != task.field:
        raise PoolError(
            f"'{name}' is of the field {field!r:.80}, and '{where}' names it as of task '{task.name}' of the field "
            f"'{task.field}'",
            hint=hint,
        )
    for key, axis in (("head.bias", 0), ("golden.logits", 1)):
        if key in arrays and arrays[key].shape[axis:] != (len(task.classes),):
            raise PoolError(
                f"'{name}' has {key} of shape {arrays[key].shape}, and task '{task.name}' has {len(task.classes)} "
                "classes",
                hint=hint,
            )
    return arrays


def own_files(entries: Iterable[TaskEntry], blocks: Iterable[BlockEntry]) -> set[str]:
    """Return the files that tasks and their validation images have to themselves."""
    found = {str(entry[key]) for entry in entries for key in _OWN if key in entry}  # type: ignore[literal-required]
    return found | {block["file"] for block in blocks}


class Role(NamedTuple):
    """What a file of evidence is of: everything, a task, or a task's images."""

    kind: str
    classes: int  # of the task
    labels: Mapping[str, int]  # of each field how many classes its labels count in
    widths: Mapping[str, int]  # of a task's images: how many classes each task has
    unknown: bool  # whether a label may be, and a field have none: schema 2


def roles(manifest: PoolManifest) -> dict[str, Role]:
    """Return what each file of evidence in a pool is of."""
    widths = {entry["name"]: len(entry["classes"]) for entry in manifest["tasks"]}
    unknown = manifest["schema"] != 1
    found = {
        entry["evidence"]: Role("task", len(entry["classes"]), {}, {}, unknown=False) for entry in manifest["tasks"]
    }
    for block in manifest.get("blocks", ()):
        labels = {field: len(names) for field, names in block_columns(manifest, block).items()}
        found[block["file"]] = Role("block", 0, labels, widths, unknown=False)
    labels = {field: len(names) for field, names in label_columns(manifest).items()}
    found[SHARED] = Role("shared", 0, labels, {}, unknown)
    return found


def part(manifest: PoolManifest, entries: Sequence[TaskEntry], files: Files, labels: Any = None) -> PoolManifest:
    """Return the manifest of a pool of just these tasks, as an assembly has it: without validation images.

    `classes`, or `fields`, stay whole: the `labels` of evidence/shared count in them. Of a pool that a field was added
    to, the part that has nothing but classes is what it was before, which older devices read.
    """
    chosen, recipe = {entry["name"] for entry in entries}, manifest["recipe"]
    out = manifest | {
        "tasks": list(entries),
        "files": files,
        "temperatures": {name: value for name, value in manifest["temperatures"].items() if name in chosen},
    }
    if isinstance(recipe["tasks"], dict):
        out["recipe"] = recipe | {"tasks": {name: v for name, v in recipe["tasks"].items() if name in chosen}}
    out.pop("blocks", None)
    return as_first(out) if says_first(manifest, entries, labels) else out


def without(manifest: PoolManifest, gone: Collection[str]) -> PoolManifest:
    """Return a manifest without some tasks, and without `train/`.

    `classes`, or `fields`, stay whole: the labels of evidence/shared, whose bytes do not change, count in them.
    """
    stay = [entry for entry in manifest["tasks"] if entry["name"] not in gone]
    before = manifest.get("blocks", [])
    blocks = [block for block in before if block["task"] not in gone]
    dropped = own_files(manifest["tasks"], before) - own_files(stay, blocks)
    out = manifest | {
        "tasks": stay,
        "blocks": [_block_without(block, gone) for block in blocks],
        "temperatures": {name: v for name, v in manifest["temperatures"].items() if name not in gone},
        "files": {
            name: about
            for name, about in manifest["files"].items()
            if name not in dropped and not name.startswith(TRAINING)
        },
    }
    if gone and not out["blocks"]:
        del out["blocks"]
    if "added" in out:
        out["added"] = [entry for entry in out["added"] if entry["task"] not in gone]
    return out


def _block_without(block: BlockEntry, gone: Collection[str]) -> BlockEntry:
    found = block.copy()
    if "without" in found:
        found["without"] = [task for task in found["without"] if task not in gone]
    return found


def merged(first: PoolManifest, second: PoolManifest, hashes: Sequence[str]) -> tuple[PoolManifest, Files]:
    """Return the manifest of two pools put together, and the files that come from the second.

    All that both have is of the first, the ranges of the common network too. Where only one has ranges, none has.
    """
    first, second = without(first, ()), without(second, ())
    if first["schema"] != second["schema"]:
        first, second = upgraded(first), upgraded(second)
    if ("calibration" in first) != ("calibration" in second):
        first, second = uncalibrated(first), uncalibrated(second)
    own = {name: about for name, about in second["files"].items() if name not in first["files"]}
    own.pop(second.get("calibration", ""), None)
    out = first | {
        "tasks": first["tasks"] + second["tasks"],
        "blocks": [*_strange(first, second), *_strange(second, first)],
        "temperatures": first["temperatures"] | second["temperatures"],
        "files": first["files"] | own,
        "merged": list(hashes),
    }
    if first["schema"] != 1:
        out["fields"] = {**second["fields"], **first["fields"]}
        for field, about in second["fields"].items():
            out["fields"][field] = with_classes(out["fields"][field], about["classes"])
    if added := [*first.get("added", ()), *second.get("added", ())]:
        out["added"] = added
    if not out["blocks"]:
        del out["blocks"]
    return out, own


def _strange(mine: PoolManifest, other: PoolManifest) -> list[BlockEntry]:
    """Return a pool's blocks of images, of which the other pool's tasks know nothing."""
    names = [entry["name"] for entry in other["tasks"]]
    blocks = []
    for block in mine.get("blocks", ()):
        strange = block.copy()
        strange["without"] = [*strange.get("without", ()), *names]
        blocks.append(strange)
    return blocks


def range_files(manifest: PoolManifest) -> list[str]:
    """Return the names of the files with a pool's ranges of activations: the CKN's and the tasks'."""
    found = (manifest.get("calibration"), *(entry.get("calibration") for entry in manifest["tasks"]))
    return [name for name in found if name is not None]


def uncalibrated(manifest: PoolManifest) -> PoolManifest:
    """Return a manifest without ranges of activations."""
    ranges = range_files(manifest)
    out = manifest.copy()
    out.pop("calibration", None)
    out["tasks"] = [entry.copy() for entry in manifest["tasks"]]
    for entry in out["tasks"]:
        entry.pop("calibration", None)
    out["files"] = {name: about for name, about in manifest["files"].items() if name not in ranges}
    return out


def calibrated(manifest: PoolManifest, names: Mapping[str, str], files: Files) -> PoolManifest:
    """Return a manifest with other ranges: `names` are the files of the CKN's ("") and of each task's."""
    entries = [entry.copy() for entry in manifest["tasks"]]
    for entry in entries:
        entry["calibration"] = names[entry["name"]]
    out = manifest.copy()
    out["tasks"], out["calibration"], out["files"] = entries, names[""], files
    return out


def grown(
    manifest: PoolManifest, entry: TaskEntry, block: BlockEntry, added: dict[str, Any], files: Files,
    temperature: float | None,
) -> PoolManifest:  # fmt: skip
    """Return a manifest with one more task, the validation images it came with, and how it was added.

    With a task of another field than `class` it becomes one of schema 2; no other file changes.
    """
    if field_of(entry) != CLASS or manifest["schema"] != 1:
        manifest, entry = upgraded(manifest), second_entry(entry)
        field = field_of(entry)
        new: FieldEntry = {"kind": "classes", "classes": [], "coupling": manifest["coupling"]}
        about = manifest["fields"].get(field, new)
        manifest = manifest | {"fields": manifest["fields"] | {field: with_classes(about, entry["classes"])}}
    out: PoolManifest = manifest | {
        "tasks": [*manifest["tasks"], entry],
        "blocks": [*manifest.get("blocks", ()), block],
        "added": [*manifest.get("added", ()), added],
        "files": files,
    }
    if temperature is not None:
        out["temperatures"] = manifest["temperatures"] | {entry["name"]: round(temperature, 6)}
    return out


def rounded(manifest: PoolManifest, weights: str, files: Files, about: dict[str, Any]) -> PoolManifest:
    """Return a manifest whose tasks' weights are stored in fewer bytes; `about` says what that did."""
    entries = [entry.copy() for entry in manifest["tasks"]]
    for entry in entries:
        entry["weights"] = weights
    out = manifest | {"tasks": entries, "files": files}
    if about:
        out["converted"] = about
    return out
