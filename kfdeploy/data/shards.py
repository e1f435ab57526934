"""WebDataset shards: tar files whose members share a name up to the first dot, an image and `.cls` or `.json` each.

A shard is indexed once, by its headers; a sample is then one read at its offset. So an epoch's order is any
permutation, a function of (seed, epoch), and what a process or a worker reads is decided by the batch sampler as it is
for files: nothing is read twice, and a run resumes at its very step. A compressed shard would have to be unpacked from
its start for every sample, and is refused.
"""

import tarfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kfdeploy.data.described import known_of, noted
from kfdeploy.data.fields import MOST_FIELDS, Asked, Column, Table, require_maps_unasked, text_fault
from kfdeploy.data.imageset import ImageSet
from kfdeploy.errors import DataError, first_line
from kfdeploy.reading import MOST_TEXT, open_regular, parse_json, read_named
from kfdeploy.targets.device.pixels import EXTENSIONS
from kfdeploy.tasks.spec import CLASS, ImageSpec

LAYOUT = "shards are laid out as root/{train,test}-*.tar, with members such as 000017.png and 000017.cls or .json"
CLASSES = "classes.txt"
MOST_IMAGE = 1 << 30  # bytes of one
_MOST_TEXT = 10_000  # bytes of a class's name
_MOST_JSON = 1_000_000  # bytes of what is said of an image


@dataclass(frozen=True)
class Member:
    """One file inside a tar file."""

    shard: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        """Return its bytes.

        Raises:
            OSError: the shard is gone, or shorter than it was.
        """
        if self.size > MOST_IMAGE:
            raise OSError(f"'{self.name}' has {self.size:,} bytes, and at most {MOST_IMAGE:,} are read of an image")
        with open_regular(self.shard) as stream:
            stream.seek(self.offset)
            data = stream.read(self.size)
        if len(data) != self.size:
            raise OSError(f"'{self.shard}' ends before '{self.name}' does")
        return data

    def __str__(self) -> str:
        return f"{self.shard}/{self.name}"


Key = tuple[Path, str]  # a sample: its shard, and its name in it


@dataclass
class Samples:
    """What lies in the shards of a split, by sample: images, names of classes, and what `.json` says."""

    images: dict[Key, Member] = field(default_factory=dict)
    texts: dict[Key, str] = field(default_factory=dict)  # of `.cls`
    said: dict[Key, int] = field(default_factory=dict)  # of `.json`: the sample's row
    columns: dict[str, Column] = field(default_factory=dict)
    ignored: dict[str, None] = field(default_factory=dict)  # fields that were to be left out


def index_shards(root: Path, split: str, asked: Asked) -> Samples:
    """Return what lies in the shards of a split.

    Raises:
        DataError: there are no shards, one is damaged or compressed, or none has a sample.
    """
    shards = sorted(root.glob(f"{split}-*.tar"))
    if not shards:
        packed = sorted(root.glob(f"{split}-*.tar.*"))
        hint = f"unpack '{packed[0].name}' and its like: compressed shards cannot be read at random" if packed else ""
        raise DataError(f"there is no '{root / split}-*.tar'; {LAYOUT}", hint=hint or "--set data.root=<folder>")
    found = Samples()
    for shard in shards:
        try:
            with open_regular(shard) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    _note(tar, member, shard, found, asked)
        except DataError:
            raise
        except Exception as error:  # tarfile passes on what its numbers and texts make go wrong
            raise DataError(
                f"the shard '{shard}' is damaged or is no tar file: {first_line(error)[:300]}", hint="fetch it again"
            ) from None
    if not found.said:
        _require_whole(found.images.keys(), found.texts.keys(), ".cls")
    elif not asked.lenient:
        _require_whole(found.images.keys(), found.texts.keys() | found.said.keys(), ".json")
    if not found.images.keys() & (found.texts.keys() | found.said.keys()):
        raise DataError(
            f"the shards in '{root}' have no sample of '{split}'; {LAYOUT}",
            hint="a sample's name ends at its first dot",
        )
    return found


