"""`kfdeploy pool`: show, check, edit, convert and push a pool."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from kfdeploy.cli.console import FORCE, WAIT, megabytes, say, tasks_text
from kfdeploy.cli.words import VerbsGroup, WordsCommand, task_words

if TYPE_CHECKING:
    from kfdeploy.pool.pool import Pool
    from kfdeploy.tasks.worth import Accuracy


app = typer.Typer(cls=VerbsGroup, help="Show, check, edit, convert or push a pool.", no_args_is_help=True)
POOL = typer.Argument("pool", metavar="POOL", help="The pool.", show_default=True)


@app.command("show", cls=WordsCommand)
def show(pool: str = POOL) -> None:
    """Tell what a pool holds: its tasks, their bytes, and what they are worth together."""
    from kfdeploy.errors import listed
    from kfdeploy.manifest import size_of
    from kfdeploy.pool.manifest import COMMON
    from kfdeploy.pool.pool import Pool

    opened = Pool.open(pool)
    files, entries, nets = opened.files, opened.entries, opened.nets
    sizes = [size_of(opened.where, files, entry["file"]) for entry in entries]
    half = sum("weights" in entry for entry in entries)
    say(f"pool:      {pool}  ({opened.name}, made with kfdeploy {opened.version})")
    classes = sum(len(entry["classes"]) for entry in entries)
    coupling = "" if _fields(opened) else f", {opened.coupling}"  # of several fields each has its own
    say(f"tasks:     {len(entries):,} with {classes:,} classes{coupling}")
    if fields := _fields(opened):
        say(f"fields:    {', '.join(listed(fields))}")
    stored = {0: "float32", len(entries): "float16"}.get(half, f"{half:,} of them as float16")
    say(f"weights:   {megabytes(sum(sizes))} of tasks, {megabytes(max(sizes))} at most each, stored as {stored}")
    ckn = megabytes(size_of(opened.where, files, COMMON))
    say(f"networks:  {nets['ckn']} in common ({ckn}); each task's {nets['tsn']} on {nets['tap']['name']}")
    say(f"images:    {'×'.join(map(str, opened.image.shape))}")
    teacher = opened.teacher
    tested = (teacher.get("accuracy") or {}).get("test")
    told = "accuracy not known" if tested is None else f"{100 * tested:.2f} % on test"
    say(f"teacher:   {teacher.get('name', 'trained by the recipe')}, {told}")
    say(f"accuracy:  {_told(_worth(opened), opened)}")
    for line in _by_field(opened):
        say(f"           {line}")
    say("int8:      " + ("calibrated" if opened.calibrated else f"not calibrated: kfdeploy calibrate {pool}"))
    if opened.added_images:
        say(f"added:     {tasks_text([block['task'] for block in opened.added_images])}")
    training = sum(about["bytes"] for name, about in files.items() if name.startswith("train/"))
    say(
        f"size:      {megabytes(sum(about['bytes'] for about in files.values()))} in {len(files):,} files"
        + (f", {megabytes(training)} of them for training (train/)" if training else "; train/ was left out")
    )
    width = max(len(entry["name"]) for entry in entries)
    for entry, size in zip(entries, sizes, strict=True):
        say(f"  {entry['name']:{width}}  {megabytes(size):>9}  {', '.join(listed(entry['classes']))}")


@app.command("check", cls=WordsCommand)
def check(pool: str = POOL) -> None:
    """Compute every file's hash, and name all that is wrong."""
    from kfdeploy.errors import PoolError
    from kfdeploy.pool.edit import faults, leftovers
    from kfdeploy.pool.pool import Pool

    opened = Pool.open(pool)
    files = opened.files
    wrong, extra = faults(opened), leftovers(opened)
    if extra:
        say(f"note: it does not name {tasks_text(extra)}: of no use to it, and may be removed")
    for fault in wrong[1:]:
        say(f"also wrong: {fault}")
    if wrong:
        others = f" (and {len(wrong) - 1} more, above)" if len(wrong) > 1 else ""
        raise PoolError(f"{wrong[0]}{others}", hint="copy the pool again, or make it again")
    there = [about["bytes"] for name, about in files.items() if (opened.path / name).exists()]
    left = f" ({len(files) - len(there)} of train/ were left out)" if len(there) < len(files) else ""
    say(f"'{pool}': {len(there):,} files, {megabytes(sum(there))}, every one as it should be{left}")
    say(f"next:  kfdeploy verify {pool}   (runs them on the golden samples)")


