"""Editing a pool: tasks are taken out, two pools are put together. The files of every other task stay as they are.

`train/` (the networks, the teacher and the logs of the training) is of the pool as it was trained: it does not go along
into a pool of other tasks.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from kfdeploy.errors import PoolError, TaskError, listed
from kfdeploy.files import CHECKPOINTS, TIMING
from kfdeploy.locks import lock
from kfdeploy.manifest import ASSEMBLY, POOL, TRAINING, PoolManifest
from kfdeploy.names import inside
from kfdeploy.outputs import check_not_read, check_output, output_folder
from kfdeploy.pool.fields import TEMPLATE, unlike_labels
from kfdeploy.pool.manifest import (
    COMMON,
    RECIPE,
    SHARED,
    file_names,
    merged,
    own_files,
    without,
    write,
)
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.spec import CLASS


def remove(
    pool: Pool | str | Path,
    names: Sequence[str],
    out: str | Path | None = None,
    *,
    force: bool = False,
    wait: bool = False,
) -> Pool:
    """Take tasks out of a pool, in place, or into another pool at `out`, and return it.

    In place, the manifest is swapped in one step, and what it no longer names is removed after that: the pool is whole
    at every moment. Validation images that came with a task that goes go with it.

    Raises:
        TaskError: a task is not there, or none would be left.
        PoolError: a file that stays is missing or altered, or the pool is part of an assembly.
        OutputError: the pool, or `out`, cannot be written to, or another process writes there and `wait` is not set.
    """
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    if out is None:
        with lock(pool.path, wait=wait):
            return _remove_here(Pool.open(pool.path), names)  # as it is now that nobody else changes it
    smaller = _smaller(pool, names)
    kept = file_names(smaller)
    check_not_read(Path(out), pool.place.folder)
    pool.check(kept)
    with output_folder(Path(out), force=force, wait=wait) as work:
        _copy(pool, kept, work)
        _finish(work, smaller)
    return Pool.open(out)


def _smaller(pool: Pool, names: Sequence[str]) -> PoolManifest:
    gone = [task.name for task in pool.choose(names)]
    if len(gone) == len(pool.entries):
        raise TaskError(
            f"without {', '.join(listed(gone))} there is no task left in '{pool.path}'",
            hint="a pool keeps one task at least; to be rid of all of it, remove the folder",
        )
    return without(pool.manifest, set(gone))


def _remove_here(pool: Pool, names: Sequence[str]) -> Pool:
    smaller = _smaller(pool, names)
    kept = file_names(smaller)
    if (pool.path.absolute().parent / ASSEMBLY).is_file():
        raise PoolError(
            f"'{pool.path}' is part of the assembly '{pool.path.parent}', whose graph has all these tasks",
            hint="assemble the tasks that are to stay: kfdeploy assemble --tasks …",
        )
    pool.check(kept)
    write(pool.path, smaller)  # from here on it is the smaller pool
    _delete(pool.path, pool.files.keys() - set(kept))
    return Pool.open(pool.path)


def _delete(root: Path, names: Iterable[str]) -> None:
    """Delete files that the manifest named, and what lies beside them by our doing; nobody else's, and through no link.

    What stays behind is in nobody's way, and `pool check` tells of it.
    """
    folders: set[Path] = set()
    for name in names:
        with suppress(OSError, PoolError):
            path = inside(root, name)
            path.unlink(missing_ok=True)
            folders |= {above for above in path.parents if root in above.parents}
            if name.startswith(TRAINING) and path.name == "log.csv":  # has its times beside it
                path.with_name(TIMING).unlink(missing_ok=True)
    for folder in sorted(folders, reverse=True):  # what is inside comes first
        with suppress(OSError):
            folder.rmdir()  # refuses one that is not empty


def merge(
    a: Pool | str | Path, b: Pool | str | Path, out: str | Path, *, force: bool = False, wait: bool = False
) -> Pool:
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
    check_not_read(out, a.place.folder, b.place.folder)
    _check_alike(a, b)
    for name in sorted(own_files(b.entries, b.added_images) & a.files.keys()):
        raise PoolError(
            f"'{a.path}' and '{b.path}' both have a file '{name}'", hint="one of them was not written by kfdeploy"
        )
    both, own = merged(a.manifest, b.manifest, (a.sha256, b.sha256))
    with output_folder(out, force=force, wait=wait) as work:
        _copy(a, [name for name in file_names(both) if name not in own], work)
        _copy(b, own, work)
        _finish(work, both)
    return Pool.open(out)


def faults(pool: Pool) -> list[str]:
    """Return everything that is wrong with a pool's files, a sentence each; every hash is computed."""
    counts = Counter(entry["name"] for entry in pool.entries)
    found = [f"task '{name}' is there twice" for name, count in counts.items() if count > 1]
    named = sorted(own_files(pool.entries, pool.added_images))
    # As in `Pool.check`: what only training needs may have been left out, to save space.
    for name in dict.fromkeys([*pool.files, *named]):
        if name.startswith(TRAINING) and not inside(pool.path, name).exists():
            continue
        try:
            pool.check([name])
        except PoolError as error:
            found.append(error.what)
    return found


