"""What is done with mutants: the verbs that read each kind of file, run in this process on a world of whole files.

A mutant is refused in words, or it is harmless: whatever else leaves a verb is a traceback that a user would see.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import warnings
import zlib
from pathlib import Path

from meaning import differs, entries, meaning
from mutants import dice_of, image_file, json_file, npz_file, scrambled, tensors_file, toml_file, update_file
from mutants_onnx import onnx_file

from kfdeploy.errors import KfdeployError

TASKS = ("sea horse", "pets")
POOL_VERBS = (
    "pool show pool", "pool check pool", "verify pool", "verify pool", "assemble --pool pool --tasks sea@horse pets --out out",
    "assemble --pool pool --tasks pets élan --out out --open-set --fuse branches", "plan --pool pool --tasks pets sea@horse",
    "plan --pool pool --all", "pool remove pool --tasks pets --out out", "pool merge pool base/pool --out out",
    "diff pool base/pool", "pool convert pool --half --out out", "pool push pool file://{here}/pushed", "plan --pool pool --size 2",
    "calibrate pool",
)  # fmt: skip
MODEL_VERBS = ("verify {}", "verify {}", "predict image.png --model {}", "export {} --out out", "diff {} base/new/assembly",
               "export {} --out out --precision int8")  # fmt: skip
ASSEMBLY = tuple(verb.replace("{}", "assembly") for verb in (*MODEL_VERBS, "apply update.kfu {} --unsigned",
                                                             "diff {} base/new/assembly --out new.kfu", ))  # fmt: skip
STUDENT = tuple(
    verb.replace("{}", "student")
    for verb in (*MODEL_VERBS, "plan --pool base/pool --tasks pets --student {}", "calibrate {}")
)
ARTIFACT = (
    "verify artifact",
    "verify artifact",
    "predict image.png --model artifact",
    "predict image.png --model artifact --json",
)
# Of each kind: the folder and the file in it that is changed, how, and the lines that read it.
KINDS = {
    "pool.json": ("pool", "pool.json", json_file, POOL_VERBS),
    "shared": ("pool", "evidence/shared.safetensors", tensors_file, POOL_VERBS),
    "evidence": ("pool", "evidence/pets.safetensors", tensors_file, POOL_VERBS),
    "weights": ("pool", "tasks/pets.safetensors", tensors_file, POOL_VERBS),
    "common": ("pool", "common.onnx", onnx_file, POOL_VERBS),
    "template": ("pool", "task.onnx", onnx_file, POOL_VERBS),
    "assembly.json": ("assembly", "assembly.json", json_file, ASSEMBLY),
    "graph": ("assembly", "model.onnx", onnx_file, ASSEMBLY),
    "parts": ("assembly", "parts/pool.json", json_file, ASSEMBLY),
    "student.json": ("student", "assembly.json", json_file, STUDENT),
    "student": ("student", "model.onnx", onnx_file, STUDENT),
    "student evidence": ("student", "evidence/evidence.safetensors", tensors_file, STUDENT),
    "ranges": ("student", "calibration", json_file, ("export student --out out --precision int8",)),
    "manifest": ("artifact", "manifest.json", json_file, ARTIFACT),
    "golden": ("artifact", "golden.npz", npz_file, ARTIFACT),
    "engine": ("artifact", "model.onnx", onnx_file, ARTIFACT),
    "update": ("", "update.kfu", update_file, ("apply update.kfu assembly --unsigned", "apply update.kfu assembly --state keyed",
                                              "sign update.kfu --key update.key --out signed.kfu")),
    "previous": ("assembly", ".previous/assembly.json", json_file, ("rollback assembly",)),
    "journal": ("assembly", ".update/swap.json", json_file, ("verify assembly", "rollback assembly")),
    "key": ("", "update.key", scrambled, ("sign update.kfu --key update.key --out signed.kfu",)),
    "public key": ("keyed", "keys/update.pub", scrambled, ("apply update.kfu assembly --state keyed",)),
    "result": ("", "benchmark.json", json_file, ("report benchmark.json --out page.html --markdown page.md", "import benchmark.json",
                                                 "baseline benchmark.json")),
    "inspection": ("", "inspect.json", json_file, ("report base/benchmark.json --inspect inspect.json --out page.html",)),
    "costs": ("", "costs.json", json_file, ("plan --pool base/pool --tasks pets --costs costs.json",
                                            "plan --pool base/pool --budget-ms 1 --costs costs.json")),
    "carried": ("assembly", ".counter.json", json_file, ("apply update.kfu assembly --state keyed",)),
    "rotation": ("", "rotation.json", json_file, ("apply rotation.json --state keyed",)),
    "counter": ("state", "counter", json_file, ("apply update.kfu assembly --state keyed",)),
    "recipe": ("", "recipe.toml", toml_file, ("recipe recipe.toml",)),
    "image": ("", "image.png", image_file, ("predict image.png --model assembly", "predict image.png --model artifact --json")),
    "photo": ("", "image.jpg", image_file, ("predict image.jpg --model assembly",)),
    "webp": ("", "image.webp", image_file, ("predict image.webp --model assembly",)),
    "gif": ("", "image.gif", image_file, ("predict image.gif --model assembly",)),
    "tiff": ("", "image.tif", image_file, ("predict image.tif --model assembly",)),
    "shard": ("shards", "train-0000.tar", image_file, ("images webdataset shards",)),
    "attributes": ("described", "train/attributes.csv", scrambled, ("images folder described",)),
    "pixels": ("arrays", "train/images.npy", scrambled, ("images arrays arrays",)),
    "labels": ("arrays", "train/lit.npy", scrambled, ("images arrays arrays",)),
    "names": ("", "names.txt", toml_file, ("names names.txt",)),
}  # fmt: skip
# What lines write here; anything else that appears, or changes in what they only read, is outside of the place.
OUTPUTS = {"out", "pushed", "state", "keyed", "page.html", "page.md", "new.kfu", "signed.kfu"}
MANIFESTS = {"pool": "pool.json", "assembly": "assembly.json", "student": "assembly.json", "artifact": "manifest.json"}

# Kinds of which a process of the tests reads the mutants apart: files of tests are what the processes share.
PICTURES = ("image", "photo", "webp", "gif", "tiff", "shard", "names", "recipe", "result", "inspection", "costs")


class World:
    """A folder with one of everything, from the record of version 0.1.0; and a place where mutants are looked at."""

    def __init__(self, record, place):
        self.place, self.base = Path(place), Path(place) / "base"
        self.place.mkdir(parents=True, exist_ok=True)
        shutil.copytree(record, self.base)
        base = self.base
        for name, source in (("student", "students/small"), ("artifact", "artifacts/assembly-onnx-fp32")):
            shutil.copytree(base / source, base / name)
        self._more()
        self.before = Path.cwd()
        self.state = os.environ.get("KFDEPLOY_STATE")
        os.environ["KFDEPLOY_STATE"] = str(self.place / "none")  # not that of whoever runs this
        os.chdir(self.place)
        self.images = sorted(base.glob("data/test/*/000.png"))
        self.true = {name: meaning(base / name, self.images) for name in MANIFESTS}
        self.first = self.around()

    def _more(self):
        import tarfile

        import numpy as np
        from PIL import Image

        from kfdeploy.deploy.assemble import assemble
        from kfdeploy.deploy.update.keys import keygen, sign
        from kfdeploy.deploy.update.rotation import rotate
        from kfdeploy.pool.pool import Pool

        base = self.base
        assemble(base / "pool", ["sea horse", "pets", "élan"], base / "new" / "assembly")
        picture = Image.effect_mandelbrot((8, 8), (-2, -1, 1, 1), 50).convert("RGB")
        for name in ("png", "jpg", "webp", "gif", "tif"):
            picture.save(base / f"image.{name}")
        keygen(base / "update")
        (base / "state" / "keys").mkdir(parents=True, exist_ok=True)
        (base / "keyed" / "keys").mkdir(parents=True)
        shutil.copy(base / "update.pub", base / "keyed" / "keys")
        sign(base / "update.kfu", base / "update.key", counter=5)
        keygen(base / "next")
        rotate(base / "next.pub", base / "update.key", base / "rotation.json")
        costs = {"schema": 1, "kind": "costs", "pool": Pool.open(base / "pool").sha256, "machine": "a processor", "target": "onnx",
                 "precision": "fp32", "threads": 1, "common_ms": 0.1, "task_ms": 0.05, "error": 0.01,
                 "points": {"1": 0.15, "2": 0.2}, "students": {"small": 0.1}, "quick": False}  # fmt: skip
        (base / "costs.json").write_text(json.dumps(costs))
        (base / "names.txt").write_text("cat\ndog\nn01\tsea horse, hippocampus\n")
        rows = "".join(f"{i}.png,{'ab'[i % 2]},{'yes' if i < 2 else ''}\n" for i in range(4))
        for name in ("described", "arrays"):
            (base / name / "train" / "images").mkdir(parents=True)
            (base / name / "train" / "attributes.csv").write_text(f"file,shape,odd\n{rows}4.png,c,no\n")
        for i in range(5):
            shutil.copy(base / "image.png", base / "described" / "train" / "images" / f"{i}.png")
        np.save(base / "arrays" / "train" / "images.npy", np.arange(5 * 64, dtype=np.uint8).reshape(5, 8, 8))
        np.save(base / "arrays" / "train" / "lit.npy", np.array([0, 1, -1, 2, 1]))
        (base / "shards").mkdir()
        with tarfile.open(base / "shards" / "train-0000.tar", "w") as tar:
            for i, label in enumerate(("cat", "dog")):
                said = json.dumps({"lit": i == 1, "size": [0.5, 2][i]}).encode()
                for ending, data in (
                    ("png", (base / "image.png").read_bytes()), ("cls", label.encode()), ("json", said),
                ):  # fmt: skip
                    member = tarfile.TarInfo(f"{i:04}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        recipe = base / "recipe.toml"
        if not recipe.is_file():
            recipe.write_text((Path(__file__).parents[2] / "recipes" / "digits.toml").read_text(encoding="utf-8"))

    def close(self):
        os.chdir(self.before)
        os.environ.pop("KFDEPLOY_STATE")
        os.environ.update({} if self.state is None else {"KFDEPLOY_STATE": self.state})

    def around(self):
        """Return what no line may change: what lies around the place, and the whole files in it."""
        mutants = {str(each) for each in self.place.iterdir() if each.name != "base"}
        return entries(self.place.parent, mutants)

    def outside(self):
        """Return what the last line has changed that it had no business with."""
        now = self.around()
        found = sorted(path for path in {**now, **self.first} if now.get(path) != self.first.get(path))
        self.first = now
        known = OUTPUTS | {path.name for path in self.base.iterdir()}
        return found + sorted(path.name for path in self.place.iterdir() if path.name not in known | {"base"})

    def deceived(self, kind):
        """Return whether the mutant's folder, which was taken for whole, means another thing than it did."""
        folder = KINDS[kind][0]
        return folder in self.true and differs(meaning(self.place / folder, self.images), self.true[folder])

    def mutant(self, kind, number):
        """Put a mutant among copies of whole files; return the lines that read it, of which one is run."""
        folder, name, change, lines = KINDS[kind]
        dice = dice_of(kind, number)
        line = dice.choice(lines)
        for there in self.place.iterdir():
            if there.name != "base":
                shutil.rmtree(there) if there.is_dir() and not there.is_symlink() else there.unlink()
        words = set(line.replace("/", " ").split()) | {folder}
        for there in self.base.iterdir():
            copy = self.place / there.name
            if there.name == "data":
                copy.symlink_to(there)
            elif there.name in words or (not folder and there.name == name):
                # Links, which is quick; `outside` tells of a verb that would write into a file where it is.
                shutil.copytree(there, copy, copy_function=os.link) if there.is_dir() else os.link(there, copy)
        self._put(kind)
        target = self.place / folder / name
        if kind == "ranges":
            target = next((self.place / folder / name).iterdir())
        elif kind == "counter":
            target = self._counter()
        data = change(target.read_bytes(), dice)
        _put_anew(target, data)
        if folder in MANIFESTS and target.name != MANIFESTS[folder]:
            self._refit(self.place / folder, target, data)
        return line

    def _put(self, kind):
        """Put beside an assembly the one before it, or an update that was interrupted."""
        assembly = self.place / "assembly"
        if kind == "previous":
            shutil.copytree(self.base / "assembly", assembly / ".previous")
        elif kind == "carried":
            from kfdeploy.deploy.update.file import Update

            found = Update.read(self.base / "update.kfu")
            about = {"schema": 1, "kind": "counter", "assembly": "assembly", "pool": "", "counter": 5, "signer": found.signer,
                     "update": found.identity, "manifest": found.manifest, "signature": found.signature}  # fmt: skip
            (assembly / ".counter.json").write_text(json.dumps(about))
        elif kind == "journal":
            (assembly / ".update" / "new").mkdir(parents=True)
            (assembly / ".update" / "old").mkdir()
            digest = hashlib.sha256((assembly / "model.onnx").read_bytes()).hexdigest()
            record = {"schema": 1, "kind": "swap", "keep": True, "sha256": digest}
            (assembly / ".update" / "swap.json").write_text(json.dumps(record))

    def _counter(self):
        """Return a device's record of the last update, made by applying one."""
        folder = self.base / "keyed" / "counters"
        if not folder.is_dir():
            shutil.rmtree(self.place / "assembly", ignore_errors=True)
            shutil.copytree(self.base / "assembly", self.place / "assembly")
            self.run("apply base/update.kfu assembly --state base/keyed")
            shutil.rmtree(self.place / "assembly")
            shutil.copytree(self.base / "assembly", self.place / "assembly")
            self.first = self.around()  # that was ours
        shutil.rmtree(self.place / "keyed", ignore_errors=True)
        shutil.copytree(self.base / "keyed", self.place / "keyed")
        return next((self.place / "keyed" / "counters").iterdir())

    def _refit(self, root, target, data):
        """Let the manifests say what the changed file is, as whoever attacks would."""
        for manifest in {root / MANIFESTS.get(root.name, ""), root / "parts" / "pool.json"}:
            if manifest.is_file() and manifest != target:
                about = json.loads(manifest.read_text(encoding="utf-8"))
                name = os.path.relpath(target, manifest.parent)
                if name in about["files"]:
                    about["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                    _put_anew(manifest, json.dumps(about).encode())

    def run(self, line):
        """Run a line; return how it ended: well, an error in words, or what a user must never see."""
        words = [word.replace("@", " ").replace("{here}", str(self.place)) for word in line.split()]
        out = io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                OTHERS.get(words[0], _command)(words)
        except KfdeployError as error:
            return "refused" if str(error) and "\n" not in line else "refused without a word"
        except SystemExit as leave:
            return "refused" if leave.code else "fine"
        except zlib.error:
            return "traceback zlib.error"
        except Exception as error:
            import traceback

            last = traceback.extract_tb(error.__traceback__)[-1]
            return f"traceback {type(error).__name__}: {str(error)[:150]} ({Path(last.filename).name}:{last.lineno})"
        return "fine"


def wrong(world, kind, count):
    """Read so many mutants of a kind; return what a user must never see, in lines."""
    found = []
    for number in range(count):
        try:
            line = world.mutant(kind, number)
        except (RecursionError, OverflowError):  # that mutant cannot be made
            continue
        end = world.run(line)
        if end not in ("fine", "refused"):
            found.append(f"{kind} {number}, {line}: {end}")
        elif end == "fine" and line.startswith("verify") and world.deceived(kind):
            found.append(f"{kind} {number}, {line}: taken for what it is not")
        if outside := world.outside():
            found.append(f"{kind} {number}, {line}: changed {outside[:3]}")
    return found


def _put_anew(path, data):
    """Write a file in the place of one that others have too."""
    path.unlink()
    path.write_bytes(data)


def _command(words):
    """Run the command line as `main` does, without what it makes of the errors."""
    import click

    from kfdeploy.cli import app

    argv, sys.argv = sys.argv, ["kfdeploy", *words]
    try:
        app(words, standalone_mode=False)
    except (click.ClickException, click.exceptions.Exit) as error:
        if isinstance(error, click.exceptions.Exit) and error.exit_code == 0:
            return
        raise SystemExit(1) from None
    finally:
        sys.argv = argv


def _import(words):
    from kfdeploy.measuring.answer import answer
    from kfdeploy.measuring.machines import import_result

    found = import_result(None, [words[1], "base/benchmark.json"])
    answer(found, max_ms=None, max_mb=None, min_accuracy=None)


def _baseline(words):
    from kfdeploy.measuring import gates
    from kfdeploy.measuring.result import read_result

    gates.changes(read_result(Path("base/benchmark.json")), read_result(Path(words[1])))


def _recipe(words):
    from kfdeploy.training.recipe.recipe import load_recipe

    load_recipe(words[1])


def _images(words):
    from kfdeploy.data.sources import load_split
    from kfdeploy.tasks.spec import ImageSpec

    load_split(words[1], words[2], "train", ImageSpec((8, 8), 3, (0.5,) * 3, (0.5,) * 3)).identified().load()


def _names(words):
    from kfdeploy.data.names import class_list

    class_list(words[1])


OTHERS = {"import": _import, "baseline": _baseline, "recipe": _recipe, "images": _images, "names": _names}
