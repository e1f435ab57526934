"""What the kit's three programs share. Numpy and Pillow; the runtime is in `session.py`."""

import argparse
import json
import signal
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
from device import quiet, shown  # noqa: F401 - quiet before any runtime is imported
from device.pixels import decode, fit, is_hidden, readable

CLASS = "class"  # the field of class folders
HERE = Path(__file__).resolve().parent
RUNTIMES = {  # what is imported, and what it is called
    "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "MNN": "MNN", "tensorrt": "TensorRT",
    "cuda": "cuda-bindings", "cuda.bindings": "cuda-bindings",
}  # fmt: skip


def begin(main):
    """Run a program: it ends quietly where its reader leaves (`| head`), and says why a runtime does not load.

    What it says when it gives up holds names of other people's, which steer no terminal.
    """
    if hasattr(signal, "SIGPIPE"):  # Windows has none
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        main()
    except ImportError as error:
        sys.exit(shown.lines(unloaded(error)))
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            sys.exit(shown.lines(stopped.code))
        raise


def unloaded(error):
    """Return what is wrong where an import failed: a runtime is not installed, or is and cannot be loaded."""
    if isinstance(error, ModuleNotFoundError) and error.name in RUNTIMES:
        return f"error: {RUNTIMES[error.name]} is not installed\nhint:  pip install -r requirements.txt"
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    hint = "pip install --force-reinstall -r requirements.txt"
    if "executable stack" in said:  # glibc 2.41 and newer gives none to a library that asks for one when it is loaded
        hint = f"GLIBC_TUNABLES=glibc.rtld.execstack=2 python {Path(sys.argv[0]).name}"
    return f"error: the runtime is installed and cannot be loaded: {said}\nhint:  {hint}"


def manifest():
    """Return what the model beside this file is."""
    return json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))


def fields(about):
    """Return the model's fields in their order: of each the output's name, and the classes that are its columns.

    The field of class folders is `class`, and its output `logits`; another's output has the field's name.
    """
    found = {}
    for task in about["tasks"]:
        field = task.get("field", CLASS)
        found.setdefault(field, ("logits" if field == CLASS else field, []))[1].extend(task["classes"])
    return found


def classes(about):
    """Return the classes of the field `class`, which are the columns of `logits`; none where it has no such field."""
    return fields(about).get(CLASS, ("", []))[1]


def golden():
    """Return golden images (G, H, W, C), the torch network's logits (G, C), and those expected of this precision."""
    with np.load(HERE / "golden.npz") as arrays:
        return arrays["image"], arrays["logits"], arrays["expected"]


def read(path, image):
    """Return an image file as uint8 (H, W, C), fitted as the manifest says; exit where it does not decode or fit."""
    try:
        decoded = decode(path, image["channels"], image["resize"])
        return fit(decoded, tuple(image["size"]), image["resize"], image["interpolation"])
    except FileNotFoundError:
        sys.exit(f"error: there is no image at '{path}'")
    except (OSError, SyntaxError, ValueError) as error:
        sys.exit(f"error: '{path}' {error}")


def files(names):
    """Return image files: the named ones, and every one in the named folders."""
    found = []
    for path in map(Path, names):
        there = inside(path) if path.is_dir() else [path]
        if not there:
            sys.exit(f"error: the folder '{path}' has no images (allowed: {', '.join(readable())})")
        found += there
    return found


def inside(folder):
    """Return the images in a folder and its folders; hidden ones are none of the user's."""
    read = readable()
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in read and path.is_file())
    return [path for path in paths if not any(map(is_hidden, path.relative_to(folder).parts))]


def of_class(folder, name):
    """Return the images in the folder of a class; a name that leads out of it has none."""
    parts = Path(name).parts
    plain = name and ".." not in parts and not Path(name).is_absolute() and "\0" not in name
    return inside(folder / name) if plain else []


def run(session, images, about):
    """Return the outputs of all fields side by side (N, C), of uint8 images (N, H, W, C); see `outputs`."""
    return side_by_side(outputs(session, images, about["options"]["batch"]), about)


def side_by_side(found, about):
    """Return the outputs of all fields as one array (N, C); exit where one is not what the manifest says."""
    for name, names in fields(about).values():
        if name not in found:
            sys.exit(f"error: the model has no output '{name}' (it has: {', '.join(found)})")
        if found[name].ndim != 2 or found[name].shape[1] != len(names):
            seen = f"the model gives {found[name].shape[-1]} {name}"
            sys.exit(f"error: {seen}, and manifest.json names {len(names)} classes")
    return np.concatenate([found[name] for name, _ in fields(about).values()], axis=1)


def outputs(session, images, batch):
    """Return all outputs of uint8 images (N, H, W, C), `batch` at a time (0: up to 32), a last batch filled up."""
    # An engine may take fewer images than that (a TensorRT profile).
    size, found = batch or min(32, getattr(session, "largest", 32)), []
    for start in range(0, len(images), size):
        piece = images[start : start + size]
        filled = np.concatenate([piece, np.repeat(piece[-1:], size - len(piece), axis=0)]) if batch else piece
        arrays = session.outputs(np.ascontiguousarray(filled))
        found.append({name: array[: len(piece)] for name, array in arrays.items()})
    return {name: np.concatenate([arrays[name] for arrays in found]) for name in found[0]}


def versions(*names):
    """Return the installed versions of packages."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def say(found):
    """Print one line of JSON."""
    print(shown.plain(json.dumps(found, ensure_ascii=False)))


def parser(text):
    """Return the options that all programs have."""
    found = argparse.ArgumentParser(description=text.splitlines()[0])
    found.add_argument("--threads", type=int, default=1, help="threads of the runtime (default 1)")
    return found


def open_session(threads, scenario="single-stream"):
    """Return the runtime's session; exit with what to type where something is missing."""
    from session import Session

    return Session(HERE, manifest(), threads, scenario)
