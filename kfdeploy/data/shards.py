"""WebDataset shards: tar files whose members share a name up to the first dot, one image and one `.cls` a sample.

A shard is indexed once, by its headers; a sample is then one read at its offset. So an epoch's order is any
permutation, a function of (seed, epoch), and what a process or a worker reads is decided by the batch sampler as it is
for files: nothing is read twice, and a run resumes at its very step. A compressed shard would have to be unpacked from
its start for every sample, and is refused.
"""

import tarfile
from dataclasses import dataclass
from pathlib import Path

from kfdeploy.errors import DataError, first_line
from kfdeploy.reading import MOST_TEXT, open_regular, read_named
from kfdeploy.targets.device.pixels import EXTENSIONS

LAYOUT = "shards are laid out as root/{train,test}-*.tar, with members such as 000017.png and 000017.cls"
CLASSES = "classes.txt"
MOST_IMAGE = 1 << 30  # bytes of one
_MOST_TEXT = 10_000  # bytes of a class's name


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


def index_shards(root: Path, split: str) -> tuple[list[Member], list[int], tuple[str, ...]]:
    """Return the images of a split, their labels, and the class names.

    `.cls` holds a class's name, or its number in `root/classes.txt` (a name a line).

    Raises:
        DataError: there are no shards, one is damaged or compressed, or a sample is incomplete.
    """
    shards = sorted(root.glob(f"{split}-*.tar"))
    if not shards:
        packed = sorted(root.glob(f"{split}-*.tar.*"))
        hint = f"unpack '{packed[0].name}' and its like: compressed shards cannot be read at random" if packed else ""
        raise DataError(f"there is no '{root / split}-*.tar'; {LAYOUT}", hint=hint or "--set data.root=<folder>")
    images: dict[tuple[Path, str], Member] = {}
    texts: dict[tuple[Path, str], str] = {}
    for shard in shards:
        try:
            with open_regular(shard) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    _note(tar, member, shard, images, texts)
        except DataError:
            raise
        except Exception as error:  # tarfile passes on what its numbers and texts make go wrong
            raise DataError(
                f"the shard '{shard}' is damaged or is no tar file: {first_line(error)[:300]}", hint="fetch it again"
            ) from None
    for key in images.keys() ^ texts.keys():
        lost = "image" if key in texts else ".cls"
        raise DataError(f"the sample '{key[1]}' of '{key[0]}' has no {lost}; {LAYOUT}")
    if not texts:
        raise DataError(
            f"the shards in '{root}' have no sample of '{split}'; {LAYOUT}",
            hint="a sample's name ends at its first dot",
        )
    names = _class_names(root, set(texts.values()))
    _require_one_meaning(root, names, set(texts.values()))
    known = {name: number for number, name in enumerate(names)}
    labels = []
    for (shard, sample), text in texts.items():
        label = known.get(text, int(text) if _is_number(text) and int(text) < len(names) else -1)
        if label < 0:
            raise DataError(f"the sample '{sample}' of '{shard}' is of class '{text}'", allowed=names)
        labels.append(label)
    return [images[key] for key in texts], labels, names


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


def _note(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    shard: Path,
    images: dict[tuple[Path, str], Member],
    texts: dict[tuple[Path, str], str],
) -> None:
    if not member.isfile():
        return
    folder, _, file = member.name.rpartition("/")
    sample, _, extension = file.partition(".")
    key = (shard, f"{folder}/{sample}" if folder else sample)
    if extension == "cls":
        content = tar.extractfile(member) if member.size <= _MOST_TEXT else None
        if content is None:
            raise DataError(f"'{member.name}' of the shard '{shard}' has {member.size:,} bytes, and a class's name few")
        texts[key] = _text(content.read(_MOST_TEXT), shard, member.name)
    elif f".{extension.lower()}" in EXTENSIONS:
        images[key] = Member(shard, member.name, member.offset_data, member.size)


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
