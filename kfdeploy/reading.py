"""Reading what others wrote: one bounded loader for each kind of file, so that a bad one is an error and never more.

Only regular files are read: a pipe or a device in a file's place would never end. A size is never believed, but
enforced while reading. JSON has a depth, a number of values and numbers of 64 bits; arrays have a known kind, and sizes
that add up to the file's. What an image is read by stands in `data.images`, what a graph in `graph.opened`. Functions
that say `ReadingError` are for callers with words of their own; the others raise an error of the tree.
"""

import errno
import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Collection
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from kfdeploy.arrays import Arrays
from kfdeploy.errors import KfdeployError, PoolError, first_line

MOST_FILE = 2**31 - 1  # bytes of a file that is read as a whole: the most that ONNX's format holds
MOST_JSON = 24_000_000  # bytes; a pool of ten thousand tasks has a third of it
MOST_VALUES, MOST_DOTS = 2_000_000, 5_000  # in a JSON, in a TOML file
MOST_DEPTH = 48
MOST_TEXT = 2_000_000  # bytes of a recipe, a key, a list of names
MOST_TENSORS, MOST_RANK = 200_000, 16
LARGEST = 2**63 - 1
_PIECE = 1 << 20
_OURS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
         "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1"}  # fmt: skip
# What else people's checkpoints hold, and torch reads: bytes an element.
_THEIRS = {"BF16": 2, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "C64": 8}
_ODD = re.compile(rb"\\u(?:[dD][89a-fA-F]|0000)")  # half a character, or NUL, which no name may hold
_KINDS = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class ReadingError(ValueError):
    """What is wrong with some bytes; `short` where they look like the beginning of something whole."""

    def __init__(self, why: str, *, short: bool = False) -> None:
        self.short = short
        super().__init__(why)


def open_regular(path: str | Path) -> BufferedReader:
    """Open a file to read, which must be a regular one: nothing else is waited for.

    Raises:
        OSError: it is not there, may not be read, or is no regular file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except ValueError as error:  # a NUL or half a character in the name
        raise OSError(errno.EINVAL, f"no file can be called that ({error})", repr(str(path))) from None
    try:
        kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
        if kind == stat.S_IFDIR:
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'a socket')}, not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | Path, most: int = MOST_FILE) -> bytes:
    """Return the bytes of a regular file of at most `most`, whatever the system says of its size.

    Raises:
        OSError: it is not there, may not be read, is no regular file, or has more bytes.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size <= most:  # else it need not be looked at
            pieces, left = [], most + 1
            while left and (piece := stream.read(min(left, max(_PIECE, size + 1)))):
                pieces.append(piece)
                left -= len(piece)
            if left:
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    raise OSError(errno.EFBIG, f"it has more than the {most:,} bytes that are read of such a file", str(path))


