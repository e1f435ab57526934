"""Editing a pool: tasks are taken out, two pools are put together. The files of every other task stay as they are.

`train/` (the networks, the teacher and the logs of the training) is of the pool as it was trained: it does not go along
into a pool of other tasks.
"""

import shlex
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from kfdeploy.errors import PoolError, TaskError, listed
from kfdeploy.files import CHECKPOINTS, TIMING, check_output, dump_json, output_folder, write_file
from kfdeploy.manifest import ASSEMBLY, POOL, inside
from kfdeploy.pool.manifest import SHARED
from kfdeploy.pool.pool import Pool

TRAINING = "train/"


def remove(
    pool: Pool | str | Path, names: Sequence[str], out: str | Path | None = None, *, force: bool = False
) -> Pool:
    """Take tasks out of a pool, in place, or into another pool at `out`, and return it.

    In place, the manifest is swapped in one step, and what it no longer names is removed after that: the pool is whole
    at every moment. Validation images that came with a task that goes go with it.

    Raises:
        TaskError: a task is not there, or none would be left.
        PoolError: a file that stays is missing or altered, or the pool is part of an assembly.
        OutputError: the pool, or `out`, cannot be written to.
    """
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    gone = [task.name for task in pool.choose(names)]
    if len(gone) == len(pool.manifest["tasks"]):
        raise TaskError(
            f"without {', '.join(listed(gone))} there is no task left in '{pool.path}'",
            hint="a pool keeps one task at least; to be rid of all of it, remove the folder",
        )
    manifest = _without(pool.manifest, set(gone))
    if out is not None:
        pool.check(list(manifest["files"]))
        with output_folder(Path(out), force=force) as work:
            _copy(pool, manifest["files"], work)
            _finish(work, manifest)
        return Pool.open(out)
    if (pool.path.absolute().parent / ASSEMBLY).is_file():
        raise PoolError(
            f"'{pool.path}' is part of the assembly '{pool.path.parent}', whose graph has all these tasks",
            hint="assemble the tasks that are to stay: kfdeploy assemble --tasks …",
        )
    pool.check(list(manifest["files"]))
    write_file(pool.path / POOL, dump_json(manifest))  # from here on it is the smaller pool
    for name in pool.manifest["files"].keys() - manifest["files"].keys():
        with suppress(OSError):  # what stays behind is in nobody's way, and `pool check` tells of it
            inside(pool.path, name).unlink()
    shutil.rmtree(pool.path / TRAINING, ignore_errors=True)
    return Pool.open(pool.path)


def merge(a: Pool | str | Path, b: Pool | str | Path, out: str | Path, *, force: bool = False) -> Pool:
    """Write a pool with the tasks of `a` and, after them, those of `b`; everything else is of `a`.

    Both must stand on the very same common network and template, and on the same golden and validation images: what
    one pool's networks say of the other's images is not known. Validation images that came with a task are kept, and
    count for the tasks of the pool that they were in.

    Raises:
        PoolError: they differ in what they must share, or a file is missing or altered.
        TaskError: a task or a class is in both.
        OutputError: `out` is there and `force` is not set, or cannot be written.
    """
    out = Path(out)
    check_output(out, force=force)
    a, b = (pool if isinstance(pool, Pool) else Pool.open(pool) for pool in (a, b))
    _check_alike(a, b)
    first, second = (_without(pool.manifest, ()) for pool in (a, b))
    if ("calibration" in first) != ("calibration" in second):
        first, second = (_uncalibrated(manifest) for manifest in (first, second))
    # What both have is the same in both, but for the ranges of the common network: those of `a` are kept.
    own = {name: about for name, about in second["files"].items() if name not in first["files"]}
    own.pop(second.get("calibration", ""), None)
    for name in sorted(_named(second["tasks"], second["blocks"]) & first["files"].keys()):
        raise PoolError(
            f"'{a.path}' and '{b.path}' both have a file '{name}'", hint="one of them was not written by kfdeploy"
        )
    for manifest, other in ((first, second), (second, first)):
        strangers = [entry["name"] for entry in other["tasks"]]
        for block in manifest["blocks"]:
            block["without"] = [*block.get("without", ()), *strangers]
    manifest = first | {
        "tasks": first["tasks"] + second["tasks"],
        "blocks": first["blocks"] + second["blocks"],
        "temperatures": first["temperatures"] | second["temperatures"],
        "files": first["files"] | own,
        "merged": [a.sha256, b.sha256],
    }
    if added := [*first.get("added", ()), *second.get("added", ())]:
        manifest["added"] = added
    if not manifest["blocks"]:
        del manifest["blocks"]
    with output_folder(out, force=force) as work:
        _copy(a, first["files"], work)
        _copy(b, own, work)
        _finish(work, manifest)
    return Pool.open(out)


