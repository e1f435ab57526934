"""Holding a pool to its manifest: kinds, shapes, places that are there, and files that are still those it names."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from kfdeploy.errors import PoolError, StoreError, listed
from kfdeploy.manifest import PoolManifest, TaskEntry
from kfdeploy.pool.fields import FACE, ONLY, TAP, TEMPLATE, field_of
from kfdeploy.pool.manifest import Role
from kfdeploy.pool.remote.place import Place
from kfdeploy.reading import ReadingError, json_of
from kfdeploy.schema import hold, hold_indices
from kfdeploy.tasks.evidence import labels_key
from kfdeploy.tasks.spec import KINDS, field_fault

_AGAIN = "make the pool again"
_UPDATE = "update kfdeploy, or make it again with this version"


def check_kinds(manifest: PoolManifest, origin: str) -> None:
    """Refuse a pool with a kind, a face or a template that this version does not have, or a task of no field of its.

    Raises:
        PoolError: as above.
    """
    for entry in manifest["tasks"]:
        if entry["kind"] not in KINDS:
            what = f"'{origin}' has task '{entry['name']}' of kind {entry['kind']!r:.40}"
            raise PoolError(what, allowed=KINDS, hint=_UPDATE)
    if manifest["schema"] != 1:
        _check_fields(manifest, origin)


def _check_fields(manifest: PoolManifest, origin: str) -> None:
    """Refuse what schema 2 says of fields, faces and templates where it is not what this version reads."""
    known: dict[str, set[str]] = {}
    for name, about in manifest["fields"].items():
        if about["kind"] not in KINDS[1:]:
            what = f"'{origin}' has the field {name!r:.80} of kind {about['kind']!r:.40}"
            raise PoolError(what, allowed=KINDS[1:], hint=_UPDATE)
        known[name] = set(about["classes"])
        twice = "" if len(known[name]) == len(about["classes"]) else f"the field '{name}' has a class twice"
        if why := field_fault(name) or twice:
            raise PoolError(f"'{origin}' is wrong: {why}", hint=_AGAIN)
    for word, have, one in (("face", manifest["faces"], FACE), ("template", manifest["templates"], ONLY)):
        if odd := [name for name in have if name != one]:
            told = f"'{origin}' has the {word} {odd[0]!r:.80}, and this version of kfdeploy reads '{one}' alone"
            raise PoolError(told, hint=_UPDATE)
        if not have:
            raise PoolError(f"'{origin}' has no {word} '{one}'", hint=_AGAIN)
    template = manifest["templates"][ONLY]
    for key, value in {"file": TEMPLATE, "tap": TAP, "face": FACE}.items():
        if (seen := template[key]) != value:  # type: ignore[literal-required]
            told = f"'{origin}' has a template whose {key} is {seen!r:.80}"
            raise PoolError(told, allowed=(value,), hint=_UPDATE)
    for entry in manifest["tasks"]:
        _check_task(entry, known, origin)


def _check_task(entry: TaskEntry, known: Mapping[str, set[str]], origin: str) -> None:
    field, task = field_of(entry), f"'{origin}' has task '{entry['name']}'"
    if (template := entry.get("template", ONLY)) != ONLY:
        raise PoolError(f"{task} of the template {template!r:.80}", allowed=(ONLY,), hint=_UPDATE)
    if field not in known:
        raise PoolError(f"{task} of the field {field!r:.80}", allowed=listed(known), hint=_AGAIN)
    if odd := [name for name in entry["classes"] if name not in known[field]]:
        raise PoolError(f"{task} with the class {odd[0]!r:.80}, which the field '{field}' lacks", hint=_AGAIN)


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
    hold_seen(arrays, role.labels, origin, unknown=role.unknown)
    if role.kind == "shared":
        hold(arrays, {"golden.images": ("uint8", ("G", *shape))}, origin, _AGAIN)
    known = {f"logits/{task}": ("float32", ("V", width)) for task, width in role.widths.items()}
    hold(arrays, {"validation.rows": ("int64", ("V",))} | {k: v for k, v in known.items() if k in arrays}, origin)


def hold_seen(arrays: Mapping[str, Any], labels: Mapping[str, int], origin: str, *, unknown: bool = False) -> None:
    """Refuse a record of validation images that does not fit itself, or the labels that it counts in.

    `labels` are how many classes each field has. With `unknown` a label may be -1, and a field may have none at all:
    one that came with an added task.

    Raises:
        PoolError: as above.
    """
    keys = {labels_key(field): count for field, count in labels.items()}
    if unknown:
        keys = {key: count for key, count in keys.items() if key in arrays}
    seen: dict[str, Any] = dict.fromkeys((*keys, "validation.rows"), ("int64", ("V",)))
    if "validation.content" in arrays:
        seen["validation.content"] = ("uint8", ("V", 8))
    hold(arrays, seen, origin, _AGAIN)
    for key, count in keys.items():
        hold_indices(arrays[key], count, key, origin, _AGAIN, least=-1 if unknown else 0)


def hold_together(
    shared: Mapping[str, Any], each: Sequence[Mapping[str, Any]], names: Sequence[str], origin: str
) -> None:
    """Refuse tasks' evidence that is of more or fewer images than the pool's.

    Raises:
        PoolError: as above.
    """
    golden, seen = len(shared["golden.images"]), len(shared["validation.rows"])
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
