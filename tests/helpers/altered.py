"""Folders that somebody has altered: one change to a pool, an assembly or an artifact, and what must then hold.

A mutant is a function of its kind and number. Where it changes a file, the manifest has the new hash too, as whoever
alters it would see to. Then nothing around the folder may have changed, nothing may end in a traceback, and what says
of the model anything else than it was may not be accepted.
"""

import copy
import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pools import again

from kfdeploy.deploy.artifact import Artifact
from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.calibrate import calibrate
from kfdeploy.deploy.export import export
from kfdeploy.deploy.predict import predict
from kfdeploy.deploy.update.apply import apply, rollback
from kfdeploy.deploy.update.diff import diff
from kfdeploy.deploy.verify import verify
from kfdeploy.errors import KfdeployError
from kfdeploy.files import load_tensors
from kfdeploy.manifest import describe_files
from kfdeploy.measuring.remote import _complete
from kfdeploy.pool.edit import faults, leftovers, remove
from kfdeploy.pool.pool import Pool
from kfdeploy.pool.push import push

MANIFESTS = {"pool": "pool.json", "assembly": "assembly.json", "artifact": "manifest.json", "openvino": "manifest.json"}
BAD = ("../victim/notes.txt", "../../x", "/etc/hostname", "a/../../x", "..", ".", "", "a//b", "./a", "a\\..\\b", "a\0b",
       "a\nb", "C:x", "x" * 300, "link/notes.txt", 7, None, ["a"], {"a": 1})  # fmt: skip
NUMBERS = (float("inf"), float("-inf"), float("nan"), 1e300, -1.0, 1e9, True, None, "1", [])


@dataclass
class Place:
    """A folder to alter, with what lies around it: a victim of the user's, and the user's own files."""

    root: Path
    kind: str

    @property
    def folder(self):
        return self.root / "in" / "folder"

    @property
    def manifest(self):
        return self.folder / MANIFESTS[self.kind]

    def read(self):
        return json.loads(self.manifest.read_text(encoding="utf-8"))

    def write(self, manifest):
        self.manifest.write_text(json.dumps(manifest), encoding="utf-8")

    def describe(self, path):
        """Let the manifest have the hash of a file that was altered."""
        manifest, root = self.read(), self.folder
        if self.kind == "assembly" and "parts" in path.relative_to(root).parts:
            root = root / "parts"
            manifest = json.loads((root / "pool.json").read_text(encoding="utf-8"))
            manifest["files"] |= describe_files(root, [path])
            (root / "pool.json").write_text(json.dumps(manifest), encoding="utf-8")
            return
        manifest["files"] |= describe_files(root, [path])
        self.write(manifest)


def around(root, but):
    """Every entry outside of a folder: what it is, where it leads, and what is in it."""
    found = {}
    for place, folders, files in os.walk(root):
        if Path(place) == but:
            folders.clear()
            continue
        for name in (*folders, *files):
            path = Path(place, name)
            if path.is_symlink():
                found[path] = path.readlink()
            else:
                found[path] = path.read_bytes() if path.is_file() else None
    return found


# What is changed: each gives False where it does not apply, True where what the folder says of itself is another thing,
# and None where it may be accepted as long as nothing around it changes.


def a_name(place, draw):
    manifest, name = place.read(), draw.choice(BAD)
    spots = [lambda: manifest.update(name=name), lambda: manifest.update(calibration=name)]
    entry = draw.choice(manifest["tasks"])
    spots += [lambda key=key: entry.update({key: name}) for key in ("file", "evidence", "calibration")]
    spots.append(lambda: manifest.update(blocks=[{"task": "x", "file": name, "classes": []}]))
    if isinstance(name, str):
        spots.append(lambda: manifest["files"].update({name: {"bytes": 1, "sha256": "0" * 64}}))
        first = next(iter(manifest["files"]))
        spots.append(lambda: manifest["files"].update({name: manifest["files"].pop(first)}))
    if "model" in manifest:
        spots = [lambda: manifest["model"].update(name=name), lambda: manifest.update(model_files=[name]), spots[-1]]
    draw.choice(spots)()
    place.write(manifest)
    return None if place.kind == "pool" or name == "link/notes.txt" else True


def a_link(place, draw):
    files = [path for path in place.folder.rglob("*") if path.name != "train"]
    path, victim = draw.choice(files), place.root / "victim"
    target = victim / "copy"
    path.rename(target)
    path.symlink_to(target)
    return None if "train" in path.parts or place.kind == "pool" else True


def a_link_more(place, draw):
    victim = place.root / "victim"
    name = draw.choice(("link", "calibration/link", ".update", ".previous", ".update.partial", "train/link", "parts/link",
                        ".update/new", ".update/old", ".update/swap.json", "x.partial", "model.engine"))  # fmt: skip
    path = place.folder / name
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(draw.choice((victim, victim / "notes.txt", place.root / "other", place.root / "nowhere")))
    return None