def leftovers(pool: Pool) -> list[str]:
    """Return the files in a pool's folder that it does not name: what an edit that was cut off has left."""
    ours = {POOL, RECIPE, *pool.files}
    return sorted(
        name
        for path in pool.path.rglob("*")
        if (path.is_symlink() or path.is_file()) and path.name != TIMING and not path.match(CHECKPOINTS)
        if (name := path.relative_to(pool.path).as_posix()) not in ours
    )


def _check_alike(a: Pool, b: Pool) -> None:
    """Refuse pools that do not go together; see `merge`."""
    differ = [f"image.{key}" for key, value in a.image.to_json().items() if b.image.to_json()[key] != value]
    differ += ["coupling"] if a.coupling != b.coupling else []
    for name, what in (
        (COMMON, f"the common network ({COMMON})"),
        (TEMPLATE, f"the template of a task's network ({TEMPLATE})"),
        (SHARED, f"the golden and validation images ({SHARED})"),
    ):
        if a.files.get(name) != b.files.get(name):
            differ.append(what)
    if not differ and (unlike := unlike_labels(a.manifest, b.manifest)):
        of = "" if unlike == [CLASS] else f" of the field '{unlike[0]}'"
        differ.append(f"the classes that their validation labels{of} count in")
    if differ:
        raise PoolError(
            f"'{a.path}' and '{b.path}' cannot be merged, as they differ in {', '.join(differ)}",
            hint="pools go together that come from one factorization, by adding and removing tasks",
        )
    there = {entry["name"] for entry in a.entries}
    both = [entry["name"] for entry in b.entries if entry["name"] in there]
    if both:
        words = shlex.join(both) if len(both) <= 10 else "…"
        raise TaskError(
            f"task '{both[0]}' is already there: '{a.path}' and '{b.path}' have {len(both)} tasks in common "
            f"({', '.join(listed(both))})",
            hint=f"kfdeploy pool remove {b.path} --tasks {words} --out other, then merge that",
        )
    owner = {name: task.name for task in a.tasks for name in task.columns}
    for task in b.tasks:
        for name in task.columns:
            if name in owner:
                raise TaskError(
                    f"the class '{name}' is in task '{owner[name]}' of '{a.path}' and in task '{task.name}' of "
                    f"'{b.path}'",
                    hint="a class belongs to one task: leave one of them out with kfdeploy pool remove … --out",
                )


def _copy(pool: Pool, names: Iterable[str], work: Path) -> None:
    for name in names:
        target = inside(work, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(pool.read(name))


def _finish(work: Path, manifest: PoolManifest) -> None:
    """Write the manifest, which makes a folder a pool, and check what was written."""
    write(work, manifest)
    Pool.open(work).check()