@app.command("remove", cls=WordsCommand)
def remove(
    pool: Path = POOL,
    tasks: list[str] = typer.Option(..., "--tasks", metavar="TASK…", help="The tasks to take out."),
    out: Path | None = typer.Option(None, help="Write the smaller pool there, and leave this one as it is."),
    force: bool = FORCE,
    wait: bool = WAIT,
) -> None:
    """Take tasks out of a pool; the others' files stay as they are, byte for byte."""
    from kfdeploy.errors import UnsupportedError
    from kfdeploy.manifest import TRAINING
    from kfdeploy.pool.edit import remove
    from kfdeploy.pool.pool import Pool

    if force and out is None:
        raise UnsupportedError("--force replaces what is at --out, and that was not given", hint="leave out --force")
    before = Pool.open(pool)
    gone = before.choose(tasks)
    done = remove(before, tasks, out, force=force, wait=wait)
    files, left = before.files, done.files
    dropped = {name: about["bytes"] for name, about in files.items() if name not in left}
    training = sum(size for name, size in dropped.items() if name.startswith(TRAINING))
    say(f"removed:   {tasks_text([task.name for task in gone])}  ({megabytes(sum(dropped.values()) - training)})")
    say(f"tasks:     {tasks_text([entry['name'] for entry in done.entries])}")
    say(f"accuracy:  {_told(_worth(done), done)}")
    if training:
        say(
            f"note: train/ ({megabytes(training)}) is left out; a task that is added to the smaller pool learns from "
            "labels, or from the file of the recipe's teacher"
        )
    say(f"wrote {done.path}")


@app.command("merge", cls=WordsCommand)
def merge(
    a: Path = typer.Argument(..., metavar="A", help="A pool."),
    b: Path = typer.Argument(..., metavar="B", help="Another, with the same common network."),
    out: Path = typer.Option(..., help="Where the merged pool goes."),
    force: bool = FORCE,
    wait: bool = WAIT,
) -> None:
    """Put two pools on one common network together; the tasks' files stay as they are, byte for byte."""
    from kfdeploy.manifest import TRAINING
    from kfdeploy.pool.edit import merge
    from kfdeploy.pool.pool import Pool

    first, second = Pool.open(a), Pool.open(b)
    done = merge(first, second, out, force=force, wait=wait)
    say(f"tasks:     {tasks_text([entry['name'] for entry in done.entries])}")
    say(f"accuracy:  {_told(_worth(done), done)}")
    if not done.calibrated and (first.calibrated or second.calibrated):
        say(f"note: one of them has no ranges of activations; for int8: kfdeploy calibrate {out}")
    if any(name.startswith(TRAINING) for name in [*first.files, *second.files]):
        say("note: train/ is left out; a task that is added learns from labels, or from the recipe's teacher's file")
    say(f"wrote {out}")
    say(f"next:  kfdeploy assemble --pool {out} {_two(done)}")