def _require_whole(images: Collection[Key], known: Collection[Key], extension: str) -> None:
    for shard, sample in (*(key for key in known if key not in images), *(key for key in images if key not in known)):
        lost = "image" if (shard, sample) in known else extension
        raise DataError(f"the sample '{sample}' of '{shard}' has no {lost}; {LAYOUT}")


def labels_of(root: Path, texts: Mapping[Key, str]) -> tuple[list[int], tuple[str, ...]]:
    """Return the labels of `.cls` texts, and the class names.

    `.cls` holds a class's name, or its number in `root/classes.txt` (a name a line).

    Raises:
        DataError: one is none of the classes, or has two meanings.
    """
    names = _class_names(root, set(texts.values()))
    _require_one_meaning(root, names, set(texts.values()))
    known = {name: number for number, name in enumerate(names)}
    labels = []
    for (shard, sample), text in texts.items():
        label = known.get(text, int(text) if _is_number(text) and int(text) < len(names) else -1)
        if label < 0:
            raise DataError(f"the sample '{sample}' of '{shard}' is of class '{text}'", allowed=names)
        labels.append(label)
    return labels, names


def shards(root: Path, split: str, image: ImageSpec, asked: Asked) -> ImageSet:
    """Return a split of shards, its images where they lie in them.

    Where there is no `.json`, the class is all that is known of an image.

    Raises:
        DataError: there are none, one is damaged, a sample is incomplete, or what is said of one cannot be used.
    """
    found = index_shards(root, split, asked)
    if not found.said:
        labels, classes = labels_of(root, found.texts)
        members = tuple(found.images[key] for key in found.texts)
        rows = np.arange(len(members))
        return ImageSet(classes, np.array(labels, np.int64), rows, image, paths=members, root=root)
    train = None
    if split == "test" and not asked.again and any(root.glob("train-*.tar")):
        train = _table(root, "train", index_shards(root, "train", asked), asked)
    keys = [key for key in found.images if key in found.said or key in found.texts]
    number = {key: row for row, key in enumerate((*found.said, *(key for key in found.texts if key not in found.said)))}
    rows = np.array([number[key] for key in keys], np.int64)
    members = tuple(found.images[key] for key in keys)
    images = ImageSet((), rows, np.arange(len(keys)), image, paths=members, root=root)
    lost = len(found.images.keys() | number.keys()) - len(keys)
    note = f"{lost:,} samples of '{root / split}-*.tar' that are incomplete were left out" if lost else ""
    return noted(known_of(images, _table(root, split, found, asked), train, asked, rows), note)


def _table(root: Path, split: str, found: Samples, asked: Asked) -> Table:
    """Return what is known of samples: those with a `.json` in their order, then those that have a `.cls` alone."""
    rows = found.said | {
        key: len(found.said) + i for i, key in enumerate(key for key in found.texts if key not in found.said)
    }
    table = Table(
        f"{root / split}-*.tar", lambda key: f"the sample '{key[1]}' of '{key[0]}'", dict(found.columns), len(rows),
        ignored=tuple(found.ignored),
    )  # fmt: skip
    if found.texts and asked.reads(CLASS):
        labels, names = labels_of(root, found.texts)
        own = sorted(zip((rows[key] for key in found.texts), labels, found.texts, strict=True))
        column = Column()
        for row, label, key in own:
            column.put(row, names[label], key)
        if (said := found.columns.get(CLASS)) is not None:
            _require_same_class(said, column, list(rows))
        table.columns = {CLASS: column} | {name: each for name, each in table.columns.items() if name != CLASS}
        table.listed = {CLASS: names} if (root / CLASSES).is_file() else {}
    return table


