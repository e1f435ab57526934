"""What classes are called: lists of names in files, ImageNet's thousand, and folders that get readable names."""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from kfdeploy.errors import DataError, nearest
from kfdeploy.reading import read_named

IMAGENET = "imagenet"
_MOST = 10_000_000  # bytes of a list of names


@cache
def imagenet() -> tuple[tuple[str, ...], ...]:
    """Return the 1,000 classes of ILSVRC 2012 in a classifier's order: of each its WordNet id, then its names."""
    return _parsed((Path(__file__).parent / "imagenet.txt").read_text(encoding="utf-8"))


def class_list(name: str) -> tuple[tuple[str, ...], ...]:
    """Return a list of classes by name, `imagenet`, or from a file: of each class all that it is called.

    The file has a class a line: its name, or an id, a tab, and names with commas between them.

    Raises:
        DataError: there is no such file, it is no text, or it is empty.
    """
    if name == IMAGENET:
        return imagenet()
    path = Path(name)
    if not path.is_file():
        raise DataError(
            f"there is no list of classes '{name}'", allowed=(IMAGENET, "a file with a class a line"),
            hint=nearest(name, (IMAGENET,)),
        )  # fmt: skip
    data = read_named(path, f"there is no list of classes '{name}'", "name a file", error=DataError, most=_MOST)
    try:
        found = _parsed(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise DataError(f"'{name}' is no text in UTF-8", hint="save it as UTF-8, a class a line") from None
    if not found:
        raise DataError(f"'{name}' names no class", hint="write a class a line")
    return found


def _parsed(text: str) -> tuple[tuple[str, ...], ...]:
    found = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            first, tab, rest = line.strip().partition("\t")
            found.append((first, *(name.strip() for name in rest.split(",") if name.strip())) if tab else (first,))
    return tuple(found)


def readable_names(
    names: str | Mapping[str, str], classes: Sequence[str], *, all_there: bool = False
) -> tuple[str, ...]:
    """Return the names that outputs get for the classes of the data: `names` by folder, or a list as `class_list` has.

    A class that has none there keeps its own.

    Raises:
        DataError: two classes would get one name; or `all_there`, and `names` has a folder that is not.
    """
    if not names:
        return tuple(classes)
    if isinstance(names, str):
        table = {each[0]: each[1:] or each for each in class_list(names)}
        chosen = _told_apart({name: table[name] for name in classes if name in table})
    else:
        if all_there and (lost := [name for name in names if name not in classes]):
            raise DataError(
                f"data.names has '{lost[0]}', which the data do not have",
                allowed=classes, hint=nearest(lost[0], list(classes)),
            )  # fmt: skip
        chosen = dict(names)
    found = tuple(chosen.get(name, name) for name in classes)
    for i, name in enumerate(found):
        if not name.strip():
            raise DataError(f"data.names gives '{classes[i]}' an empty name", hint="leave it out to keep the folder's")
        if name in found[:i]:
            raise DataError(
                f"data.names gives '{classes[found.index(name)]}' and '{classes[i]}' one name, '{name}'",
                hint="give each a name of its own",
            )
    return found


def _told_apart(table: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return a name for each id: the first that no other has, else the first and the id (ImageNet has two cranes)."""
    heads = [names[0] for names in table.values()]
    found: dict[str, str] = {}
    for each, names in table.items():
        own = [name for name in names if heads.count(name) - (name == names[0]) == 0 and name not in found.values()]
        found[each] = own[0] if own else f"{names[0]} ({each})"
    return found


def column_of(name: str, known: Sequence[Sequence[str]]) -> int | None:
    """Return the index of a class among lists of all that classes are called, or None.

    As written first; else small and capital letters, hyphens and underscores do not count. A name that several have
    stands for none of them, unless it is the first of one alone.
    """
    for same in (str, _plain):
        wanted = same(name)
        for part in (slice(0, 1), slice(1, 2), slice(None)):
            found = [i for i, each in enumerate(known) if wanted in map(same, each[part])]
            if len(found) == 1:
                return found[0]
    return None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().replace("_", " ").replace("-", " ").split())
