"""What a manifest and arrays must be before any code indexes them: types, limits and shapes, in plain checks.

A check takes a value and returns what is wrong with it, or an empty string. Checks are put together from smaller ones;
where something inside is wrong, a line says where it stands, and the next one what it is.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from kfdeploy.errors import PoolError

Check = Callable[[Any], str]
_HEX = frozenset("0123456789abcdef")


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """Return a check for a finite number from `low` to `high`."""

    def check(value: Any) -> str:
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            return f"is {value!r:.60}, and not a number{_span(low, high)}"
        return ""

    return check


def whole(low: int = 0, high: int = 2**63 - 1) -> Check:
    """Return a check for a whole number from `low` to `high`."""

    def check(value: Any) -> str:
        if type(value) is not int or not low <= value <= high:
            return f"is {value!r:.60}, and not a whole number{_span(low, high)}"
        return ""

    return check


def text(most: int = 4096, least: int = 0) -> Check:
    """Return a check for a text of `least` to `most` letters."""

    def check(value: Any) -> str:
        if type(value) is not str or not least <= len(value) <= most:
            return f"is {value!r:.60}, and not a text of {least} to {most:,} letters"
        return ""

    return check


def among(*values: str) -> Check:
    """Return a check for one of some texts."""

    def check(value: Any) -> str:
        return "" if type(value) is str and value in values else f"is {value!r:.60} (allowed: {', '.join(values)})"

    return check


def flag(value: Any) -> str:
    """Check for true or false."""
    return "" if type(value) is bool else f"is {value!r:.60} (allowed: true, false)"


def table(value: Any) -> str:
    """Check for a table of anything."""
    return "" if type(value) is dict else f"is {value!r:.60}, and not a table"


def anything(_: Any) -> str:
    """Check nothing."""
    return ""


def maybe(check: Check) -> Check:
    """Return a check that null passes too."""
    return lambda value: "" if value is None else check(value)


def either(*checks: Check) -> Check:
    """Return a check that passes where one of several does; else the first speaks."""
    return lambda value: "" if not all(check(value) for check in checks) else checks[0](value)


def listing(check: Check, least: int = 0, most: int = 1_000_000) -> Check:
    """Return a check for a list of `least` to `most` values, each of which passes."""

    def each(value: Any) -> str:
        if type(value) is not list or not least <= len(value) <= most:
            seen = f"a list of {len(value):,}" if type(value) is list else f"{value!r:.60}"
            return f"is {seen}, and not a list of {least} to {most:,}"
        return next((_under(f"[{i}]", why) for i, one in enumerate(value) if (why := check(one))), "")

    return each


def mapping(check: Check, most: int = 1_000_000) -> Check:
    """Return a check for a table of any names whose values all pass."""

    def each(value: Any) -> str:
        if type(value) is not dict or len(value) > most:
            return f"is {value!r:.60}, and not a table"
        return next((_under(f".{name:.80}", why) for name, one in value.items() if (why := check(one))), "")

    return each


def record(needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None, *, only: bool = False) -> Check:
    """Return a check for a table that has some keys, and may have others; what else is in it is nobody's business.

    With `only`, nothing else may be in it.
    """

    def check(value: Any) -> str:
        if type(value) is not dict:
            return f"is {value!r:.60}, and not a table"
        for key, own in needed.items():
            if key not in value:
                return _under(f".{key}", "is missing")
            if why := own(value[key]):
                return _under(f".{key}", why)
        if only and (odd := [key for key in value if key not in needed and key not in (optional or {})]):
            return f"has the unknown key {odd[0]!r:.80}"
        for key, own in (optional or {}).items():
            if key in value and (why := own(value[key])):
                return _under(f".{key}", why)
        return ""

    return check


def files(value: Any) -> str:
    """Check a manifest's files: of each its bytes and its hash; written out, as a pool may have tens of thousands."""
    if type(value) is not dict:
        return f"is {value!r:.60}, and not a table"
    for name, about in value.items():
        if type(about) is not dict or type(about.get("bytes")) is not int or about["bytes"] < 0:
            return f"does not say how many bytes {name!r:.80} has"
        digest = about.get("sha256")
        if type(digest) is not str or len(digest) != 64 or not _HEX.issuperset(digest):
            return f"does not have the hash of {name!r:.80}"
    return ""


def _under(step: str, why: str) -> str:
    path, _, what = why.rpartition("\n")
    return f"{step}{path}\n{what}".replace("\n\n", "\n")


def _span(low: float, high: float) -> str:
    if low == -math.inf and high == math.inf:
        return ""
    return f" of {low:g} or more" if high in (math.inf, 2**63 - 1) else f" from {low:g} to {high:g}"