def _require_same_class(said: Column, column: Column, keys: Sequence[Key]) -> None:
    texts = tuple(said.known), tuple(column.known)
    for key, one, other in zip(keys, said.codes(len(keys)), column.codes(len(keys)), strict=True):
        if one >= 0 and (other < 0 or texts[0][one] != texts[1][other]):
            seen = f"'{texts[1][other]}'" if other >= 0 else "nothing"
            raise DataError(
                f"the sample '{key[1]}' of '{key[0]}' is of class '{texts[0][one]}' in its .json, and {seen} in its "
                ".cls",
                hint="say the class in one of them",
            )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _require_one_meaning(root: Path, names: tuple[str, ...], seen: set[str]) -> None:
    """Refuse a `.cls` that is a class's name and the number of another class's line.

    Raises:
        DataError: as above.
    """
    for text in sorted(seen):
        if _is_number(text) and text in names and int(text) < len(names) and names[int(text)] != text:
            raise DataError(
                f"the shards in '{root}' have the class '{text}', which is a name in {CLASSES} and the number of the "
                f"line '{names[int(text)]}' too",
                hint=f"write names in {CLASSES} that are no numbers, such as class{text}",
            )


def _note(tar: tarfile.TarFile, member: tarfile.TarInfo, shard: Path, found: Samples, asked: Asked) -> None:
    if not member.isfile():
        return
    folder, _, file = member.name.rpartition("/")
    sample, _, extension = file.partition(".")
    key = (shard, f"{folder}/{sample}" if folder else sample)
    if extension == "cls":
        content = tar.extractfile(member) if member.size <= _MOST_TEXT else None
        if content is None:
            raise DataError(f"'{member.name}' of the shard '{shard}' has {member.size:,} bytes, and a class's name few")
        found.texts[key] = _text(content.read(_MOST_TEXT), shard, member.name)
    elif extension == "json":
        content = tar.extractfile(member) if member.size <= _MOST_JSON else None
        if content is None:
            raise DataError(
                f"'{member.name}' of the shard '{shard}' has {member.size:,} bytes, and at most {_MOST_JSON:,} are read"
            )
        _say(content.read(_MOST_JSON), member.name, key, found, asked)
    elif f".{extension.lower()}" in EXTENSIONS:
        found.images[key] = Member(shard, member.name, member.offset_data, member.size)


def _say(data: bytes, member: str, key: Key, found: Samples, asked: Asked) -> None:
    """Add what a sample's `.json` says: of each field a text, a number, or true or false."""
    origin = f"{key[0]}/{member}"
    said = parse_json(data, origin, error=DataError, hint='write a table: {"shape": "square"}')
    if not isinstance(said, dict):
        raise DataError(f"'{origin}' is no table of fields", hint='write a table: {"shape": "square"}')
    if key in found.said:
        raise DataError(f"the sample '{key[1]}' of '{key[0]}' has two .json")
    row = found.said[key] = len(found.said)
    for name, value in said.items():
        if name in asked.ignore:
            found.ignored[name] = None
        if not asked.reads(name) or value is None:
            continue
        if isinstance(value, dict | list):
            require_maps_unasked(name, asked, f"{name} of {origin}")
            continue
        text = ("true" if value else "false") if isinstance(value, bool) else str(value).strip()
        column = found.columns.setdefault(name, Column())
        if len(found.columns) > MOST_FIELDS:
            raise DataError(f"'{origin}' is the first to have more than {MOST_FIELDS:,} fields with those before it")
        if text and text not in column.known and (why := text_fault(text)):
            raise DataError(f"'{origin}': the value of '{name}' {why}")
        if text:
            column.put(row, text, key)


def _text(data: bytes, shard: Path, name: str) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise DataError(
            f"'{name}' of the shard '{shard}' is not UTF-8: it begins with {data[:20]!r}",
            hint="write the .cls files as UTF-8, or the classes by number",
        ) from None


def _class_names(root: Path, seen: set[str]) -> tuple[str, ...]:
    listed = root / CLASSES
    if listed.is_file():
        text = _text(read_named(listed, "", "", error=DataError, most=MOST_TEXT), root, CLASSES)
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    if numbers := [text for text in seen if text.isdigit()]:
        raise DataError(
            f"the shards in '{root}' have classes by number ({min(numbers, key=int)} …), and there is no '{listed}'",
            hint="write it: the name of class 0 on the first line, of class 1 on the second",
        )
    return tuple(sorted(seen))
