"""Updating a device: taking what changed between two assemblies there, or taking it back.

What is in `deploy.update.diff` runs where assemblies are made, `apply` and `rollback` on the device: onnx, numpy and
ONNX Runtime, no torch. The device composes the graph from its parts itself; the update says which hash it must have.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfdeploy.deploy.assemble import recompose
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.swap import PREVIOUS, exclusive, swap
from kfdeploy.deploy.update.file import AGAIN, NEW, Update
from kfdeploy.deploy.update.trust import device_of
from kfdeploy.errors import KfdeployError, UpdateError
from kfdeploy.files import sha256
from kfdeploy.graph.reference import golden_difference
from kfdeploy.manifest import ASSEMBLY, GRAPH, PARTS, POOL, open_manifest
from kfdeploy.names import inside, tree
from kfdeploy.pool.pool import Pool
from kfdeploy.reading import read_named
from kfdeploy.tasks.spec import outputs_of
from kfdeploy.writing import link, write

_PARTS = f"{PARTS}/{POOL}"


@dataclass(frozen=True)
class Applied:
    """What `apply` did: the new assembly, the tasks it had before, and what was checked."""

    model: Model
    before: tuple[str, ...]
    already: bool  # it was the new one before: nothing was done
    key: Path | None  # whose signature was checked; None: somebody has said that the device has no key
    counter: int | None
    difference: float
    tolerance: float


def apply(
    update: str | Path, assembly: str | Path, *, state: str | Path | None = None, unsigned: bool = False
) -> Applied:
    """Bring an assembly up to date, in place: checked, composed, proved on the golden samples, then swapped in at once.

    The old one is kept for `rollback`. An update that is applied already changes nothing. `state` is the device's
    state folder, with the keys it trusts; see `trust`. Without a key nothing is taken, unless `unsigned` says that the
    device has none, and takes whatever is whole. If anything fails, the assembly is as it was.

    Raises:
        UpdateError: the update is cut short or altered, not signed as this device wants it, expired, older than the
            last, for another assembly, or for another version of kfdeploy; or there is no key.
        UsageError: `unsigned` goes with a named `state`.
        PoolError: the assembly is not there, or was altered.
        ParityError: the new graph's numbers are not the torch network's.
        OutputError: the disk is full, or cannot be written to.
        MissingDependencyError: the device has a key, and `cryptography` is not installed.
    """
    device, found, root = device_of(state, unsigned=unsigned), Update.read(update), _place(assembly)
    with exclusive(root):
        old = Model.open(root)
        key = device.check(found, old)
        path = None if key is None else key.path
        found.check()
        before = tuple(task.name for task in old.tasks)
        if all(_hash(root / name) == found.new[name] for name in NEW):
            old.check()
            evidence = old.evidence()
            difference, allowed = golden_difference(old.graph, evidence.images, evidence.golden, outputs_of(old.tasks))
            if key is not None:
                device.remember(found, key, old, old)
            return Applied(old, before, True, path, found.counter, difference, allowed)
        _check_base(found, old)
        _refuse_strangers(old)
        with swap(root, keep=True) as work:
            new, difference, allowed = _stage(found, root, work)
            if key is not None:  # before the commit: the very same update may come again, an older one may not
                device.remember(found, key, old, new)
        return Applied(Model.open(root), before, False, path, found.counter, difference, allowed)


def rollback(assembly: str | Path) -> Model:
    """Put back the assembly that the last `apply` replaced, in place; it can be done once.

    Its files are checked against their hashes. The device's counter stays, so no update older than the one that is
    taken back is let in.

    Raises:
        UpdateError: there is nothing to go back to.
        PoolError: the one before is not whole.
        OutputError: the place cannot be written to.
    """
    root = _place(assembly)
    with exclusive(root):
        previous = root / PREVIOUS
        if not previous.is_dir():
            raise UpdateError(
                f"'{root}' has nothing to go back to: no update was applied to it since it was made or rolled back",
                hint="kfdeploy apply keeps the one before",
            )
        before = Model.open(previous)
        before.check()
        _refuse_strangers(Model.open(root))
        with swap(root, keep=False) as work:
            for name in _names(before):
                link(inside(previous, name), work / name)
        return Model.open(root)


def _place(assembly: str | Path) -> Path:
    """Return an assembly's folder, by a way that does not lead through a folder in it: those are about to move."""
    path = Path(assembly)
    return Path(os.path.realpath(path)) if ".." in path.parts else path