def a_journal(place, draw):
    if place.kind != "assembly":
        return False
    journal, other = place.folder / ".update", place.root / "other"
    journal.mkdir()
    graph = describe_files(place.folder, [place.folder / "model.onnx"])["model.onnx"]["sha256"]
    record = {"schema": 1, "kind": "swap", "keep": draw.choice((True, False, 7, None)), "sha256": graph}
    (journal / "swap.json").write_text(json.dumps(record), encoding="utf-8")
    for name in ("new", "old"):
        kind = draw.choice(("folder", "link", "none", "copy"))
        if kind == "link":
            (journal / name).symlink_to(other)
        elif kind == "copy":
            shutil.copytree(other, journal / name)
        elif kind == "folder":
            (journal / name).mkdir()
            (journal / name / draw.choice(("parts", "assembly.json", "model.onnx", "x"))).symlink_to(other)
    return None


def the_tasks(place, draw):
    manifest = place.read()
    before = copy.deepcopy(manifest["tasks"])
    tasks = manifest["tasks"]
    one, other = draw.sample(tasks, 2)
    what = draw.randrange(7)
    if what == 0:
        one["classes"], other["classes"] = other["classes"], one["classes"]
    elif what == 1:
        tasks.remove(one)
    elif what == 2:
        draw.shuffle(tasks)
    elif what == 3:
        one["name"] = other["name"]
    elif what == 4:
        one["classes"][0] = draw.choice(("wolf", "", other["classes"][0], 7, None))
    elif what == 5:
        one["classes"] = draw.choice(([], "cat", [*one["classes"], "x"], None, {}))
    else:
        one["kind"] = draw.choice(("depth", "", None, 7))
    if "outputs" in manifest and all(isinstance(task["classes"], list) for task in tasks):
        manifest["outputs"]["logits"][2] = sum(len(task["classes"]) for task in tasks)
    place.write(manifest)
    if place.kind == "pool" and what in (1, 2):  # fewer tasks, or another order, are a pool too
        return None
    return tasks != before


def the_image(place, draw):
    manifest = place.read()
    before = copy.deepcopy(manifest["image"])
    key = draw.choice(sorted(before))
    manifest["image"][key] = draw.choice(
        (*NUMBERS, "nearest", "bicubic", [0.5, 0.5, 0.5], [9, 9], [8, 9], 1, 4, 16, [1e9, 1e9], [0, 0], [1, 1, 0])
    )
    place.write(manifest)
    if json.dumps(manifest["image"]) == json.dumps(before):
        return False
    return None if place.kind == "pool" else True


def a_number(place, draw):
    manifest, value = place.read(), draw.choice(NUMBERS)
    spots = {
        "pool": [lambda: manifest["temperatures"].update(pets=value)],
        "assembly": [lambda: manifest["golden"].update(tolerance=value), lambda: manifest.update(parameters=value)],
    }.get(place.kind, [lambda: manifest["verify"].update(engine_tolerance=value, tolerance=value, difference=value)])
    draw.choice(spots)()
    place.write(manifest)
    return None


def a_threshold(place, draw):
    if place.kind == "pool":
        return False
    manifest = place.read()
    manifest["open_set"] = {"threshold": draw.choice(NUMBERS[:7])}
    if "outputs" in manifest:
        manifest["outputs"]["known"] = ["float32", "N"]
    place.write(manifest)
    return True


def a_precision(place, draw):
    if place.kind not in ("artifact", "openvino"):
        return False
    manifest = place.read()
    value = draw.choice(("fp16", "int8", "x", None))
    manifest["precision"] = value
    if draw.random() < 0.7:
        manifest["options"]["precision"] = value
    place.write(manifest)
    return True


def golden(place, draw):
    value = draw.choice((float("inf"), float("-inf"), float("nan"), 3e38, 1e9, 1.0))
    if place.kind in ("pool", "assembly"):
        root = place.folder / ("parts" if place.kind == "assembly" else "")
        path = root / "evidence" / "pets.safetensors"
        arrays = load_tensors(path)
        arrays["golden.logits"][draw.randrange(16), draw.randrange(2)] += np.float32(value)
        again(path, arrays)
    else:
        path = place.folder / "golden.npz"
        with np.load(path) as found:
            arrays = dict(found)
        arrays[draw.choice(("logits", "expected"))][draw.randrange(16), draw.randrange(3)] += np.float32(value)
        np.savez(path, **arrays)
    place.describe(path)
    return True


