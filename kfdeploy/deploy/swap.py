"""Swapping an assembly on a device: at every moment the whole old one or the whole new one, even when the power goes.

    assembly/model.onnx …       what the device's application reads
    assembly/.previous/         the one before, whole: what `kfdeploy rollback` puts back
    assembly/.update.partial/   being prepared, or done with; worth nothing
    assembly/.counter.json      the last signed update's statement, which goes with the folder; see `update/counters`
    assembly/.update/           prepared and on the disk: new/, old/ and swap.json

Renaming `model.onnx` into its place is the moment of commit. Before it the journal `.update/` is dropped, after it the
rest of the folder is brought in line by renames, each of which may be the last one before a power cut: the next `apply`
or `rollback` goes on from there. Who only reads writes nothing: he gets the old model or the new one, and between the
two is told what finishes the update. Files that both have are hard links, so that keeping the old one costs little.

A journal may have come with a folder from somebody: nothing in it is followed that is a link, or not where we put it.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kfdeploy.errors import KfdeployError, PoolError, UpdateError
from kfdeploy.files import dump_json, sha256
from kfdeploy.locks import lock
from kfdeploy.manifest import ASSEMBLY, GRAPH, MODELS, check_files, read_manifest, stamp
from kfdeploy.names import inside, tree
from kfdeploy.writing import TOKEN, link, place_errors, stem, sync_folder, write

PREVIOUS = ".previous"
COUNTER = ".counter.json"
_JOURNAL, _PARTIAL, _RECORD, _PARTS = ".update", ".update.partial", "swap.json", "parts"
_AGAIN = "copy the assembly again"
_FULL = "free some space, or mend the rights; the model is as it was"


def require_settled(root: Path) -> None:
    """Refuse an assembly that an interrupted update left between the old model and the new one; nothing is written.

    A process that is swapping it just now is waited for.

    Raises:
        PoolError: as above.
    """
    if not os.path.lexists(root / _JOURNAL):
        return
    with suppress(KfdeployError, OSError, ImportError), _lock(root, wait=True):
        pass
    if _between(root):
        raise PoolError(
            f"an update of '{root}' was interrupted, and its files are not yet all of one model",
            hint=f"finish it: kfdeploy apply <update> {root}, or go back: kfdeploy rollback {root}",
        )


def _between(root: Path) -> bool:
    """Return whether the graph is the new one and the files beside it are not yet, or not known to be."""
    new = root / _JOURNAL / "new"
    if not any(os.path.lexists(new / name) for name in (ASSEMBLY, _PARTS)):
        return False  # everything has moved, or nothing has come
    try:
        files = read_manifest(inside(root, ASSEMBLY), MODELS, "")["files"]
        check_files(root, files, [GRAPH])  # the old ones belong together
    except (KfdeployError, OSError, KeyError, TypeError, AttributeError):
        return True
    return not os.path.lexists(new / GRAPH)


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Keep other processes from swapping this assembly, and settle what was left behind.

    Raises:
        UpdateError: another process is swapping it.
        PoolError: there is none.
        OutputError: this process may not write there.
    """
    if not root.is_dir():
        read_manifest(root / ASSEMBLY, "assembly", "name an assembly")  # says that there is none
    # The first is seen by those who read, the second by those who write the whole folder anew.
    with _lock(root, wait=False), lock(root, folder=False):
        _refuse_links(root)
        _settle(root)
        yield


