"""The files that `portability.py` runs: every form, precision and batch, made from a pool in seconds, without torch."""

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.deploy.parity import TOLERANCE
from kfdeploy.errors import UnsupportedError
from kfdeploy.graph.known import known_beside
from kfdeploy.pool.pool import Pool
from kfdeploy.targets import load
from kfdeploy.targets.base import Setup, run_in_batches
from kfdeploy.tasks.spec import fields_of, outputs_of

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "tests" / "records" / "0.1.0"
# Two tasks of one class each have equal heads; with one of two classes they do not.
EQUAL, UNEQUAL = ["sea horse", "élan"], ["sea horse", "pets", "élan"]
ASSEMBLIES = {
    "one task": (["pets"], "auto", None),
    "bank": (EQUAL, "bank", None),
    "branches": (EQUAL, "branches", None),
    "bank, unequal heads": (UNEQUAL, "bank", None),
    "branches, unequal heads": (UNEQUAL, "branches", None),
    "bank, open set": (UNEQUAL, "bank", 0.05),
    "branches, open set": (UNEQUAL, "branches", 0.05),
}
# One output a field, two of three fields split in tasks: of a pool that `tests/helpers/fields.py` makes of another's.
SEVERAL = {"several fields, bank": "bank", "several fields, branches": "branches"}
PRECISIONS = ("fp32", "fp16", "int8")
BATCHES = (0, 1)
OWN = {"openvino": "model.xml"}


@dataclass(frozen=True)
class File:
    """An exported file with what it must give: `expected` by output, and the largest difference allowed in each.

    Differences are over max(1, the largest expected), as kfdeploy's own bounds are.
    """

    files: str  # which of the exported files: none is said of the ordinary ONNX ones
    form: str
    precision: str
    batch: int
    model: Path
    images: np.ndarray
    expected: dict[str, np.ndarray]

    @property
    def name(self):
        return f"{self.files}: {self.form}, {self.precision}, batch {self.batch or 'N'}"

    @property
    def bound(self):
        return TOLERANCE[self.precision]

    def job(self):
        """Return what a worker is told."""
        return {
            "name": self.name,
            "model": str(self.model),
            "images": str(self.model.with_name("images.npy")),
            "dtype": dtype_of(self.model),
            "batch": self.batch,
            "outputs": {name: array.shape[1:] for name, array in self.expected.items()},
        }

    def judge(self, outputs):
        """Return `(difference, equal)`: the largest difference, and the share of answers that are the same."""
        worst, same = 0.0, []
        for name, wanted in self.expected.items():
            got = np.array(outputs[name], np.float64)
            if got.shape != wanted.shape or not np.isfinite(got).all():
                return float("inf"), 0.0
            worst = max(worst, float(np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max())))
            same += [got.argmax(1) == wanted.argmax(1)] if wanted.ndim == 2 else []  # `known` answers nothing
        return worst, float(np.mean(same))


def make(place, record=RECORD, *, target="onnx", precisions=PRECISIONS, batches=BATCHES, **options):
    """Export every form into the folder `place`; return the files.

    fp32 is held to the torch network's logits, fp16 and int8 to their own graph's in the installed ONNX Runtime.
    """
    pool = Pool.open(record / "pool")
    models = {
        form: assemble(pool, tasks, place / "assemblies" / form.replace(", ", "-").replace(" ", "-"), fuse=fuse,
                       open_set=rate, force=True)
        for form, (tasks, fuse, rate) in ASSEMBLIES.items()
    }  # fmt: skip
    models |= several(place, record)
    models |= {"student": Model.open(record / "students" / "small")}
    models |= {"teacher": Model.open(record / "pool" / "train" / "teacher")}
    said = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in options.items())
    label, found = said or OWN.get(target, ""), []
    for (form, model), precision, batch in itertools.product(models.items(), precisions, batches):
        if precision != "int8" or calibrated(model):
            out = place / (f"{label} batch {batch or 'N'}".strip().replace(" ", "-"))
            try:
                made = export(model, target, precision=precision, batch=batch, out=out, force=True, **options)
            except UnsupportedError:
                if options:  # an option that has no meaning for this form
                    continue
                raise
            found.append(file_of(label, form, made, precision, batch))
    return found


def several(place, record):
    """Return assemblies of five tasks over three fields, made without training of a pool's networks."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    from fields import field_pool

    root = place / "fields"
    pool = Pool.open(root) if root.is_dir() else field_pool(root, source=record / "pool")
    names, made = [task.name for task in pool.tasks], place / "assemblies"
    return {
        form: assemble(pool, names, made / f"fields-{fuse}", fuse=fuse, force=True) for form, fuse in SEVERAL.items()
    }


def has(option):
    """Return whether the exporter to ONNX has an option."""
    return option in load("onnx").Options.__dataclass_fields__


def calibrated(model):
    """Return whether a model can be quantised: a teacher is not calibrated when its pool is made."""
    return (model.path / "calibration").is_dir() or model.parts is not None


def file_of(label, form, artifact, precision, batch):
    """Return an exported file with what it must give."""
    images, logits, expected = artifact.golden()
    matrix, outputs = logits if precision == "fp32" else expected, outputs_of(artifact.tasks)
    columns = fields_of(artifact.tasks).values()
    wanted = {name: matrix[:, own] for name, own in zip(outputs, columns, strict=True)}
    if artifact.thresholds:
        names = [known_beside(output) for output in artifact.thresholds]
        with artifact.session(Setup()) as session:
            found = run_in_batches(session, images, batch)
        wanted |= {name: found[name] for name in names}
    path = artifact.path / artifact.manifest["model_files"][0]
    np.save(path.with_name("images.npy"), images)
    return File(label, form, precision, batch, path, images, wanted)


def operators(files):
    """Return the IR version, the opset and the operators of all files, as sorted text."""
    import onnx

    ir, opsets, kinds = set(), set(), set()
    for file in files:
        model = onnx.load(file.model)
        ir.add(model.ir_version)
        opsets |= {each.version for each in model.opset_import if not each.domain}
        kinds |= {node.op_type for node in model.graph.node}
    return {"ir": sorted(ir), "opset": sorted(opsets), "operators": sorted(kinds)}


def dtype_of(path):
    """Return the kind of number that goes into a file."""
    import onnx

    if path.suffix != ".onnx":
        return "uint8"
    kind = onnx.load(path).graph.input[0].type.tensor_type.elem_type
    return str(onnx.helper.tensor_dtype_to_np_dtype(kind))


def write_jobs(files, path, *, pixels=False):
    """Write what a worker is told of these files; with `pixels` the images too, for one that cannot read numpy's."""
    jobs = [file.job() | ({"shape": file.images.shape, "pixels": file.images.ravel().tolist()} if pixels else {})
            for file in files]  # fmt: skip
    path.write_text(json.dumps(jobs), encoding="utf-8")
