"""What changed between two assemblies or two pools, and how many bytes bring one to the other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfdeploy.deploy.assemble import recompose
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.update.file import Update
from kfdeploy.errors import PoolError, UnsupportedError, UpdateError
from kfdeploy.files import sha256
from kfdeploy.manifest import ASSEMBLY, GRAPH, PARTS, POOL
from kfdeploy.names import inside
from kfdeploy.outputs import check_place
from kfdeploy.places import is_private
from kfdeploy.pool.fields import TEMPLATE
from kfdeploy.pool.manifest import COMMON, SHARED
from kfdeploy.pool.pool import Pool
from kfdeploy.reading import MOST_FILE, read_named
from kfdeploy.writing import write_file

_TOLD = {
    "tasks",
    "files",
    "classes",
    "calibration",
    "blocks",
    "image",
    "temperatures",
    "added",
}  # entries of pool.json told in other words


@dataclass(frozen=True)
class Difference:
    """What changed from `old` to `new`, both assemblies or both pools."""

    kind: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: dict[str, tuple[str, ...]]  # of each task in both, what of it
    reordered: bool
    common: bool  # the common network
    template: bool  # the task networks' architecture
    form: tuple[str, str] | None  # bank or branches
    name: tuple[str, str] | None
    other: tuple[str, ...]
    files: dict[str, int]  # what the device lacks, and its bytes on the disk
    bytes: int  # of the update, unsigned; of pools, the sum of the files

    @property
    def empty(self) -> bool:
        """Whether nothing changed."""
        flags = (self.added, self.removed, self.changed, self.reordered, self.common, self.template)
        return not any((*flags, self.form, self.name, self.other, self.files))

    @property
    def whole(self) -> bool:
        """Whether hardly anything of the old one is of use to the new one."""
        return self.common or self.template

    def sentences(self) -> list[str]:
        """Return what changed, a line each."""
        named = ((self.added, "added"), (self.removed, "removed"))
        lines = [f"{word}:  {', '.join(names)}" for names, word in named if names]
        lines += [f"changed:  {task} ({', '.join(what)})" for task, what in self.changed.items()]
        if self.reordered:
            lines.append("changed:  the order of the tasks")
        if self.common:
            lines.append("changed:  the common network, so every task's weights too")
        if self.template:
            lines.append("changed:  the architecture of the task networks")
        for what, both in (("form", self.form), ("name", self.name)):
            if both:
                lines.append(f"changed:  the {what}, from '{both[0]}' to '{both[1]}'")
        lines += [f"changed:  {what}" for what in self.other]
        return lines or ["nothing changed"]


def diff(old: str | Path, new: str | Path) -> Difference:
    """Say what changed between two assemblies, whose files are all checked, or two pools, whose manifests are read.

    Raises:
        PoolError: one is not there or not whole, they are not of one kind, or two pools have different common networks,
            so that no task of one fits the other.
    """
    kinds = [_kind(Path(path)) for path in (old, new)]
    if kinds[0] != kinds[1]:
        raise PoolError(
            f"'{old}' is {_a(kinds[0])} and '{new}' is {_a(kinds[1])}", hint="compare two assemblies, or two pools"
        )
    if kinds[0] == "pool":
        before, after = Pool.open(old), Pool.open(new)
        if _hash(before, COMMON) != _hash(after, COMMON):
            raise PoolError(
                f"'{old}' and '{new}' have different common networks: no task of one fits the other",
                hint="assemble the tasks from either, and compare the assemblies",
            )
        there = before.files.items()
        files = {
            name: about["bytes"]
            for name, about in after.files.items()
            if (name, about) not in there and not name.startswith("train/")
        }
        return _difference("pool", before, after, None, None, [], files, sum(files.values()))
    ours, theirs = open_whole(old), open_whole(new)
    lacking = missing(ours, theirs)
    told = []
    if ours.source != theirs.source:
        told.append("the pool it was assembled from")
    if ours.open_set != theirs.open_set:
        told.append("whether and from where on it tells strangers (--open-set)")
    return _difference(
        "assembly",
        parts_of(ours),
        parts_of(theirs),
        (str(ours.form), str(theirs.form)),
        (ours.name, theirs.name),
        told,
        {name: len(data) for name, data in lacking.items()},
        len(pack(ours, theirs, Path(new)).to_bytes()) if lacking else 0,
    )


def open_whole(path: str | Path) -> Model:
    """Open an assembly and check every file of it.

    Raises:
        PoolError: it is not there, not an assembly, or not whole.
    """
    model = Model.open(path)
    if model.parts is None:
        raise PoolError(
            f"'{path}' is {_a(model.kind)}: it has no parts, so it cannot be updated",
            hint="kfdeploy assemble --tasks … makes an assembly",
        )
    model.check()
    return model


def parts_of(model: Model) -> Pool:
    """Return an assembly's parts; see `open_whole`."""
    assert model.parts is not None  # `open_whole` has refused anything else
    return model.parts


def missing(old: Model, new: Model) -> dict[str, bytes]:
    """Return the files of an assembly that another lacks; never the graph, which follows from them."""
    there, wanted = _files(old), _files(new)
    lacking = [name for name, hashed in wanted.items() if there.get(name) != hashed]
    again = "copy it again, or assemble it again"
    return {
        name: read_named(inside(new.path, name), f"'{new.path / name}' is missing", again, most=MOST_FILE)
        for name in lacking
    }