def require(value: Any, check: Check, place: object, hint: str) -> None:
    """Refuse what does not pass.

    Raises:
        PoolError: with the key and the value seen.
    """
    why = check(value)
    if not why:
        return
    path, _, what = why.rpartition("\n")
    path = path.replace("\n", " ").removeprefix(".")
    if what == "is missing":
        above, _, key = path.rpartition(".")
        inside = f" (in '{above}')" if above else ""
        raise PoolError(f"'{place}' is incomplete: '{key}' is missing{inside}", hint=hint)
    raise PoolError(f"'{place}' is wrong: '{path}' {what}" if path else f"'{place}' {what}", hint=hint)


Side = int | str | None  # a number; a name, the same number wherever it stands; or any


def hold(
    arrays: Mapping[str, Any], wanted: Mapping[str, tuple[str, tuple[Side, ...]]], origin: str, hint: str = ""
) -> dict[str, int]:
    """Hold arrays to their kinds (such as "float32 float16") and shapes; return the numbers that names stand for.

    Raises:
        PoolError: one is missing, or of another kind or shape.
    """
    sides: dict[str, int] = {}
    for name, (kinds, shape) in wanted.items():
        if name not in arrays:
            raise PoolError(f"'{origin}' has no '{name}'", hint=hint)
        seen = arrays[name]
        if seen.dtype.name not in kinds.split():
            raise PoolError(f"'{name}' in '{origin}' is of {seen.dtype.name}", allowed=kinds.split(), hint=hint)
        fits = len(seen.shape) == len(shape)
        for side, there in zip(shape, seen.shape, strict=False) if fits else ():
            fits &= side is None or there == (sides.setdefault(side, there) if isinstance(side, str) else side)
        if not fits:
            said = [sides.get(side, side) if isinstance(side, str) else side for side in shape]
            whole = " × ".join("any" if side is None else str(side) for side in said)
            raise PoolError(f"'{name}' in '{origin}' has the shape {seen.shape}, and not {whole}", hint=hint)
    return sides


def hold_indices(array: Any, most: int, name: str, origin: str, hint: str = "", *, least: int = 0) -> None:
    """Refuse an array of places in something that has `most` of them; with -1 as `least`, a place may be unknown.

    Raises:
        PoolError: a place is beyond it.
    """
    if array.size and not least <= int(array.min()) <= int(array.max()) < most:
        raise PoolError(
            f"'{name}' in '{origin}' goes from {array.min()} to {array.max()}, and there are {most}", hint=hint
        )


MOST_BATCH = 4096
_CELLS = 1 << 28  # bytes of a batch of images
_NAME = text(2000, 1)
_FILE = text(1024, 1)
_SIDE = whole(1, 16384)


def _image(value: Any) -> str:
    fields = record(
        {"size": listing(_SIDE, 2, 2), "channels": whole(1, 3), "mean": listing(number(), 1, 3),
         "std": listing(number(), 1, 3)},
        {"resize": whole(0, 65536), "interpolation": among("nearest", "bilinear", "bicubic"), "layout": text(16)},
    )  # fmt: skip
    if why := fields(value):
        return why
    if value["channels"] == 2:
        return _under(".channels", "is 2 (allowed: 1, 3)")
    if math.prod(value["size"]) > 1 << 24:
        return _under(".size", f"is {value['size']}, and an image has at most {1 << 24:,} pixels")
    return ""


