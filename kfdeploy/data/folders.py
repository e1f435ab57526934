"""What a folder of images really has: the pictures in it and below it, and what else lies there."""

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from kfdeploy.errors import DataError
from kfdeploy.targets.device.pixels import is_hidden, readable

_NO_DATA = (".txt", ".json", ".csv", ".md", ".xml", ".yaml", ".yml")  # what lies beside pictures, and is none


def images_in(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Return the images in a folder and below it, by name, and how many other files there are of each extension.

    Hidden files and folders, and what systems and editors leave behind, are nobody's pictures. Links are followed.

    Raises:
        DataError: a name is not UTF-8.
    """
    read = readable()
    found: list[Path] = []
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in files:
            _require_text(place, name)
            path = Path(place, name)
            if is_hidden(name):
                continue
            if path.suffix.lower() in read:
                found.append(path)
            elif path.suffix.lower() not in _NO_DATA:
                others[path.suffix.lower() or "no extension"] += 1
    return sorted(found), others


def class_folders(root: Path) -> list[Path]:
    """Return the folders of classes, by name, or by number where all names are numbers; hidden ones are none.

    Raises:
        DataError: a name is not UTF-8, or two names look the same.
    """
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not is_hidden(entry.name))
    looks: set[str] = set()
    for folder in folders:
        _require_text(root, folder.name)
        look = unicodedata.normalize("NFC", folder.name)
        if look in looks:
            raise DataError(
                f"two class folders in '{root}' are called '{look}': one name is composed (NFC), one is not (NFD)",
                hint="put their images into one of them",
            )
        looks.add(look)
    return sorted(folders, key=lambda folder: int(folder.name)) if numbered([f.name for f in folders]) else folders


def numbered(names: Sequence[str]) -> bool:
    """Return whether all names are whole numbers, each another one: 0, 1, 2, …, 10 is their order then."""
    plain = all(name.isascii() and name.isdigit() for name in names)
    return plain and len({int(name) for name in names}) == len(names)


def left_out(others: Counter[str], where: Path) -> str:
    """Return a sentence about the files that were not read, or an empty string."""
    if not others:
        return ""
    each = ", ".join(f"{count} of '{name}'" for name, count in sorted(others.items()))
    return f"{others.total()} files in '{where}' were left out, as Pillow does not read them here: {each}"


def _require_text(place: str | Path, name: str) -> None:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise DataError(
            f"'{shown}' in '{os.fsencode(place).decode('utf-8', 'backslashreplace')}' is no name in UTF-8",
            hint="rename it, for example with: convmv -f latin1 -t utf8 -r --notest <folder>",
        ) from None
