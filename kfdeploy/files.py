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

CHECKPOINTS = "checkpoint-*.pt"  # what training leaves to go on from
TIMING = "timing.csv"  # how long each epoch took: of no pool's identity, so not among the files it answers for
METADATA_KEY = "kfdeploy"  # the one metadata key of every file of ours, holding sorted JSON


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as stream:
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
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: dict[str, np.ndarray[Any, Any]] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(str(path), error) from None
    return arrays


def parse_tensors(data: bytes, origin: str) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays in the bytes of a safetensors file that came from `origin`.

    Raises:
        PoolError: they are not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays: dict[str, np.ndarray[Any, Any]] = load(data)
    except SafetensorError as error:
        raise _unreadable(origin, error) from None
    return arrays


def about_of(data: bytes) -> dict[str, Any]:
    """Return what the bytes of a safetensors file of ours say of themselves."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found: dict[str, Any] = json.loads(header.get("__metadata__", {}).get(METADATA_KEY, "{}"))
    return found


def _unreadable(origin: str, error: Exception) -> PoolError:
    return PoolError(f"'{origin}' is not a readable safetensors file: {error}", hint="make it again")
