"""Holding a pool to its manifest: kinds, shapes, places that are there, and files that are still those it names."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kfdeploy.errors import PoolError, StoreError
from kfdeploy.manifest import TaskEntry
from kfdeploy.pool.manifest import Role
from kfdeploy.pool.remote.place import Place
from kfdeploy.reading import ReadingError, json_of
from kfdeploy.schema import hold, hold_indices
from kfdeploy.tasks.spec import KINDS

_AGAIN = "make the pool again"


def check_kinds(entries: Sequence[TaskEntry], origin: str) -> None:
    """Refuse a task of a kind that this version does not have.

    Raises:
        PoolError: as above.
    """
    for entry in entries:
        if entry["kind"] not in KINDS:
            what = f"'{origin}' has task '{entry['name']}' of kind {entry['kind']!r:.40}"
            raise PoolError(what, allowed=KINDS, hint="update kfdeploy, or make it again with this version")


def hold_evidence(role: Role | None, arrays: Mapping[str, Any], shape: tuple[int, int, int], origin: str) -> None:
    """Refuse a file of evidence whose arrays are not what the manifest says.

    Raises:
        PoolError: as above.
    """
    if role is None:
        return
    if role.kind == "task":
        wanted: dict[str, Any] = {"golden.logits": ("float32", ("G", role.classes))}
        for name in arrays:
            if name == "validation.logits" or name.startswith("validation.logits/"):
                wanted[name] = ("float32", (None, role.classes))
        hold(arrays, wanted, origin, _AGAIN)
        return
    hold_seen(arrays, role.classes, origin)
    if role.kind == "shared":
        hold(arrays, {"golden.images": ("uint8", ("G", *shape))}, origin, _AGAIN)
    known = {f"logits/{task}": ("float32", ("V", width)) for task, width in role.widths.items()}
    hold(arrays, {"validation.labels": ("int64", ("V",))} | {k: v for k, v in known.items() if k in arrays}, origin)


def hold_seen(arrays: Mapping[str, Any], labels: int, origin: str) -> None:
    """Refuse a record of validation images that does not fit itself, or the labels that it counts in.

    Raises:
        PoolError: as above.
    """
    seen: dict[str, Any] = {"validation.labels": ("int64", ("V",)), "validation.rows": ("int64", ("V",))}
    if "validation.content" in arrays:
        seen["validation.content"] = ("uint8", ("V", 8))
    hold(arrays, seen, origin, _AGAIN)
    hold_indices(arrays["validation.labels"], labels, "validation.labels", origin, _AGAIN, least=-1)


def hold_together(
    shared: Mapping[str, Any], each: Sequence[Mapping[str, Any]], names: Sequence[str], origin: str
) -> None:
    """Refuse tasks' evidence that is of more or fewer images than the pool's.

    Raises:
        PoolError: as above.
    """
    golden, seen = len(shared["golden.images"]), len(shared["validation.labels"])
    for name, own in zip(names, each, strict=True):
        logits = own.get("validation.logits")
        if len(own["golden.logits"]) != golden or (logits is not None and len(logits) != seen):
            raise PoolError(
                f"'{origin}/{name}' has logits of {len(own['golden.logits'])} golden samples and of "
                f"{0 if logits is None else len(logits)} images, and the pool has {golden} and {seen}",
                hint=_AGAIN,
            )


@contextmanager
def as_opened(place: Place, where: str, files: Mapping[str, Any]) -> Iterator[None]:
    """Say of a file that is not what the manifest said, where it is the pool that was changed since it was opened.

    Raises:
        PoolError: as above, or what happened inside.
    """
    try:
        yield
    except PoolError:
        now: Any = None
        with suppress(PoolError, StoreError, ReadingError):
            now = json_of(place.manifest())
        if isinstance(now, dict) and now.get("files", files) != files:
            raise PoolError(
                f"'{where}' was changed by another process while it was read", hint="run it again"
            ) from None
        raise