def faults(pool: Pool) -> list[str]:
    """Return everything that is wrong with a pool's files, a sentence each; every hash is computed."""
    counts = Counter(entry["name"] for entry in pool.manifest["tasks"])
    found = [f"task '{name}' is there twice" for name, count in counts.items() if count > 1]
    named = [entry[key] for entry in pool.manifest["tasks"] for key in ("file", "evidence", "calibration")
             if key in entry]  # fmt: skip
    named += [block["file"] for block in pool.manifest.get("blocks", ())]
    # As in `Pool.check`: what only training needs may have been left out, to save space.
    for name in dict.fromkeys([*pool.manifest["files"], *named]):
        if name.startswith(TRAINING) and not inside(pool.path, name).exists():
            continue
        try:
            pool.check([name])
        except PoolError as error:
            found.append(error.what)
    return found


def leftovers(pool: Pool) -> list[str]:
    """Return the files in a pool's folder that it does not name: what an edit that was cut off has left."""
    ours = {POOL, "recipe.json", *pool.manifest["files"]}
    return sorted(
        name
        for path in pool.path.rglob("*")
        if path.is_file() and path.name != TIMING and not path.match(CHECKPOINTS)
        if (name := path.relative_to(pool.path).as_posix()) not in ours
    )


def _without(manifest: dict[str, Any], gone: Collection[str]) -> dict[str, Any]:
    """Return a manifest without some tasks, and without `train/`.

    `classes` stays whole: the labels of evidence/shared, whose bytes do not change, count in it.
    """
    stay = [entry for entry in manifest["tasks"] if entry["name"] not in gone]
    blocks = [block for block in manifest.get("blocks", ()) if block["task"] not in gone]
    kept = _named(stay, blocks)
    dropped = _named(manifest["tasks"], manifest.get("blocks", ())) - kept
    out = manifest | {
        "tasks": stay,
        "blocks": [
            block | {"without": [t for t in block["without"] if t not in gone]} if "without" in block else dict(block)
            for block in blocks
        ],
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


def _named(entries: Iterable[dict[str, Any]], blocks: Iterable[dict[str, Any]]) -> set[str]:
    """Return the files that tasks and their validation images have to themselves."""
    found = {entry[key] for entry in entries for key in ("file", "evidence", "calibration") if key in entry}
    return found | {block["file"] for block in blocks}


def _uncalibrated(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest without ranges of activations."""
    ranges = {manifest.get("calibration"), *(entry.get("calibration") for entry in manifest["tasks"])}
    out = {key: value for key, value in manifest.items() if key != "calibration"}
    out["tasks"] = [{key: v for key, v in entry.items() if key != "calibration"} for entry in manifest["tasks"]]
    out["files"] = {name: about for name, about in manifest["files"].items() if name not in ranges}
    return out


def _check_alike(a: Pool, b: Pool) -> None:
    """Refuse pools that do not go together; see `merge`."""
    differ = [f"image.{key}" for key, value in a.image.to_json().items() if b.image.to_json()[key] != value]
    differ += ["coupling"] if a.manifest["coupling"] != b.manifest["coupling"] else []
    for name, what in (
        ("common.onnx", "the common network (common.onnx)"),
        ("task.onnx", "the template of a task's network (task.onnx)"),
        (SHARED, f"the golden and validation images ({SHARED})"),
    ):
        if a.manifest["files"].get(name) != b.manifest["files"].get(name):
            differ.append(what)
    if a.manifest["classes"] != b.manifest["classes"] and not differ:
        differ.append("the classes that their validation labels count in")
    if differ:
        raise PoolError(
            f"'{a.path}' and '{b.path}' cannot be merged, as they differ in {', '.join(differ)}",
            hint="pools go together that come from one factorization, by adding and removing tasks",
        )
    there = {entry["name"] for entry in a.manifest["tasks"]}
    both = [entry["name"] for entry in b.manifest["tasks"] if entry["name"] in there]
    if both:
        words = shlex.join(both) if len(both) <= 10 else "…"
        raise TaskError(
            f"task '{both[0]}' is already there: '{a.path}' and '{b.path}' have {len(both)} tasks in common "
            f"({', '.join(listed(both))})",
            hint=f"kfdeploy pool remove {b.path} --tasks {words} --out other, then merge that",
        )
    owner = {name: entry["name"] for entry in a.manifest["tasks"] for name in entry["classes"]}
    for entry in b.manifest["tasks"]:
        for name in entry["classes"]:
            if name in owner:
                raise TaskError(
                    f"the class '{name}' is in task '{owner[name]}' of '{a.path}' and in task '{entry['name']}' of "
                    f"'{b.path}'",
                    hint="a class belongs to one task: leave one of them out with kfdeploy pool remove … --out",
                )


def _copy(pool: Pool, names: Iterable[str], work: Path) -> None:
    for name in names:
        target = inside(work, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pool.file(name), target)


def _finish(work: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, which makes a folder a pool, and check what was written."""
    (work / POOL).write_text(dump_json(manifest), encoding="utf-8")
    Pool.open(work).check()