def reason(error: OSError | ValueError) -> str:
    """Return why a file cannot be read, without its name."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def read_named(
    path: str | Path, missing: str, hint: str, *, error: type[KfdeployError] = PoolError, most: int = MOST_JSON
) -> bytes:
    """Return the bytes of a regular file; `missing` is what is said where there is none.

    Raises:
        `error`: as `read_regular`.
    """
    try:
        return read_regular(path, most)
    except FileNotFoundError:
        raise error(missing, hint=hint) from None
    except OSError as why:
        raise error(f"'{path}' cannot be read: {reason(why)}", hint=hint) from None


def parse_json(
    data: bytes, origin: str, *, error: type[KfdeployError] = PoolError, hint: str = "", constants: bool = False
) -> Any:
    """Return what JSON from `origin` says; see `json_of`.

    Raises:
        `error`: as `json_of`.
    """
    try:
        return json_of(data, constants=constants)
    except ReadingError as fault:
        raise error(f"'{origin}' cannot be read: {fault}", hint=hint) from None


def json_of(data: bytes | str, *, constants: bool = False) -> Any:
    """Return what JSON says: bounded in values, depth and numbers, no key twice, no half characters.

    NaN and the infinities are refused, but with `constants`: what was measured may be a number that is none.

    Raises:
        ReadingError: as above, or it is no JSON.
    """
    data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if len(data) > MOST_JSON:
        raise ReadingError(f"it has {len(data):,} bytes, and at most {MOST_JSON:,} are read")
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MOST_VALUES:
        raise ReadingError(f"it has more than {MOST_VALUES:,} values")
    try:
        value = json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_once,
            parse_constant=float if constants else _constant,
        )
    except RecursionError:
        raise ReadingError(f"it is nested more than {MOST_DEPTH} deep") from None
    except ValueError as error:
        raise ReadingError(str(error)[:200]) from None
    check_values(value, constants=constants)
    if _ODD.search(data):
        _check_texts(value)
    return value


def toml_of(data: bytes) -> dict[str, Any]:
    """Return what TOML says, bounded like JSON; a leading byte order mark is left out.

    Raises:
        ReadingError: it is no TOML, too large, too deep, or a number is beyond 64 bits.
    """
    if (dots := data.count(b".")) > MOST_DOTS:  # the parts of a key take the square of their number
        raise ReadingError(f"it has {dots:,} dots, and at most {MOST_DOTS:,} are read")
    try:
        value = tomllib.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise ReadingError(f"it is nested more than {MOST_DEPTH} deep") from None
    except ValueError as error:
        raise ReadingError(str(error)[:300]) from None
    check_values(value)
    return value


def check_values(value: Any, *, constants: bool = False) -> None:
    """Refuse values that are nested too deep, whole numbers beyond 64 bits, and numbers that are not finite.

    Raises:
        ReadingError: as above.
    """
    level: list[Any] = [[value]]
    for _ in range(MOST_DEPTH + 1):
        deeper: list[Any] = []
        for each in level:
            for child in each.values() if type(each) is dict else each:
                kind = type(child)
                if kind is dict or kind is list:
                    deeper.append(child)
                elif kind is int and not -LARGEST <= child <= LARGEST:
                    raise ReadingError(f"it has a whole number of {child.bit_length()} bits, and 64 are read")
                elif kind is float and not (constants or math.isfinite(child)):
                    raise ReadingError(f"it has the number {child}")
        if not deeper:
            return
        level = deeper
    raise ReadingError(f"it is nested more than {MOST_DEPTH} deep")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found, keys = dict(pairs), [key for key, _ in pairs]
    if len(found) != len(pairs):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ReadingError(f"it has the key {twice!r:.80} twice")
    return found


def _constant(name: str) -> NoReturn:
    raise ReadingError(f"it has the number {name}")


def _check_texts(value: Any) -> None:
    left: list[Any] = [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += [*each.keys(), *each.values()]
        elif isinstance(each, list):
            left += each
        elif isinstance(each, str) and ("\0" in each or not is_text(each)):
            raise ReadingError(f"it has a text with half a character or a NUL in it: {each!r:.80}")


def is_text(text: str) -> bool:
    """Return whether a text can be written as UTF-8: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class Entry(NamedTuple):
    """A tensor of a safetensors file: its type, its shape, and where its bytes are among the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class Header(NamedTuple):
    """What a safetensors file says before its data: which begin at byte `data`."""

    about: dict[str, str]
    entries: dict[str, Entry]
    data: int


def header_of(begin: bytes, size: int, types: Collection[str] = tuple(_OURS)) -> Header:
    """Return the header of a safetensors file of `size` bytes from its first bytes; every byte of data is of a tensor.

    Raises:
        ReadingError: it is no such file, cut short, of other types, or its sizes do not add up to the file's.
    """
    length = int.from_bytes(begin[:8], "little")
    if size < 8:
        raise ReadingError("it has no header", short=begin[8:9] in (b"", b"{"))
    if length > size - 8:
        raise ReadingError(f"its header would have {length:,} bytes", short=begin[8:9] in (b"", b"{"))
    if length > MOST_JSON:
        raise ReadingError(f"its header has {length:,} bytes, and at most {MOST_JSON:,} are read")
    found = json_of(begin[8 : 8 + length])
    if not isinstance(found, dict):
        raise ReadingError(f"its header is a {type(found).__name__}")
    about = found.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise ReadingError("its '__metadata__' is no table of texts")
    if len(found) > MOST_TENSORS:
        raise ReadingError(f"it has {len(found):,} tensors, and at most {MOST_TENSORS:,} are read")
    entries = {name: _entry(name, said, types) for name, said in found.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda each: (each[1].start, each[1].end)):
        if entry.start != end:
            raise ReadingError(f"the bytes of '{name}' begin at {entry.start:,}, where {end:,} is next")
        end = entry.end
    if end != size - 8 - length:
        there = size - 8 - length
        raise ReadingError(f"its tensors have {end:,} bytes, and {there:,} are there", short=end > there)
    return Header(about, entries, 8 + length)


def _entry(name: str, said: Any, types: Collection[str]) -> Entry:
    if not isinstance(said, dict) or set(said) != {"dtype", "shape", "data_offsets"}:
        raise ReadingError(f"it does not say what '{name}' is")
    dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
    if not isinstance(dtype, str) or dtype not in types:
        raise ReadingError(f"'{name}' is of the type {dtype!r:.40} (allowed: {', '.join(types)})")
    if not all(isinstance(each, list) and all(type(i) is int and i >= 0 for i in each) for each in (shape, offsets)):
        raise ReadingError(f"'{name}' has the shape {shape!r:.80} at {offsets!r:.80}")
    if len(shape) > MOST_RANK or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ReadingError(f"'{name}' has the shape {shape!r:.80} at {offsets!r:.80}")
    each = np.dtype(_OURS[dtype]).itemsize if dtype in _OURS else _THEIRS[dtype]
    if math.prod(shape) * each != offsets[1] - offsets[0]:
        raise ReadingError(f"'{name}' has the shape {shape!r:.80} and {offsets[1] - offsets[0]:,} bytes")
    return Entry(dtype, tuple(shape), offsets[0], offsets[1])


def tensors_of(data: bytes) -> Arrays:
    """Return the arrays in the bytes of a safetensors file; they are the caller's, to be changed.

    Raises:
        ReadingError: as `header_of`.
    """
    header = header_of(data, len(data))
    return {
        name: np.frombuffer(data, _OURS[e.dtype], math.prod(e.shape), header.data + e.start).reshape(e.shape).copy()
        for name, e in header.entries.items()
    }


def check_tensors(path: Path) -> None:
    """Check the header of a safetensors file of anybody's, such as a checkpoint of gigabytes, before torch reads it.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ReadingError: as `header_of`.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        begin = stream.read(8)
        if (length := int.from_bytes(begin, "little")) <= min(size, MOST_JSON):
            begin += stream.read(length)
        header_of(begin, size, (*_OURS, *_THEIRS))


