"""A deployable network as a folder: an assembly, a full student, or a teacher. One graph, and what it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kfdeploy.errors import PoolError
from kfdeploy.files import dump_json, load_tensors, save_tensors
from kfdeploy.graph.reference import golden_difference
from kfdeploy.manifest import ASSEMBLY, GRAPH, SCHEMA, DataOrigin, check_files, describe_files, inside, read_manifest
from kfdeploy.pool.pool import Pool
from kfdeploy.tasks.evidence import Evidence
from kfdeploy.tasks.kinds.classes import Accuracy, known_accuracy, subset_accuracy
from kfdeploy.tasks.spec import ImageSpec, TaskSpec, class_names

if TYPE_CHECKING:
    from onnx import ModelProto


KINDS = ("assembly", "student", "teacher")
_EVIDENCE = "evidence/evidence.safetensors"


@dataclass(frozen=True)
class Model:
    """A folder `model.onnx, assembly.json` and `parts/` (an assembly) or `evidence/`, opened by `Model.open`."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Model":
        """Open an assembly, a student or a teacher; an update of it that was interrupted is finished or dropped first.

        Raises:
            PoolError: there is none, its schema is unknown, or it names a file outside itself.
            OutputError: an update was interrupted, and this process may not write there.
        """
        from kfdeploy.deploy.swap import settle

        root = Path(path)
        settle(root)
        model = cls(root, read_manifest(root / ASSEMBLY, KINDS, "kfdeploy assemble --tasks … or kfdeploy distill"))
        try:
            _ = model.image, model.tasks, model.manifest["name"]
            for name in model.manifest["files"]:
                inside(root, name)
        except (KeyError, TypeError, AttributeError) as error:
            raise PoolError(f"'{root / ASSEMBLY}' is incomplete: {error}", hint="make it again") from None
        return model

    @property
    def kind(self) -> str:
        """`assembly`, `student` or `teacher`."""
        return str(self.manifest["kind"])

    @property
    def name(self) -> str:
        """The name that artifacts and tables carry."""
        return str(self.manifest["name"])

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.path / GRAPH

    @property
    def data(self) -> DataOrigin:
        """Where its images came from."""
        about: DataOrigin = self.manifest["data"]
        return about

    @cached_property
    def image(self) -> ImageSpec:
        """How an image becomes the input."""
        return ImageSpec.from_json(self.manifest["image"])

    @cached_property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks, in the order of the outputs."""
        return tuple(TaskSpec.from_json(entry) for entry in self.manifest["tasks"])

    @property
    def classes(self) -> tuple[str, ...]:
        """The columns of the logits."""
        return class_names(self.tasks)

    def check(self) -> None:
        """Check every file against its hash.

        Raises:
            PoolError: a file is missing, truncated or altered.
        """
        check_files(self.path, self.manifest["files"], list(self.manifest["files"]))
        if self.kind == "assembly":
            Pool.open(self.path / "parts").check()

    def evidence(self) -> Evidence:
        """Return its golden samples and, but for an assembly, whose pool has them, its validation logits.

        Raises:
            PoolError: a file is missing or altered.
        """
        if self.kind == "assembly":
            return Pool.open(self.path / "parts").evidence(self.tasks)
        check_files(self.path, self.manifest["files"], [_EVIDENCE])
        arrays = load_tensors(self.path / _EVIDENCE)
        return Evidence(
            arrays["golden.images"],
            arrays["golden.logits"],
            tuple(self.classes[i] for i in arrays["validation.labels"]),
            arrays["validation.rows"],
            arrays["validation.logits"],
        )

    def validation(self) -> "tuple[tuple[str, ...], np.ndarray[Any, np.dtype[np.int64]]]":
        """Return the class names of its validation images, and their rows in the train split.

        Raises:
            PoolError: a file is missing or altered.
        """
        if self.kind == "assembly":
            return Pool.open(self.path / "parts").validation()
        evidence = self.evidence()
        return evidence.labels, evidence.rows

    def ranges(self) -> "dict[str, tuple[float, float]]":
        """Return the activation ranges of a student's or a teacher's graph, by tensor; an assembly's are its parts'.

        Raises:
            PoolError: it was never calibrated, or the file is missing or altered.
        """
        from kfdeploy.pool.ranges import read_ranges

        name = self.manifest.get("calibration")
        if name is None:
            raise PoolError(
                f"'{self.path}' has no ranges of activations, which int8 needs",
                hint=f"kfdeploy calibrate {self.path}",
            )
        check_files(self.path, self.manifest["files"], [name])
        return read_ranges(inside(self.path, name))


def annotate(model: "ModelProto", about: dict[str, Any]) -> None:
    """Put what a model is into its ONNX metadata, in place: one key with sorted JSON, and the class names for others.

    `about` holds the kind, name, tasks, ImageSpec and provenance.
    """
    import json

    from kfdeploy.files import METADATA_KEY

    del model.metadata_props[:]
    classes = [name for task in about["tasks"] for name in task["classes"]]
    for key, value in (("classes", classes), (METADATA_KEY, about)):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, sort_keys=True, ensure_ascii=False)


def serialize(model: "ModelProto", manifest: dict[str, Any]) -> bytes:
    """Return the bytes of `model.onnx`, annotated in place with what `assembly.json` says of it.

    They follow from the graph and the manifest alone, so that a device that has both makes the same file.
    """
    keys = ("schema", "version", "kind", "name", "image", "tasks")
    annotate(model, {key: manifest[key] for key in keys} | manifest.get("provenance", {}))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def write_model(
    out: Path,
    model: "ModelProto",
    kind: str,
    name: str,
    image: ImageSpec,
    tasks: Sequence[TaskSpec],
    evidence: Evidence,
    fields: dict[str, Any],
) -> Accuracy:
    """Write `model.onnx` and `assembly.json` to the folder `out`, proved right on the golden samples first.

    Returns the exact validation accuracy.

    Raises:
        ParityError: the graph's logits differ from the torch model's by more than the tolerance.
    """
    import onnx

    from kfdeploy.graph.compose import parameter_count
    from kfdeploy.version import __version__

    about = {
        "schema": SCHEMA,
        "version": __version__,
        "kind": kind,
        "name": name,
        "image": image.to_json(),
        "tasks": [task.to_json() for task in tasks],
    }
    data = serialize(model, about | fields)
    onnx.checker.check_model(model, full_check=True)
    parameters = parameter_count(model)
    graph = out / GRAPH
    out.mkdir(parents=True, exist_ok=True)
    graph.write_bytes(data)
    if kind != "assembly":
        labels = {label: i for i, label in enumerate(class_names(tuple(tasks)))}
        arrays: dict[str, np.ndarray[Any, Any]] = {
            "golden.images": evidence.images,
            "golden.logits": evidence.golden,
            "validation.labels": np.array([labels[label] for label in evidence.labels], dtype=np.int64),
            "validation.rows": evidence.rows,
            "validation.logits": evidence.logits,
        }
        save_tensors(out / _EVIDENCE, arrays, {"schema": SCHEMA, "kind": "evidence"})
    difference, allowed = golden_difference(graph, evidence.images, evidence.golden)
    accuracy = subset_accuracy(evidence, class_names(tuple(tasks)))
    if kind == "assembly":  # of some of its classes alone it would be another subset's
        accuracy = known_accuracy(evidence, tasks) or Accuracy(float("nan"), 0)
    files = [path for path in (graph, out / _EVIDENCE) if path.is_file()]
    manifest = {
        **about,
        "parameters": parameters,
        "golden": {"difference": difference, "tolerance": allowed, "samples": len(evidence.images)},
        "accuracy": {"validation": accuracy.value if accuracy.images else None, "images": accuracy.images},
        "files": describe_files(out, files),
        **fields,
    }
    (out / ASSEMBLY).write_text(dump_json(manifest), encoding="utf-8")
    return accuracy
