"""The file of an update: one safetensors file with what the device lacks, and a manifest that can be signed.

Its one metadata key holds sorted JSON: {"manifest": …, "signature": hex, "key": the signer's fingerprint}. The manifest
has the hash of every payload, so a signature over its canonical bytes covers the whole file.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from kfdeploy.deploy.update.when import moment
from kfdeploy.errors import UpdateError
from kfdeploy.files import METADATA_KEY
from kfdeploy.manifest import SCHEMAS, stamp
from kfdeploy.reading import LARGEST, MOST_FILE, ReadingError, header_of, json_of, read_named

MAKE = "kfdeploy diff OLD NEW --out update.kfu"
AGAIN = "copy the update again, or make it again: " + MAKE


def canonical(about: Mapping[str, Any]) -> bytes:
    """Return the bytes of a statement that are signed."""
    return json.dumps(about, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Update:
    """A manifest, the payloads as they are shipped (packed with zlib where that is smaller), and a signature or none.

    The manifest: `base` and `new` (hashes and task names), `files` (of each payload its bytes and sha256 as shipped,
    and its bytes unpacked), `counter`, which only a signature gives a meaning.
    """

    path: Path
    manifest: dict[str, Any]
    payloads: Mapping[str, bytes]
    signature: str = ""
    signer: str = ""

    @classmethod
    def make(cls, path: Path, base: dict[str, Any], new: dict[str, Any], files: Mapping[str, bytes]) -> "Update":
        """Return an unsigned update that ships `files`."""
        from kfdeploy.version import __version__

        entries, payloads = {}, {}
        for name, data in sorted(files.items()):
            packed = zlib.compress(data, 9)
            payloads[name] = packed if len(packed) < len(data) else data
            entries[name] = {
                "bytes": len(payloads[name]),
                "sha256": hashlib.sha256(payloads[name]).hexdigest(),
                "unpacked": len(data),
            }
        manifest = stamp("update") | {"version": __version__, "base": base, "new": new}
        return cls(path, manifest | {"files": entries, "counter": None}, payloads)

    @classmethod
    def read(cls, path: str | Path) -> "Update":
        """Read an update; nothing of it is trusted yet.

        Raises:
            UpdateError: there is none, it is cut short, it is something else, or its schema is unknown.
        """
        path = Path(path)
        data = read_named(path, f"there is no update at '{path}'", MAKE, error=UpdateError, most=MOST_FILE)
        text, payloads = _open(path, data)
        try:
            about = json_of(text)
            manifest = about["manifest"]
            schema, kind = manifest["schema"], manifest["kind"]
        except (KeyError, TypeError, ReadingError):
            raise UpdateError(f"'{path}' is not an update", hint=MAKE) from None
        if schema != SCHEMAS["update"]:
            raise UpdateError(
                f"'{path}' has schema {schema!r}, and this version of kfdeploy reads schema {SCHEMAS['update']}",
                hint="update kfdeploy on this device, or make the update with its version",
            )
        if kind != "update":
            raise UpdateError(f"'{path}' describes a '{kind}'", allowed=["update"], hint=MAKE)
        signature, signer = about.get("signature", ""), about.get("key", "")
        found = cls(path, manifest, payloads, signature, signer)
        fault = "" if isinstance(signature, str) and isinstance(signer, str) else "its signature is not text"
        if fault := fault or found._fault():
            raise UpdateError(f"the manifest of '{path}' is incomplete: {fault}", hint=AGAIN)
        return found

    def to_bytes(self) -> bytes:
        """Return the file; the same update gives the same bytes."""
        import numpy as np
        from safetensors.numpy import save

        about = {"manifest": self.manifest}
        if self.signature:
            about |= {"signature": self.signature, "key": self.signer}  # type: ignore[dict-item]
        tensors = {name: np.frombuffer(data, dtype=np.uint8) for name, data in self.payloads.items()}
        text = json.dumps(about, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return bytes(save(tensors, metadata={METADATA_KEY: text}))

    @cached_property
    def message(self) -> bytes:
        """The canonical bytes of the manifest: what is signed."""
        return canonical(self.manifest)

    @cached_property
    def identity(self) -> str:
        """The hash of the canonical manifest, and so of everything in the update but its signature."""
        return hashlib.sha256(self.message).hexdigest()

    @property
    def base(self) -> dict[str, Any]:
        """The hashes and task names of the assembly that it is for."""
        found: dict[str, Any] = self.manifest["base"]
        return found

    @property
    def new(self) -> dict[str, Any]:
        """The hashes and task names of the assembly that it makes."""
        found: dict[str, Any] = self.manifest["new"]
        return found

    def stated(self, counter: int, expires: str | None = None) -> "Update":
        """Return it with a counter and a day on which it expires, or none, and without a signature."""
        manifest = {key: value for key, value in self.manifest.items() if key != "expires"} | {"counter": counter}
        return Update(self.path, manifest | ({} if expires is None else {"expires": expires}), self.payloads)

    def signed(self, signature: bytes, signer: str) -> "Update":
        """Return it with a signature over `message`, and the signer's fingerprint."""
        return Update(self.path, self.manifest, self.payloads, signature.hex(), signer)

    @property
    def expires(self) -> datetime | None:
        """The moment from which on no device takes it, or None."""
        return moment(self.manifest.get("expires"))

    @property
    def counter(self) -> int | None:
        """What a signature says of its place among others, or None."""
        value: int | None = self.manifest["counter"]
        return value

    def check(self) -> None:
        """Check every payload against its hash, before any is unpacked.

        Raises:
            UpdateError: one is missing, altered, or not in the manifest; or they unpack to far more than was shipped.
        """
        entries = self.manifest["files"]
        shipped, unpacked = (sum(entry[key] for entry in entries.values()) for key in ("bytes", "unpacked"))
        if unpacked > (most := min(MOST_FILE, _SPARE + _RATIO * shipped)):
            raise UpdateError(
                f"'{self.path}' would unpack its {shipped:,} bytes to {unpacked:,}, and at most {most:,} are unpacked",
                hint="do not use this update",
            )
        if odd := sorted(set(entries) ^ set(self.payloads)):
            raise UpdateError(f"'{self.path}' was altered: '{odd[0]}' is not where its manifest says", hint=AGAIN)
        for name, entry in entries.items():
            seen = hashlib.sha256(self.payloads[name]).hexdigest()
            if seen != entry["sha256"]:
                raise UpdateError(
                    f"'{self.path}' was altered: the sha256 of '{name}' is {seen[:12]}…, its manifest says "
                    f"{entry['sha256'][:12]}…",
                    hint=AGAIN,
                )

    def file(self, name: str) -> bytes | None:
        """Return a file as it will lie on the device, or None where it is not shipped; call `check` first.

        Raises:
            UpdateError: it does not unpack to what the manifest says.
        """
        if name not in self.payloads:
            return None
        data, size = self.payloads[name], self.manifest["files"][name]["unpacked"]
        if size != len(data):
            try:  # no more than was promised, which `check` has bounded: a small file can unpack to a full memory
                data = zlib.decompressobj().decompress(data, size + 1)
            except zlib.error as error:
                raise UpdateError(f"'{name}' in '{self.path}' does not unpack: {error}", hint=AGAIN) from None
        if len(data) != size:
            raise UpdateError(f"'{name}' in '{self.path}' does not unpack to {size} bytes", hint=AGAIN)
        return data

    def _fault(self) -> str:
        """Return in what way the manifest is not one, or an empty string."""
        for side, keys in (("base", ("model.onnx", "parts/pool.json")), ("new", NEW)):
            about = self.manifest.get(side)
            if not isinstance(about, dict) or not all(isinstance(about.get(key), str) for key in keys):
                return f"'{side}' lacks one of {', '.join(keys)}"
            tasks = about.get("tasks")
            if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
                return f"'{side}' names no tasks"
        files = self.manifest.get("files")
        if not isinstance(files, dict):
            return "it has no 'files'"
        for name, entry in files.items():
            if not isinstance(entry, dict) or not all(type(entry.get(key)) is int for key in ("bytes", "unpacked")):
                return f"it does not say how long '{name}' is"
            if not isinstance(entry.get("sha256"), str) or min(entry["unpacked"], entry["bytes"]) < 0:
                return f"it does not say what '{name}' is"
        if self.manifest.get("expires") is not None and self.expires is None:
            return "it expires at no moment"
        counter = self.manifest.get("counter")
        if counter is not None and type(counter) is not int:
            return "its counter is not a number"
        return "" if counter is None or 0 <= counter <= LARGEST else f"its counter is not one of 0 … {LARGEST}"


_SPARE, _RATIO = 16 << 20, 24  # what is shipped unpacks to so many times its bytes at most: zeros would to a thousand
NEW = ("assembly.json", "model.onnx", "parts/pool.json")  # what the hashes of a new assembly are of


def _open(path: Path, data: bytes) -> tuple[str, dict[str, bytes]]:
    """Return what a safetensors file says of itself, and its payloads as they are.

    Raises:
        UpdateError: it is cut short, or something else.
    """
    try:
        header = header_of(data, len(data), ("U8",))
    except ReadingError as error:
        if error.short:
            what = f"'{path}' was cut short: {len(data)} bytes are there"
            raise UpdateError(what, hint=AGAIN) from None
        raise UpdateError(f"'{path}' is not an update: {error}", hint=MAKE) from None
    whole = memoryview(data)[header.data :]
    payloads = {name: bytes(whole[entry.start : entry.end]) for name, entry in header.entries.items()}
    return header.about.get(METADATA_KEY, ""), payloads