_FIELD = text(200, 1)  # a field's name
_KIND = text(100)
TASK: dict[str, Check] = {"name": _NAME, "classes": listing(_NAME, 1), "kind": _KIND}
_TASK = record(TASK, {"field": _FIELD})
DATA = record(
    {"source": text(), "root": text()},
    {
        "names": either(mapping(text()), text()),
        "test": number(0, 1),
        "ignore": listing(text()),
        "partial": flag,
        "fields": mapping(record({}, {"kind": text(100), "classes": listing(_NAME), "coupling": maybe(text(100))})),
        "images": either(text(100), whole()),
        "count": whole(),
    },
)
_ACCURACY = record({}, {"test": maybe(number(0, 1)), "validation": maybe(number(0, 1))})
_TEACHER = record({}, {"accuracy": maybe(_ACCURACY), "name": text(), "source": text()})
_THRESHOLD = record({"threshold": number()}, dict.fromkeys(("false_accept", "accepted", "auroc"), maybe(number())))
_OPEN_SET = either(_THRESHOLD, mapping(_THRESHOLD, 1000))  # of the field `class` alone, or by field
_FORM = among("bank", "branches")
_COMMON: dict[str, Check] = {"image": _image, "tasks": listing(_TASK, 1), "files": files, "version": text(100)}
_BLOCK = record({"task": _NAME, "file": _FILE, "classes": listing(_NAME)}, {"data": DATA, "without": listing(_NAME)})
_MORE = {"calibration": _FILE, "weights": text(100), "field": _FIELD, "template": text(100)}
_WIDTH = whole(1, 1 << 24)
_COUPLING = among("joint", "independent")
_CLASSES = record({"classes": listing(_NAME)})  # of schema 1
# What schema 2 says besides; `pool.held` refuses kinds, faces and templates that this version does not have.
_FIELDS = record(
    {
        "fields": mapping(record({"kind": _KIND, "classes": listing(_NAME, 1), "coupling": _COUPLING}), 1000),
        "faces": mapping(record({"channels": _WIDTH}), 100),
        "templates": mapping(record({"file": _FILE, "tap": text(100), "face": text(100), "D": _WIDTH}), 100),
    }
)
_POOL = record(
    _COMMON | {
        "tasks": listing(record(TASK | {"file": _FILE, "evidence": _FILE}, _MORE), 1),
        "name": _NAME, "recipe": record({"data": DATA, "tasks": anything}),
        "coupling": _COUPLING, "temperatures": mapping(number(0)), "teacher": _TEACHER,
        "training": table, "nets": record({"ckn": text(), "tsn": text(), "tap": record({"name": text()})}),
    },
    {"calibration": _FILE, "blocks": listing(_BLOCK), "added": listing(record({"task": _NAME})), "images": table,
     "merged": listing(text(100)), "converted": table, "versions": mapping(text(200))},
)  # fmt: skip
_SHARE = {"validation": maybe(number(0, 1)), "images": whole()}
_MODEL = record(
    _COMMON | {"name": _NAME, "parameters": whole(), "data": DATA,
        "golden": record({"difference": number(0), "tolerance": number(0), "samples": whole()}),
        "accuracy": record(_SHARE, {"fields": mapping(record(_SHARE), 1000)}),
    },
    {"fuse": _FORM, "open_set": maybe(_OPEN_SET), "training": maybe(table), "recipe": table, "calibration": _FILE,
     "provenance": record({}, {"pool": record({"name": text(), "sha256": text(100)}), "open_set": _OPEN_SET}),
     "images": table, "versions": mapping(text(200)), "teacher": table},
)  # fmt: skip
_TEXTS = dict.fromkeys(("precision", "provider"), text(200))
_ARTIFACT = record(
    _COMMON | {
        "model": record({"kind": text(100), "name": _NAME}, {"sha256": text(100)}), "target": text(100),
        "precision": text(100), "options": record({"batch": whole(0, MOST_BATCH)}, _TEXTS), "data": DATA,
        "verify": record({"engine_tolerance": number(0)},
                         {"difference": number(0), "samples": whole(), "equal": number(0, 1), "not_run": text()}),
        "model_files": listing(_FILE, 1, 1000), "parameters": whole(),
    },
    {"fuse": maybe(record({"form": _FORM})), "open_set": maybe(_OPEN_SET), "training": maybe(table),
     "executed": record({}, {"convolutions": mapping(whole()), "nodes": mapping(whole())}),
     "versions": mapping(text(200)), "auto": table, "inputs": table, "outputs": table},
)  # fmt: skip


def _pool(value: Any) -> str:
    return _schema_1(value, _POOL) or (_CLASSES if value.get("schema") == 1 else _FIELDS)(value)


def _model(value: Any) -> str:
    return _schema_1(value, _MODEL)


def _schema_1(value: Any, check: Check) -> str:
    """Check what schema 1 can say, or that schema 2 is what is said."""
    if (why := check(value)) or value.get("schema") != 1:
        return why
    for i, task in enumerate(value["tasks"]):
        if "field" in task:
            return _under(f".tasks[{i}].field", f"is {task['field']!r:.80}, and schema 1 has no fields")
    return ""


def _artifact(value: Any) -> str:
    if why := _schema_1(value, _ARTIFACT):
        return why
    if lost := [name for name in value["model_files"] if name not in value["files"]]:
        return _under(".model_files", f"has {lost[0]!r:.80}, which is not among its files")
    cells = value["options"]["batch"] * math.prod(value["image"]["size"]) * value["image"]["channels"]
    if cells > _CELLS:
        return _under(".options.batch", f"is {value['options']['batch']:,}: {cells:,} bytes of images at a time")
    return ""


# What a file of ours must say, by its kind, before any of it is used; `measuring` holds a benchmark's result.
SHAPES: Mapping[str, Check] = {
    "pool": _pool, "assembly": _model, "student": _model, "teacher": _model, "artifact": _artifact,
    "calibration": record({"ranges": mapping(listing(number(), 2, 2))}),
    "swap": record({"keep": flag, "sha256": text(100)}),
}  # fmt: skip
