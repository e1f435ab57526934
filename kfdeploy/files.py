"""Files: hashes, names, and reproducible bytes of JSON and tensors."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from kfdeploy.errors import OutputError, PoolError
from kfdeploy.reading import (
    ReadingError,
    header_of,
    json_of,
    open_regular,
    read_regular,
    reason,
    tensors_of,
)  # fmt: skip

CHECKPOINTS = "checkpoint-*.pt"  # what training leaves to go on from
TIMING = "timing.csv"  # how long each epoch took: of no pool's identity, so not among the files it answers for
METADATA_KEY = "kfdeploy"  # the one metadata key of every file of ours, holding sorted JSON


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_name(task: str) -> str:
    """Return the percent-encoded file name of a task; task names may hold spaces and any letters."""
    if task == "shared":  # evidence/shared.safetensors is taken
        return "%73hared"
    name = quote(task, safe="")
    if len(name) > 180:  # a file name has at most 255 bytes
        name = f"{name[:150]}-{hashlib.sha256(task.encode()).hexdigest()[:16]}"
    return name.replace(".", "%2E") if name.startswith(".") else name


def dump_json(value: Any) -> str:
    """Return sorted, indented JSON that ends with a newline."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def dump_line_json(value: dict[str, Any]) -> str:
    """Return JSON with indented keys and every list of numbers on one line: raw samples would fill pages."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    return (
        re.sub(r"\[\s+([-0-9.eE,\s]+?)\s+\]", lambda found: f"[{re.sub(chr(92) + 's+', ' ', found[1])}]", text) + "\n"
    )


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray[Any, Any]], about: Mapping[str, Any]) -> None:
    """Write arrays as safetensors with one metadata key, so that the bytes are reproducible."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    text = json.dumps(dict(about), sort_keys=True, ensure_ascii=False)
    try:
        save_file(whole, path, metadata={METADATA_KEY: text})
    except SafetensorError as error:  # how it reports a full disk
        raise OutputError(f"'{path}' cannot be written: {error}", hint="free some space") from None
    path.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_tensors(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read the arrays of a safetensors file.

    Raises:
        PoolError: the file is not safetensors.
    """
    try:
        return tensors_of(read_regular(path))
    except (ReadingError, OSError) as error:
        raise _unreadable(str(path), error) from None


def parse_tensors(data: bytes, origin: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays in the bytes of a safetensors file that came from `origin`.

    Raises:
        PoolError: they are not safetensors.
    """
    try:
        return tensors_of(data)
    except ReadingError as error:
        raise _unreadable(origin, error) from None


def about_of(data: bytes) -> dict[str, Any]:
    """Return what the bytes of a safetensors file of ours say of themselves.

    Raises:
        ReadingError: they are not safetensors, or say nothing.
    """
    found = json_of(header_of(data, len(data)).about.get(METADATA_KEY, "{}"))
    if not isinstance(found, dict):
        raise ReadingError(f"what it says of itself is a {type(found).__name__}")
    return found


def _unreadable(origin: str, error: OSError | ValueError) -> PoolError:
    return PoolError(f"'{origin}' is not a readable safetensors file: {reason(error)}", hint="make it again")
