"""The fields of a pool: what schema 2 says of them, and schema 1 read as schema 2. Pure."""

from collections.abc import Iterable
from typing import Any, cast

from kfdeploy.manifest import BlockEntry, FieldEntry, PoolManifest, TaskEntry, TemplateEntry
from kfdeploy.tasks.spec import CLASS, column_names

TEMPLATE = "task.onnx"
FACE, TAP, ONLY = "z", "tap", "task"  # of schema 1, which does not name them: the face, the tap, the template


def upgraded(manifest: PoolManifest) -> PoolManifest:
    """Return a manifest as schema 2 says it: schema 1 has one field, `class`, one face and one template."""
    if manifest["schema"] != 1:
        return manifest
    # Those of tasks that were added come last: no label is one of them.
    classes = list(dict.fromkeys([*manifest["classes"], *(c for e in manifest["tasks"] for c in e["classes"])]))
    return as_second(manifest, {CLASS: {"kind": "classes", "classes": classes, "coupling": manifest["coupling"]}})


def as_second(manifest: PoolManifest, fields: dict[str, FieldEntry]) -> PoolManifest:
    """Return a manifest of schema 1, or what is like one, as schema 2 says it, with these fields."""
    nets = manifest["nets"]
    template: TemplateEntry = {"file": TEMPLATE, "tap": TAP, "face": FACE, "D": nets.get("D", 1)}
    out = manifest | {
        "schema": 2,
        "tasks": [second_entry(entry) for entry in manifest["tasks"]],
        "fields": fields,
        "faces": {FACE: {"channels": nets.get("d", 1)}},
        "templates": {ONLY: template},
    }
    out.pop("classes", None)
    return out


def says_first(manifest: PoolManifest, entries: Iterable[TaskEntry], labels: Any) -> bool:
    """Return whether schema 1 can say a part of a pool: tasks of the field `class`, all `labels` (V,) known."""
    own = {field_of(entry) for entry in entries} == {CLASS}
    return own and manifest["schema"] != 1 and labels is not None and bool((labels >= 0).all())


def as_first(manifest: PoolManifest) -> PoolManifest:
    """Return what `as_second` was made of, for a part of a pool with tasks of the field `class` alone."""
    about = manifest["fields"][CLASS]
    out = manifest | {"schema": 1, "classes": about["classes"], "coupling": about["coupling"], "tasks": []}
    for entry in manifest["tasks"]:
        rest = {key: value for key, value in entry.items() if key not in ("field", "template")}
        out["tasks"].append(cast(TaskEntry, rest | {"kind": "classification"}))
    for key in ("fields", "faces", "templates"):
        out.pop(key)  # type: ignore[misc]
    return out


def second_entry(entry: TaskEntry) -> TaskEntry:
    """Return a task's entry as schema 2 says it."""
    about = {"kind": "classes", "field": field_of(entry), "template": entry.get("template", ONLY)}
    return cast(TaskEntry, {**entry, **about})


def field_of(entry: TaskEntry) -> str:
    """Return the field of a task in a manifest."""
    return entry.get("field", CLASS)


def label_columns(manifest: PoolManifest) -> dict[str, tuple[str, ...]]:
    """Return of each field the columns that the labels of evidence/shared count in; fields in the tasks' order."""
    if manifest["schema"] == 1:
        return {CLASS: tuple(manifest["classes"])}
    fields = manifest["fields"]
    order = dict.fromkeys([*(field_of(entry) for entry in manifest["tasks"]), *fields])  # JSON has them sorted
    return {field: column_names(field, fields[field]["classes"]) for field in order}


def block_columns(manifest: PoolManifest, block: BlockEntry) -> dict[str, tuple[str, ...]]:
    """Return the columns that the labels of an added task's images count in: of the task's field alone."""
    field = {entry["name"]: field_of(entry) for entry in manifest["tasks"]}.get(block["task"], CLASS)
    return {field: column_names(field, block["classes"])}


def unlike_labels(a: PoolManifest, b: PoolManifest) -> list[str]:
    """Return the fields whose labels in one and the same evidence/shared two pools count otherwise.

    Classes that came with an added task stand last, and no label of evidence/shared is one of them.
    """
    if a["schema"] == b["schema"] == 1:
        return [CLASS] if a["classes"] != b["classes"] else []
    mine, other = upgraded(a)["fields"], upgraded(b)["fields"]
    return [
        field for field, about in mine.items()
        if field in other and (
            about["coupling"] != other[field]["coupling"]
            or not _counted(a, field, about) <= set(enumerate(other[field]["classes"]))
            or not _counted(b, field, other[field]) <= set(enumerate(about["classes"]))
        )
    ]  # fmt: skip


def _counted(manifest: PoolManifest, field: str, about: FieldEntry) -> set[tuple[int, str]]:
    """Return the places and names of a field's classes, but of those that came with an added task."""
    came = {block["task"] for block in manifest.get("blocks", ())}
    entries = [entry for entry in manifest["tasks"] if entry["name"] in came and field_of(entry) == field]
    later = {name for entry in entries for name in entry["classes"]}
    return {(i, name) for i, name in enumerate(about["classes"]) if name not in later}


def with_classes(about: FieldEntry, classes: Iterable[str]) -> FieldEntry:
    """Return a field's entry with classes that it may not have yet, last."""
    found = about.copy()
    found["classes"] = list(dict.fromkeys([*about["classes"], *classes]))
    return found