@contextmanager
def swap(root: Path, *, keep: bool) -> Iterator[Path]:
    """Give a folder for the new assembly's `model.onnx`, `assembly.json` and `parts/`, and swap it in after the block.

    Call it inside `exclusive`. The old one is kept for `kfdeploy rollback`, or, without `keep`, no old one is.
    If the block fails, nothing has changed and nothing is left.

    Raises:
        OutputError: the disk is full, or the place cannot be written to.
    """
    partial, journal = root / _PARTIAL, root / _JOURNAL
    try:
        with place_errors(root, _FULL):
            (partial / "new").mkdir(parents=True)
            (partial / "old").mkdir()
            yield partial / "new"
            record = {
                **stamp("swap"),
                "keep": keep,
                "sha256": sha256(partial / "new" / GRAPH),
            }
            for name in (GRAPH, ASSEMBLY) if keep else ():  # the parts go there when the new ones come
                if (root / name).is_file():
                    link(root / name, partial / "old" / name)
            write(partial / _RECORD, dump_json(record).encode())
            _sync_tree(partial)
            partial.rename(journal)
            sync_folder(root)
            (journal / "new" / GRAPH).replace(root / GRAPH)  # the commit
            sync_folder(root)
            _finish(root, keep=keep)
    except BaseException:
        with suppress(OSError, KfdeployError):  # what went wrong first is what is told
            _settle(root)
        raise


def _refuse_links(root: Path) -> None:
    """Refuse an assembly in which what is moved, linked or removed is, or holds, a symbolic link.

    Raises:
        PoolError: as above.
    """
    for name in (_JOURNAL, _PARTIAL, PREVIOUS, COUNTER, _PARTS, GRAPH, ASSEMBLY):
        tree(root / name)


def _settle(root: Path) -> None:
    with place_errors(root, "an update of it was interrupted: run this as its owner"):
        journal = root / _JOURNAL
        if journal.is_dir():
            record = read_manifest(inside(journal, _RECORD), "swap", _AGAIN)
            if not isinstance(record.get("keep"), bool) or not isinstance(record.get("sha256"), str):
                raise PoolError(f"'{journal / _RECORD}' does not say what was begun", hint=_AGAIN)
            if all((place / _PARTS).exists() for place in (root, journal / "new", journal / "old")):
                raise PoolError(f"'{journal}' is no journal of an update: it has parts thrice", hint=_AGAIN)
            if (root / _PARTIAL).exists():  # never beside a journal of ours
                shutil.rmtree(root / _PARTIAL)
            # Either sign is enough: the file has moved out of the journal, or what it moved onto is the new one.
            if not (journal / "new" / GRAPH).exists() or sha256(root / GRAPH) == record["sha256"]:
                _finish(root, keep=record["keep"])
            else:
                journal.rename(root / _PARTIAL)
        if (root / _PARTIAL).exists():
            shutil.rmtree(root / _PARTIAL)
        known = re.compile(re.escape(stem(root / COUNTER)) + rf"\.{TOKEN}\.partial")
        for path in root.glob(f"{stem(root / COUNTER)}.*.partial"):  # a counter that was being written
            if known.fullmatch(path.name):
                path.unlink()


def _finish(root: Path, *, keep: bool) -> None:
    """Bring everything in line with the new `model.onnx`; every step may be the first or the last of a process."""
    journal = root / _JOURNAL
    new, old = journal / "new", journal / "old"
    if (new / ASSEMBLY).exists():
        (new / ASSEMBLY).replace(root / ASSEMBLY)
    if (new / _PARTS).exists():
        if (root / _PARTS).exists():
            if (old / _PARTS).exists():
                raise PoolError(f"'{journal}' has two old models, and at most one can be", hint=_AGAIN)
            (root / _PARTS).rename(old / _PARTS)
            sync_folder(old)
        (new / _PARTS).rename(root / _PARTS)
    if old.exists():  # still here, so what is kept is an older one, or part of it
        if (root / PREVIOUS).exists():
            shutil.rmtree(root / PREVIOUS)
        if keep:
            old.rename(root / PREVIOUS)
    sync_folder(root)
    journal.rename(root / _PARTIAL)  # it is done in one step; removing it takes many
    sync_folder(root)
    shutil.rmtree(root / _PARTIAL)


@contextmanager
def _lock(root: Path, *, wait: bool) -> Iterator[None]:
    """Hold the folder's lock; the system gives it back when a process dies."""
    import fcntl

    with place_errors(root, "name an assembly"):
        descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UpdateError(f"another process is updating '{root}'", hint="wait until it is done") from None
        yield
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for path in {path.parent for path in tree(folder)} | {folder}:
        sync_folder(path)