def pack(old: Model, new: Model, path: Path) -> Update:
    """Return the unsigned update from one whole assembly to another."""
    base = {
        GRAPH: old.files[GRAPH]["sha256"],
        f"{PARTS}/{POOL}": sha256(old.path / "parts" / POOL),
        "tasks": [task.name for task in old.tasks],
    }
    target = {
        GRAPH: new.files[GRAPH]["sha256"],
        ASSEMBLY: sha256(new.path / ASSEMBLY),
        f"{PARTS}/{POOL}": sha256(new.path / "parts" / POOL),
        "tasks": [task.name for task in new.tasks],
    }
    return Update.make(path, base, target, missing(old, new))


def _files(model: Model) -> dict[str, str]:
    """Return the hash of every file of an assembly but its graph."""
    parts = parts_of(model).files
    found = {name: sha256(inside(model.path, name)) for name in (ASSEMBLY, f"{PARTS}/{POOL}")}
    return found | {f"{PARTS}/{name}": about["sha256"] for name, about in parts.items()}


def _difference(
    kind: str,
    before: Pool,
    after: Pool,
    form: tuple[str, str] | None,
    name: tuple[str, str] | None,
    told: Sequence[str],
    files: dict[str, int],
    size: int,
) -> Difference:
    names = [[task.name for task in pool.tasks] for pool in (before, after)]
    both = [[task for task in side if task in names[0] and task in names[1]] for side in names]
    changed = {}
    for task in both[1]:
        what = tuple(
            word
            for word, key in (("classes", "classes"), ("weights", "file"), ("golden logits", "evidence"),
                              ("ranges", "calibration"))
            if _said(before, task, key) != _said(after, task, key)
        )  # fmt: skip
        if what:
            changed[task] = what
    other = list(told)
    if _hash(before, SHARED) != _hash(after, SHARED):
        other.append("the golden samples")
    if before.image != after.image:
        other.append("how an image becomes the input")
    keys = sorted((set(before.manifest) | set(after.manifest)) - _TOLD)
    entries = [key for key in keys if _about(before.manifest, key) != _about(after.manifest, key)]
    if entries:
        other.append(f"what pool.json says of {', '.join(entries)}")
    return Difference(
        kind,
        tuple(task for task in names[1] if task not in names[0]),
        tuple(task for task in names[0] if task not in names[1]),
        changed,
        both[0] != both[1],
        _hash(before, COMMON) != _hash(after, COMMON),
        _hash(before, TEMPLATE) != _hash(after, TEMPLATE),
        form if form and form[0] != form[1] else None,
        name if name and name[0] != name[1] else None,
        tuple(other),
        files,
        size,
    )


def _said(pool: Pool, task: str, key: str) -> Any:
    """Return what a pool says of a task: its classes, or the hash of one of its files."""
    entry: Mapping[str, Any] = pool.entry(pool.choose([task])[0])
    value = entry.get(key)
    return value if key == "classes" else _hash(pool, value)


def _hash(pool: Pool, name: str | None) -> Any:
    return pool.files[name]["sha256"] if name in pool.files else None


def _kind(path: Path) -> str:
    if (path / POOL).is_file():
        return "pool"
    return Model.open(path).kind


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _about(manifest: Mapping[str, Any], key: str) -> Any:
    """Return an entry without what is told elsewhere: a part's recipe names its tasks alone, and so do temperatures."""
    found = manifest.get(key)
    if key == "recipe" and isinstance(found, dict):
        return {name: value for name, value in found.items() if name != "tasks"}
    return found


def write_update(old: str | Path, new: str | Path, out: str | Path, *, force: bool = False) -> Difference:
    """Write the update that brings a device from the assembly `old` to the assembly `new`; it is not signed yet.

    Raises:
        UnsupportedError: they are pools.
        UpdateError: nothing changed, or this version of kfdeploy does not compose `new` from its own parts.
        PoolError: one is not there or not whole.
        OutputError: `out` is there and `force` is not set, or cannot be written to.
    """
    out = Path(out)
    check_place(out, force=force)
    found = diff(old, new)
    if found.kind == "pool":
        raise UnsupportedError(
            f"an update is for a device's assembly, and '{new}' is a pool",
            hint=f"assemble the same tasks from both, then kfdeploy diff OLD NEW --out {out}",
        )
    if found.empty:
        raise UpdateError(f"'{old}' and '{new}' are the same: there is nothing to ship", hint="nothing is to be done")
    model = open_whole(new)
    if is_private(model.data["root"]) or is_private(parts_of(model).data["root"]):  # of 0.1.0
        raise UpdateError(
            f"'{new}' says where its images lie on the machine that made it, and an update goes to devices",
            hint="assemble it again with this version, which says so nowhere",
        )
    if recompose(parts_of(model), model.manifest, model.files[GRAPH]["sha256"]) is None:
        raise UpdateError(
            f"this version of kfdeploy composes another graph from the parts of '{new}' than lies there",
            hint="assemble it again with this version",
        )
    write_file(out, pack(open_whole(old), model, out).to_bytes())
    return found