def _names(model: Model) -> list[str]:
    """Return the names of all files of an assembly, its manifests among them."""
    parts = () if model.parts is None else (_PARTS, *(f"{PARTS}/{name}" for name in model.parts.files))
    return [name for name in (ASSEMBLY, *model.files, *parts) if (model.path / name).is_file()]


def _refuse_strangers(model: Model) -> None:
    """Refuse to swap an assembly with a file that is not its own where a swap moves or removes: it may be somebody's.

    Raises:
        UpdateError: as above.
    """
    for root in (model.path, model.path / PREVIOUS):
        try:
            known = set(_names(model if root == model.path else Model.open(root)))
        except KfdeployError:  # there is none before, or it is of no use: nobody else's either
            continue
        for path in tree(root / PARTS) if root == model.path else tree(root):
            if path.relative_to(root).as_posix() not in known:
                raise UpdateError(
                    f"'{path}' is not one of the assembly's own files, and would be put aside with them",
                    hint="move it to another folder",
                )


def _check_base(update: Update, old: Model) -> None:
    """Refuse an update that is for another assembly, and one to an assembly that is not what it was.

    Raises:
        UpdateError: it is for another one.
        PoolError: it was altered on the device.
    """
    base = update.base
    names = [task.name for task in old.tasks]
    if old.kind != "assembly":
        raise UpdateError(f"'{old.path}' is no assembly but a {old.kind}", hint="name an assembly")
    seen = (old.files[GRAPH]["sha256"], _hash(old.path / _PARTS))
    if seen != (base[GRAPH], base[_PARTS]):
        same = " of another pool or version" if names == base["tasks"] else ""
        raise UpdateError(
            f"'{update.path}' is for an assembly of {', '.join(base['tasks'])}{same}, and '{old.path}' is one of "
            f"{', '.join(names)}",
            hint=f"make one for it: kfdeploy diff {old.path} NEW --out update.kfu",
        )
    old.check()


def _stage(update: Update, root: Path, work: Path) -> tuple[Model, float, float]:
    """Put the new assembly together in `work`, and prove it: every hash, and its numbers on the golden samples.

    Return it, and by how much it differs from the torch network, and may.

    Raises:
        UpdateError: the update and this assembly's files do not make what it promises.
        ParityError: its numbers are not the torch network's.
    """
    wanted = update.new
    texts = {}
    for name in (ASSEMBLY, _PARTS):
        data = update.file(name)
        missing = f"'{root / name}' is missing"
        texts[name] = read_named(inside(root, name), missing, "copy the assembly again") if data is None else data
        if hashlib.sha256(texts[name]).hexdigest() != wanted[name]:
            raise UpdateError(f"'{update.path}' does not hold the '{name}' that it promises", hint=AGAIN)
        write(work / name, texts[name])
    try:
        parts = Pool.open(work / PARTS)
        names = [f"parts/{name}" for name in parts.files]
        if odd := sorted(set(update.payloads) - {*names, *texts}):
            raise UpdateError(f"'{update.path}' has a file that nothing asks for: '{odd[0]}'", hint=AGAIN)
        for name in names:
            data = update.file(name)
            if data is not None:
                write(inside(work, name), data)
            elif inside(root, name).is_file():
                link(inside(root, name), inside(work, name))
        parts.check()
        composed = recompose(parts, _about(texts[ASSEMBLY], work / ASSEMBLY), wanted[GRAPH])
        if composed is None:
            raise UpdateError(
                f"this device composes another graph than '{update.path}' promises: its kfdeploy or onnx is of "
                "another version, or the update is wrong",
                hint="install the versions that made it, or copy the whole assembly",
            )
        write(work / GRAPH, composed)
        model = Model.open(work)
        model.check()
        evidence = model.evidence()
        return model, *golden_difference(model.graph, evidence.images, evidence.golden, outputs_of(model.tasks))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UpdateError(f"'{update.path}' does not make an assembly: {error!r:.200}", hint=AGAIN) from error
    except KfdeployError as error:  # what it says of files in `work` is about the update
        if isinstance(error, UpdateError):
            raise
        raise type(error)(f"'{update.path}' was refused: {error.what}", allowed=error.allowed, hint=AGAIN) from error


def _about(data: bytes, place: Path) -> dict[str, Any]:
    """Return what the new assembly says of itself, held to what an assembly says."""
    found: dict[str, Any] = open_manifest(data, str(place), ("assembly",), ("name", "fuse"), AGAIN)
    return found


def _hash(path: Path) -> str:
    return sha256(path) if path.is_file() else ""
