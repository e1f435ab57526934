"""Pushing a pool to a server: its files, then its manifest, so that there it is whole or absent."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfdeploy.errors import OutputError, PoolError, StoreError, UnsupportedError
from kfdeploy.files import dump_json
from kfdeploy.manifest import POOL, TRAINING, parse_manifest
from kfdeploy.pool.manifest import shipped
from kfdeploy.pool.pool import Pool
from kfdeploy.pool.remote.store import READ_ONLY, Listed, Store
from kfdeploy.reading import MOST_JSON
from kfdeploy.schema import files as files_fault

_AT_ONCE = 8
_AGAIN = "push again: what has arrived is not sent twice"


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    where: str
    sent: int  # files, the manifest among them
    sent_bytes: int
    there: int  # files that the server had
    removed: int  # files of the pool before that this one does not have


def push(
    pool: Pool | str | Path,
    url: str | Path,
    *,
    train: bool = False,
    force: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Pushed:
    """Push a pool to a folder on a server, and check that everything is there; `train/` goes only with `train`.

    Files that the server has already are not sent: it tells their MD5, or the pool there names the same hash for them.
    A pool that is there is replaced with `force`. It is absent while files that it names change, and stays readable
    otherwise, as when a task was added.

    Raises:
        PoolError: a file of the pool is missing, truncated or altered.
        OutputError: another pool is there, and `force` is not set.
        StoreError: the server cannot be reached, refuses, or breaks off.
        UnsupportedError: the protocol cannot write.
    """
    source = pool if isinstance(pool, Pool) else Pool.open(pool)
    store = Store(url)
    if store.protocol in READ_ONLY:
        raise UnsupportedError(
            f"'{store.where}' cannot be written to: {store.protocol} only reads",
            hint="push to where that server takes its files from, such as s3://<bucket>/<folder>",
        )
    files = source.files
    names = [name for name in files if train or not name.startswith(TRAINING)]
    listed = store.list()
    manifest, before, old = source.place.manifest(), b"", {}
    if (clean := shipped(source.manifest)) != source.manifest:  # 0.1.0 said where its images lie
        manifest = dump_json(clean).encode()
    if POOL in listed:
        before = store.read(POOL, most=MOST_JSON)
        if before != manifest and not force:
            raise OutputError(f"another pool is at '{store.where}'", hint="replace it with --force, or push elsewhere")
        old = _files_of(before, store)
    wanted = [name for name in names if not _same(source, name, listed.get(name), old)]
    kept = {*names, *(name for name in files if name in old and files[name]["sha256"] == old[name].get("sha256"))}
    stale = [name for name in old if name in listed and name not in kept]
    if before and any(name in listed for name in wanted):  # half of one pool and half of another would be neither
        store.remove(POOL)
        before = b""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        sending = threads.map(lambda name: store.write(name, source.read(name)), wanted)
        for number, (name, _) in enumerate(zip(wanted, sending, strict=True)):
            report(f"{number + 1} of {len(wanted)}: {name}")
    if before != manifest:
        store.write(POOL, manifest)
    for name in stale:
        store.remove(name)
    _check(store, manifest, {name: files[name]["bytes"] for name in names})
    return Pushed(
        store.where,
        len(wanted) + (before != manifest),
        sum(files[name]["bytes"] for name in wanted) + len(manifest) * (before != manifest),
        len(names) - len(wanted) + (before == manifest),
        len(stale),
    )


def _files_of(manifest: bytes, store: Store) -> dict[str, dict[str, Any]]:
    """Return the files that the pool there names, none where it cannot be read: --force has been said by then."""
    try:
        found = parse_manifest(manifest, store.at(POOL), ("pool",), "").get("files")
    except PoolError:
        return {}
    return {} if found is None or files_fault(found) else dict(found)


def _same(source: Pool, name: str, there: Listed | None, old: dict[str, dict[str, Any]]) -> bool:
    about = source.files[name]
    if there is None or there.size != about["bytes"]:
        return False
    if there.md5:
        return there.md5 == hashlib.md5(source.read(name), usedforsecurity=False).hexdigest()
    return bool(old.get(name, {}).get("sha256") == about["sha256"])


def _check(store: Store, manifest: bytes, sizes: dict[str, int]) -> None:
    """Check that a pool has arrived.

    Raises:
        StoreError: something has not, or somebody else wrote there at the same time.
    """
    listed = store.list()
    for name, size in sizes.items():
        if name not in listed or listed[name].size != size:
            seen = f"{listed[name].size} bytes" if name in listed else "absent"
            raise StoreError(f"'{store.at(name)}' did not arrive: it is {seen}, and has {size} bytes here", hint=_AGAIN)
    if store.read(POOL, most=MOST_JSON) != manifest:
        raise StoreError(f"'{store.at(POOL)}' is not what was sent: is another push running?", hint=_AGAIN)
