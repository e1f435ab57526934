"""Every key of a recipe, from the sections themselves: its type, its default, and what its comment says."""

import inspect
import re
from typing import Any

from pydantic_core import PydanticUndefined

from kfdeploy.training.recipe import nets, sections
from kfdeploy.training.recipe.base import Section
from kfdeploy.training.recipe.recipe import Recipe

# In the order of a recipe; several sections may stand for one net.
_PARTS: tuple[tuple[str, tuple[type[Section], ...]], ...] = (
    ("", (Recipe,)),
    ("[tasks]", (sections.Groups,)),
    ("[tasks.<task>]", (sections.Task,)),
    ("[data]", (sections.Data,)),
    ("[data.fields.<field>]", (sections.DataField,)),
    ("[image]", (sections.Image,)),
    ("[augment]", (sections.Augment,)),
    ("[teacher]", (sections.Teacher,)),
    ("[train], [teacher.train]", (sections.Train,)),
    ("[tsn]", (sections.Tsn,)),
    ("[objective]", (sections.Objective,)),
    ("[[students]]", (sections.Student,)),
    ("students.soft", (sections.SoftTargets,)),
    ("[run]", (sections.Run,)),
    (
        "[ckn], tsn.net, teacher.net, students.net",
        (nets.CifarResNet, nets.ResNet, nets.WideResNet, nets.MobileNetV2, nets.ConvNet, nets.Timm),
    ),
)
_FIELD = re.compile(r"^    ([a-z_A-Z]+): (.+?)(?: = (.+?))?(?:  # (.+))?$")


def reference() -> str:
    """Return the reference as Markdown."""
    lines = [
        "# Recipe keys",
        "",
        "Every key that a recipe may have, by section. An unknown key is an error, and the nearest is named. Keys",
        "whose default is – must be set. `kfdeploy recipes keys` prints this page; it is made from the code.",
    ]
    for title, kinds in _PARTS:
        lines += ["", f"## {f'`{title}`' if title else 'At the top'}"]
        for kind in kinds:
            lines += ["", _first(kind), "", "| key | type | default | |", "|---|---|---|---|"]
            told = _comments(kind)
            for name, field in kind.model_fields.items():
                annotation, comment = told.get(name, ("", ""))
                lines.append(f"| `{name}` | {_type(annotation)} | {_default(field)} | {comment} |")
    return "\n".join(lines) + "\n"


def _first(kind: type[Section]) -> str:
    text = " ".join((inspect.getdoc(kind) or "").split())
    family = kind.model_fields.get("family")
    named = f'`family = "{family.annotation.__args__[0]}"`: ' if family is not None and family.annotation else ""
    return named + text


def _comments(kind: type[Section]) -> dict[str, tuple[str, str]]:
    """Return each field's annotation and comment: behind it, or on the lines before it."""
    found: dict[str, tuple[str, str]] = {}
    for each in reversed(kind.__mro__):
        if not (isinstance(each, type) and issubclass(each, Section)) or each is Section:
            continue
        before: list[str] = []
        for line in inspect.getsource(each).splitlines():
            if line.startswith("    # "):
                before.append(line.strip().removeprefix("# "))
            elif match := _FIELD.match(line):
                found[match[1]] = (match[2], match[4] or " ".join(before))
                before = []
            elif line.strip():
                before = []
    return found


def _type(annotation: str) -> str:
    plain = {
        "str": "text", "int": "whole number", "float": "number", "bool": "true or false", "None": "none",
        "Net": "a net", "Interpolation": "text", "NonNegativeInt": "whole number", "Groups": "[tasks]",
        "DataField": "[data.fields.<field>]", "Task": "[tasks.<task>]",
    }  # fmt: skip
    text = re.sub(r"Field\(.*\)$", "", annotation)
    text = re.sub(r"Literal\[(.+?)\]", lambda m: m[1].replace(", ", " or "), text)
    text = re.sub(r"list\[([A-Za-z]+)\]", lambda m: f"list of {plain.get(m[1], m[1])}s", text)
    text = re.sub(r"dict\[str, (.+)\]", lambda m: f"table of {plain.get(m[1], m[1])}", text)
    words = [plain.get(word.strip(), word.strip()) for word in text.split("|")]
    return " or ".join(words)


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return f"`{field.default_factory()!r}`"
    if field.default is PydanticUndefined:
        return "–"
    if field.default is None:
        return "none"
    if isinstance(field.default, Section):
        return "its own"
    return f"`{field.default!r}`".replace("'", '"').replace("`True`", "`true`").replace("`False`", "`false`")