def read_arrays(
    path: Path, names: Collection[str], most: int, hint: str = "", *, optional: Collection[str] = ()
) -> Arrays:
    """Return named arrays, and those of the `optional` ones that are there, of an .npz that unpacks to `most` bytes.

    Raises:
        PoolError: it cannot be read, has other arrays, is larger, or one is of a kind that numbers are not.
    """
    try:
        with open_regular(path) as stream:
            return _unpacked(stream, names, most, optional)
    except FileNotFoundError:
        raise PoolError(f"'{path}' is missing", hint=hint) from None
    except (OSError, ValueError) as error:
        raise PoolError(f"'{path}' cannot be read: {reason(error)}", hint=hint) from None
    except Exception as error:  # zipfile has several classes of its own, and passes on those of zlib and struct
        raise PoolError(f"'{path}' is no file of arrays: {first_line(error)}", hint=hint) from None


def _unpacked(stream: BinaryIO, names: Collection[str], most: int, optional: Collection[str]) -> Arrays:
    import zipfile

    with zipfile.ZipFile(stream) as archive:
        members, wanted = {each.filename: each for each in archive.infolist()}, {f"{name}.npy" for name in names}
        spare = {f"{name}.npy" for name in optional}
        if len(members) != len(archive.infolist()) or not wanted <= set(members) <= wanted | spare:
            raise ReadingError(f"it has {', '.join(sorted(members))[:200]!r} (allowed: {', '.join(sorted(wanted))})")
        for entry in members.values():
            if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ReadingError(f"'{entry.filename}' is packed in a way that is not read")
        total = sum(entry.file_size for entry in members.values())
        if total > most:
            raise ReadingError(f"it unpacks to {total:,} bytes, and at most {most:,} are read")
        found, left = {}, most
        for name in (*names, *(name for name in optional if f"{name}.npy" in members)):
            with archive.open(members[f"{name}.npy"]) as member:
                data = member.read(left + 1)
            if len(data) > left:
                raise ReadingError(f"it unpacks to more than {most:,} bytes")
            left, found[name] = left - len(data), _array(data, name)
        return found


def check_archive(stream: BinaryIO) -> None:
    """Refuse an archive, such as torch writes, that unpacks to far more than it has; what is no archive passes.

    Raises:
        ReadingError: as above.
    """
    import zipfile

    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
        size = stream.seek(0, os.SEEK_END)
        if total > 4 * size + _PIECE:
            raise ReadingError(f"its {size:,} bytes unpack to {total:,}")
    stream.seek(0)


def _array(data: bytes, name: str) -> np.ndarray[Any, Any]:
    """Return the array in the bytes of a .npy file; no object, no pickle, and just as many bytes as its shape has."""
    import io

    stream = io.BytesIO(data)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in reader:
        raise ReadingError(f"'{name}' is written in version {version}")
    shape, fortran, dtype = reader[version](stream)
    if fortran or dtype.str not in _OURS.values():
        raise ReadingError(f"'{name}' has elements of the type {dtype.str!r:.40}")
    if not all(type(side) is int and side >= 0 for side in shape) or len(shape) > MOST_RANK:
        raise ReadingError(f"'{name}' has the shape {shape!r:.80}")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ReadingError(f"'{name}' has the shape {shape} and {len(data) - stream.tell():,} bytes")
    return np.frombuffer(data, dtype, math.prod(shape), stream.tell()).reshape(shape).copy()
