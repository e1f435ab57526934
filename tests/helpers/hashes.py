"""Hashes of what kfdeploy makes from the record of 0.1.0 (`tests/records/0.1.0`): whoever changes a byte must say so.

    python tests/helpers/hashes.py              compare with tests/records/hashes.json
    python tests/helpers/hashes.py --record     write it anew: a commit of its own, that says why
    python tests/helpers/hashes.py --demo DIR [--record]   the same of a whole `kfdeploy demo` in DIR

What is hashed from the record follows from the files and the versions of the runtimes alone, so any processor gives the
same. A demo's weights are trained, and their last bits are the processor's: its hashes count on the one they are of.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path

from commands import command

RECORDS = Path(__file__).parents[1] / "records"
RECORD, HASHES, DEMO = RECORDS / "0.1.0", RECORDS / "hashes.json", RECORDS / "demo.json"
PACKAGES = ("onnx", "openvino", "MNN", "numpy", "safetensors", "torch")
LINES = (
    "assemble --tasks sea@horse pets --out bank",
    "assemble --tasks sea@horse pets --out branches --fuse branches",
    "assemble --tasks pets élan --out open --open-set",
    "assemble --tasks sea@horse pets élan --out new/assembly",
    "diff assembly new/assembly --out new.kfu",
    *(f"export bank --target {target} --precision {precision} --out made"
      for target in ("onnx", "openvino", "mnn", "trt") for precision in ("fp32", "fp16", "int8")),
    *(f"export branches open --precision {precision} --out made" for precision in ("fp16", "int8")),
    "export students/small --precision int8 --out made",
    "export bank --fuse branches --precision int8 --out again",
    "export bank --batch 4 --out fixed",
    "pool remove pool --tasks élan --out smaller",
    "pool convert --half pool --out half",
    "apply update.kfu assembly --unsigned",
)  # fmt: skip
KITS = ("onnx", "openvino", "mnn", "trt")


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def made(place):
    """Make everything from the record in the folder `place`; return `{name: sha256}`."""
    before = Path.cwd()
    os.environ["KFDEPLOY_STATE"] = str(Path(place).absolute() / "state")  # not that of whoever runs this
    shutil.copytree(RECORD, place, dirs_exist_ok=True)
    os.chdir(place)
    try:
        for line in LINES:
            command(line)
        found = {}
        for folder in ("assembly", "bank", "branches", "open", "new", "made", "again", "fixed"):
            for path in sorted(Path(folder).rglob("*")):
                # assembly.json and manifest.json say how far a processor's rounding is off, and golden.npz what it is.
                if (path.is_file() and path.suffix not in (".json", ".npz")) or (
                    "parts" in path.parts and path.is_file()
                ):
                    found[path.as_posix()] = sha(path)
        for path in sorted([*Path("smaller").rglob("*"), *Path("half/tasks").rglob("*")]):
            if path.is_file():
                found[path.as_posix()] = sha(path)
        found |= {f"new.kfu: {name}": value for name, value in payloads(Path("new.kfu")).items()}
        for target in KITS:
            command(f"export bank --target {target} --out kits --kit")
            kit = Path("kits") / f"bank-{target}-fp32"
            names = sorted(path for path in kit.rglob("*") if path.suffix in (".py", ".txt", ".md", ".cpp"))
            found |= {path.as_posix(): sha(path) for path in names}
    finally:
        os.chdir(before)
    return found


def payloads(path):
    """Return the hash of every file that an update ships, unpacked, but assembly.json."""
    import zlib

    from safetensors.numpy import load_file

    found = {}
    for name, array in sorted(load_file(path).items()):
        data = array.tobytes()
        if name != "assembly.json":
            found[name] = hashlib.sha256(zlib.decompress(data) if data[:1] == b"\x78" else data).hexdigest()
    return found


def versions():
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def differences(seen, known):
    """Return the names that are not as they were, of what the installed versions can be held to."""
    here, there = versions(), known["versions"]
    needs = {"openvino": ("openvino",), "mnn": ("MNN",)}

    def fair(name):
        used = next((packages for word, packages in needs.items() if f"-{word}-" in name), ())
        return all(here.get(package) == there.get(package) for package in (*used, "onnx", "safetensors"))

    names = seen.keys() | known["files"].keys()
    held = [name for name in sorted(names) if fair(name)]
    return [name for name in held if seen.get(name) != known["files"].get(name)], len(held)


def demo_files(folder):
    """Return `{name: sha256}` of what a demo made and will make again: neither times nor pictures of them."""
    left_out = ("timing.csv", "benchmark.json", "benchmark.png", "demo.json")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files if path.name not in left_out}
    # `--precision auto` writes what it measured into the manifest of the artifact that it keeps.
    return {name: sha(path) for name, path in names.items() if not name.startswith("small/")}


def processor():
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    wanted = ("model name", "cpu family", "model\t", "stepping", "flags")
    return hashlib.sha256("".join(sorted({line for line in lines if line.startswith(wanted)})).encode()).hexdigest()[
        :16
    ]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--record", action="store_true")
    options.add_argument("--demo", type=Path)
    asked = options.parse_args()
    if asked.demo:
        place, seen, more = DEMO, demo_files(asked.demo), {"processor": processor()}
    else:
        with tempfile.TemporaryDirectory() as folder:
            place, seen, more = HASHES, made(Path(folder)), {}
    if asked.record:
        about = more | {"versions": versions(), "files": seen}
        place.write_text(json.dumps(about, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{len(seen)} hashes recorded in {place.name}")
        return
    known = json.loads(place.read_text(encoding="utf-8"))
    if known.get("processor", "") != more.get("processor", ""):
        print("the demo's hashes are of another processor: only the names of its files are compared")
        # Calibration files are named by what they contain.
        here, there = (sorted(re.sub(r"-[0-9a-f]{12}\.json$", ".json", name) for name in each)
                       for each in (seen, known["files"]))  # fmt: skip
        odd = sorted((Counter(here) - Counter(there)) + (Counter(there) - Counter(here)))
        sys.exit(f"not as on record: {odd}" if odd else 0)
    odd, held = differences(seen, known)
    print(f"{held - len(odd)} of {held} files are the same bytes as on record")
    # An empty text would be an exit status of 1.
    sys.exit("\n".join(odd) or 0)


if __name__ == "__main__":
    main()