@app.command("convert", cls=WordsCommand)
def convert(
    pool: Path = POOL,
    half: bool = typer.Option(False, "--half", help="Store the tasks' weights as float16."),
    out: Path = typer.Option(..., help="Where the converted pool goes."),
    data: Path | None = typer.Option(None, help="A folder with train/<class>/ in place of the pool's own data."),
    force: bool = FORCE,
    wait: bool = WAIT,
) -> None:
    """Store the tasks' weights in fewer bytes, and measure what that does to them."""
    from kfdeploy.errors import UnsupportedError
    from kfdeploy.pool.convert import store_half

    if not half:
        raise UnsupportedError(
            "nothing says into what", allowed=("--half",), hint="kfdeploy pool convert --half --out …"
        )
    done = store_half(pool, out, data=data, force=force, wait=wait, report=say)
    share = 100 * done.bytes_after / done.bytes_before
    say(f"weights:   {megabytes(done.bytes_before)} → {megabytes(done.bytes_after)} ({share:.0f} %), stored as float16")
    say(f"accuracy:  {_told(done.before, done.pool)}")
    say(f"rounded:   {_told(done.after, done.pool)}")
    say(f"wrote {out}")
    say(f"next:  kfdeploy assemble --pool {out} {_two(done.pool)}")


@app.command("push", cls=WordsCommand)
def push(
    pool: str = typer.Argument(..., metavar="POOL", help="The pool."),
    url: str = typer.Argument(..., metavar="URL", help="Where to: s3://bucket/folder, or any URL of fsspec."),
    train: bool = typer.Option(False, "--train", help="Also what resuming or adding a task needs."),
    force: bool = FORCE,
) -> None:
    """Push a pool to a server: its files, then its manifest, so that there it is whole or absent."""
    import sys
    import time

    from kfdeploy.pool.push import push as send

    began = time.perf_counter()
    done = send(pool, url, train=train, force=force, report=say if sys.stdout.isatty() else lambda _: None)
    seconds = time.perf_counter() - began
    total = done.sent + done.there
    say(f"sent:    {done.sent} of {total} files, {megabytes(done.sent_bytes)}, in {seconds:.1f} s")
    if done.there:
        say(f"there:   {done.there} files, which the server had already")
    if done.removed:
        say(f"removed: {done.removed} files of the pool that was there before")
    say(f"checked: '{done.where}' has every file, whole")
    say(f"next:  kfdeploy assemble --pool {done.where} --tasks …")


def _two(pool: "Pool") -> str:
    return shlex.join(task_words([entry["name"] for entry in pool.entries[:2]]))


def _worth(pool: "Pool") -> "Accuracy | None":
    from kfdeploy.tasks.worth import known_accuracy

    return known_accuracy(pool.evidence(), pool.tasks)


def _fields(pool: "Pool") -> list[str]:
    """Return of each field how many classes its tasks have, and how they are coupled where it is split in several.

    Of a pool of the one field `class` it is nothing.
    """
    from kfdeploy.tasks.spec import CLASS

    found = []
    for field in dict.fromkeys(task.field for task in pool.tasks):
        own = [task for task in pool.tasks if task.field == field]
        split = f" in {len(own)} tasks, {pool.couplings[field]}" if len(own) > 1 else ""
        found.append(f"{field} ({sum(len(task.classes) for task in own)} classes{split})")
    return [] if {task.field for task in pool.tasks} == {CLASS} else found


def _by_field(pool: "Pool") -> list[str]:
    """Return what the tasks of each field are worth together, where there are several fields."""
    from kfdeploy.tasks.worth import accuracies

    found = accuracies(pool.evidence(), pool.tasks)
    if len(found) == 1:
        return []
    known = {field: each for field, each in found.items() if each.images}
    return [f"{field}: {100 * each.value:.2f} % of {each.images:,} images" for field, each in known.items()]


def _told(accuracy: "Accuracy | None", pool: "Pool") -> str:
    if accuracy is None:
        return "of all tasks together not known, for want of validation images with all their logits"
    fields = len({task.field for task in pool.tasks})
    mean = f", on average over {fields} fields" if fields > 1 else ""
    share = f"{100 * accuracy.value:.2f} %"
    return f"{share} of all tasks together{mean}, exactly, on {accuracy.images:,} validation images"