def no_golden(place, draw):
    if place.kind in ("pool", "assembly"):
        return False
    path = place.folder / "golden.npz"
    with np.load(path) as found:
        arrays = dict(found)
    what = draw.randrange(3)
    for name in ("image", "logits", "expected"):
        arrays[name] = arrays[name][:0] if what == 0 else arrays[name]
    if what == 1:
        arrays["expected"] = arrays["expected"][:, :2]
    elif what == 2:
        arrays["logits"] = arrays["logits"][:8]
    np.savez(path, **arrays)
    place.describe(path)
    return True


def a_file_gone(place, draw):
    manifest = place.read()
    name = draw.choice(sorted(manifest["files"]))
    if draw.random() < 0.5:
        del manifest["files"][name]
        place.write(manifest)
    else:
        (place.folder / name).unlink()
    return None if name.startswith(("train/", "calibration/", "evidence/shared")) else True


def the_source(place, draw):
    manifest = place.read()
    about = manifest["recipe"]["data"] if place.kind == "pool" else manifest["data"]
    about["source"] = draw.choice(("CIFAR10", "MNIST", "folder", "webdataset", "x", "../x"))
    about["root"] = str(draw.choice((place.root / "downloaded", "../../downloaded", "")))
    place.write(manifest)
    return None


MUTATIONS = (a_name, a_link, a_link_more, a_journal, the_tasks, the_image, a_number, a_threshold, a_precision, golden,
             no_golden, a_file_gone, the_source)  # fmt: skip


def read_verbs(place, image, out):
    """What only reads: the folder itself must stay as it is."""
    folder = place.folder
    if place.kind == "pool":
        return [lambda: verify(folder), lambda: faults(Pool.open(folder)), lambda: leftovers(Pool.open(folder))]
    if place.kind == "assembly":
        return [lambda: verify(folder), lambda: predict(folder, [image]), lambda: export(folder, "onnx", out=out),
                lambda: diff(folder, place.root / "other")]  # fmt: skip
    return [lambda: verify(folder), lambda: predict(folder, [image]), lambda: _complete(Artifact.open(folder), out)]


def write_verbs(place, update, out):
    """What writes to the folder, or to `out` from it."""
    folder = place.folder
    if place.kind == "pool":
        return [lambda: assemble(folder, ["pets", "élan"], out / "a"), lambda: calibrate(folder, images=8),
                lambda: push(folder, out / "pushed", train=True), lambda: remove(folder, ["sea horse"])]  # fmt: skip
    if place.kind == "assembly":
        return [lambda: apply(update, folder, unsigned=True), lambda: rollback(folder)]
    return []


def tried(call):
    """Return whether a verb ended well; it may be refused, and nothing else."""
    try:
        call()
    except KfdeployError:
        return False
    return True


@dataclass
class Look:
    """How a mutant was read: whether it was accepted, which entries around it changed, and what else left a verb."""

    told: str
    altered: bool | None
    accepted: bool = False
    wrong: str = ""  # a traceback
    outside: tuple = ()

    @property
    def wrongly(self):
        return bool(self.altered and self.accepted)


def look(kind, number, originals, update, image, top):
    """Read a mutant of a kind of folder with its verbs, below `top`; None where the change does not apply to it.

    The working directory is somebody's folder below `top` meanwhile.
    """
    draw = random.Random(f"{kind} {number}")
    change = MUTATIONS[number % len(MUTATIONS)]
    root, out, before = top / "world", top / "out", Path.cwd()
    place = Place(root, kind)
    (root / "victim").mkdir(parents=True)
    (root / "victim" / "notes.txt").write_text("important")
    shutil.copytree(originals["assembly"], root / "other")
    shutil.copytree(originals[kind], place.folder, copy_function=shutil.copyfile)
    out.mkdir()
    os.chdir(root / "victim")
    try:
        found = Look(f"{kind} {number}: {change.__name__}", change(place, draw))
        if found.altered is False:
            return None
        _read(found, place, draw, (update, image, out))
        return found
    finally:
        os.chdir(before)
        shutil.rmtree(root)
        shutil.rmtree(out)


def _read(found, place, draw, given):
    update, image, out = given
    before, inside = around(place.root, place.folder), around(place.folder, None)
    try:
        verbs = read_verbs(place, image, out)
        found.accepted = tried(verbs[0])
        tried(draw.choice(verbs[1:]))
        if around(place.folder, None) != inside:
            found.outside = ("what was only read",)
        for verb in draw.sample(write_verbs(place, update, out), 1 if place.kind in ("pool", "assembly") else 0):
            tried(verb)
    except Exception as error:
        found.wrong = repr(error)[:300]
    after = around(place.root, place.folder)
    if after != before:
        found.outside += tuple(str(path) for path in {**after, **before} if after.get(path, 0) != before.get(path, 0))
