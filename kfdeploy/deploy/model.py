"""A deployable network as a folder: an assembly, a full student, or a teacher. One graph, and what it is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfdeploy.arrays import Arrays, Images
from kfdeploy.deploy import identity
from kfdeploy.deploy.artifact import described_as
from kfdeploy.deploy.swap import require_settled
from kfdeploy.errors import PoolError
from kfdeploy.files import METADATA_KEY, dump_json, parse_tensors, save_tensors
from kfdeploy.graph.bounded import check_cost
from kfdeploy.graph.opened import check_whole, read_onnx
from kfdeploy.graph.ranges import model_ranges
from kfdeploy.graph.reference import golden_difference
from kfdeploy.manifest import (
    ASSEMBLY,
    GRAPH,
    MODELS,
    PARTS,
    DataOrigin,
    ModelManifest,
    check_files,
    describe_files,
    open_manifest,
    read_bytes,
    read_file,
    stamp,
)
from kfdeploy.names import inside
from kfdeploy.places import found_recipe, shipped_data
from kfdeploy.pool.held import hold_seen
from kfdeploy.pool.pool import Pool
from kfdeploy.pool.ranges import parse_ranges, replaced, sweep_ranges, write_ranges
from kfdeploy.schema import hold
from kfdeploy.tasks.evidence import Evidence, Seen, labels_key
from kfdeploy.tasks.kinds.classes import label_columns
from kfdeploy.tasks.openset import thresholds_of
from kfdeploy.tasks.spec import Described, ImageSpec, TaskSpec, class_names, fields_of, outputs_of, widths_of
from kfdeploy.tasks.worth import Accuracy, accuracies, subset_accuracy, unknown_classes
from kfdeploy.version import __version__
from kfdeploy.writing import write_file

if TYPE_CHECKING:
    from onnx import ModelProto

    from kfdeploy.graph.compose import Form


_EVIDENCE = "evidence/evidence.safetensors"
_AGAIN = "copy the folder again, or make it again"


@dataclass(frozen=True)
class Model(Described):
    """A folder `model.onnx, assembly.json` and `parts/` (an assembly) or `evidence/`, opened by `Model.open`."""

    path: Path
    manifest: ModelManifest

    @classmethod
    def open(cls, path: str | Path) -> "Model":
        """Open an assembly, a student or a teacher as it is at this moment; nothing is written.

        Raises:
            PoolError: there is none, its schema is unknown, or it names a file outside itself; or an update of it was
                interrupted, and what lies there is neither the old model nor the new one.
        """
        root = Path(path)
        require_settled(root)
        place, hint = inside(root, ASSEMBLY), "kfdeploy assemble --tasks … or kfdeploy distill"
        manifest = open_manifest(read_bytes(place, MODELS[0], hint), str(place), MODELS, ("name",), hint)
        model = cls(root, manifest)
        model.require_image(place, "make it again")
        model.require_fields(place, "make it again")
        return model

    @property
    def kind(self) -> str:
        """`assembly`, `student` or `teacher`."""
        return self.manifest["kind"]

    @property
    def name(self) -> str:
        """The name that artifacts and tables carry."""
        return self.manifest["name"]

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.path / GRAPH

    @cached_property
    def parts(self) -> Pool | None:
        """The part of the pool that an assembly was made from; a student and a teacher have none.

        Raises:
            PoolError: it is not there.
        """
        return Pool.open(inside(self.path, PARTS)) if self.kind == "assembly" else None

    @property
    def form(self) -> "Form | None":
        """How an assembly's task networks stand in its graph."""
        found: Form | None = self.manifest.get("fuse")  # type: ignore[assignment]
        return found

    @property
    def thresholds(self) -> dict[str, float]:
        """Where an assembly with an open set begins to accept, by output."""
        return thresholds_of(self.open_set, self.tasks)

    @property
    def open_set(self) -> dict[str, Any] | None:
        """What is known of its threshold against strangers, where it has one; of several fields, of each by name."""
        return self.manifest.get("open_set")

    @property
    def source(self) -> dict[str, Any] | None:
        """Of an assembly the name and hash of its pool."""
        return self.manifest.get("provenance", {}).get("pool")

    @property
    def data(self) -> DataOrigin:
        """Where its images came from."""
        return self.manifest["data"]

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of a student or a teacher, as plain fields, with the places that this machine remembers."""
        return found_recipe(self.manifest["recipe"], str(self.manifest.get("images", {}).get("sha256", "")))

    @property
    def training(self) -> dict[str, Any] | None:
        """The circumstances it was trained in: of an assembly, its whole pool."""
        return self.manifest.get("training") if self.parts is None else self.parts.training

    @property
    def parameters(self) -> int:
        """The number of trained numbers in its graph."""
        return self.manifest["parameters"]

    @property
    def accuracy(self) -> dict[str, Any]:
        """`{"validation": share or None, "images": n}`, exactly."""
        return self.manifest["accuracy"]

    @property
    def golden(self) -> dict[str, Any]:
        """`{"difference", "tolerance", "samples"}` of the proof when it was written."""
        return self.manifest["golden"]

    def check(self) -> None:
        """Check every file, what the manifest says against what the model says of itself, and that it can be run.

        Raises:
            PoolError: a file is missing, truncated or altered, the manifest does not describe the model, or its graph
                is more than plain computation.
        """
        needed = (GRAPH,) if self.kind == "assembly" else (GRAPH, _EVIDENCE)
        check_files(self.path, self.files, dict.fromkeys((*self.files, *needed)))
        check_cost(self.load(), str(self.graph))
        if self.parts is not None:
            self.parts.check()
        self._require_identity()

    def _require_identity(self) -> None:
        """Refuse a manifest that says something else than its graph, or than the parts that it was made from."""
        place, graph = self.path / ASSEMBLY, identity.load_graph(self.graph)
        own = identity.told_by_onnx(graph, self.graph)
        said = described_as(self, self.open_set) | {"pool": self.source}
        identity.require_same(said, own, place, GRAPH)
        identity.require_shape(graph, self.graph, self.image.shape, widths_of(self.tasks), self.thresholds)
        if self.parts is None:
            return
        bank = any(name.startswith("bank/") for node in graph.graph.node for name in node.output)
        if self.form not in ("bank", "branches") or (self.form == "bank") != bank:
            form = "a bank" if bank else "branches"
            raise PoolError(f"'{place}' says that its graph is {self.form!r:.20}, and it is {form}", hint=_AGAIN)
        parts = {"image": self.parts.image.to_json(), "tasks": [task.to_json() for task in self.parts.tasks]}
        identity.require_same({key: said[key] for key in parts}, parts, place, PARTS)

    def load(self) -> "ModelProto":
        """Return its graph, held to its hash and to what is plain computation.

        Raises:
            PoolError: it is missing or altered, or is none that is read.
        """
        return read_onnx(read_file(self.path, self.files, GRAPH), str(self.graph), inputs=1)

    def evidence(self) -> Evidence:
        """Return its golden samples and, but for an assembly, whose pool has them, its validation logits.

        Raises:
            PoolError: a file is missing or altered.
        """
        if self.parts is not None:
            return self.parts.evidence(self.tasks)
        arrays, kinds = self._evidence(), "float32"
        columns = len(self.classes)
        hold(
            arrays,
            {"golden.images": ("uint8", ("G", *self.image.shape)), "golden.logits": (kinds, ("G", columns)),
             "validation.logits": (kinds, ("V", columns)), "validation.rows": ("int64", ("V",))},
            str(self.path / _EVIDENCE), "make it again",
        )  # fmt: skip
        seen = Seen.of(arrays, self.labels)
        golden, logits = arrays["golden.logits"], arrays["validation.logits"]
        return Evidence(arrays["golden.images"], golden, seen.labels, seen.rows, logits, seen.content)

    def _evidence(self) -> Arrays:
        origin = f"{self.path / _EVIDENCE}"
        arrays = parse_tensors(read_file(self.path, self.files, _EVIDENCE), origin)
        labels = {field: len(columns) for field, columns in self.labels.items()}
        hold_seen(arrays, labels, origin, unknown=self.manifest["schema"] != 1)
        hold(arrays, {"golden.images": ("uint8", ("G", *self.image.shape))}, origin, "make it again")
        return arrays

    def seen(self) -> Seen:
        """Return which its validation images are.

        Raises:
            PoolError: a file is missing or altered.
        """
        if self.parts is not None:
            return self.parts.seen()
        return Seen.of(self._evidence(), self.labels)

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Of each field the columns that the labels of its evidence count in."""
        return {field: tuple(self.classes[i] for i in columns) for field, columns in fields_of(self.tasks).items()}

    def ranges(self) -> "dict[str, tuple[float, float]]":
        """Return the activation ranges of a student's or a teacher's graph, by tensor; an assembly's are its parts'.

        Raises:
            PoolError: it was never calibrated, or the file is missing or altered.
        """
        name = self.manifest.get("calibration")
        if name is None:
            raise PoolError(
                f"'{self.path}' has no ranges of activations, which int8 needs",
                hint=f"kfdeploy calibrate {self.path}",
            )
        return parse_ranges(read_file(self.path, self.files, name), f"{self.path / name}")

    def calibrate(self, images: Images) -> "Model":
        """Observe a student's or a teacher's activations and keep their ranges in its folder; return it opened anew."""
        name = write_ranges(self.path, "model", model_ranges(self.load(), images), len(images))
        before = [self.manifest["calibration"]] if "calibration" in self.manifest else []
        files = replaced(self.path, self.files, before, [name])
        data = shipped_data(self.data, self.data.get("images") or self.files[GRAPH]["sha256"])
        after = self.manifest | {"calibration": name, "files": files, "data": data}
        write_file(inside(self.path, ASSEMBLY), dump_json(after))
        sweep_ranges(self.path, before, [name])
        return Model.open(self.path)


def annotate(model: "ModelProto", about: dict[str, Any]) -> None:
    """Put what a model is into its ONNX metadata, in place: one key with sorted JSON, and the class names for others.

    `about` holds the kind, name, tasks, ImageSpec and provenance; see `identity.names_told`.
    """
    del model.metadata_props[:]
    for key, value in (*identity.names_told(about["tasks"]).items(), (METADATA_KEY, about)):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value, sort_keys=True, ensure_ascii=False)


def serialize(model: "ModelProto", manifest: Mapping[str, Any]) -> bytes:
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

    The graph has the outputs of its tasks, one a field. Returns the exact validation accuracy.

    Raises:
        ParityError: the graph's logits differ from the torch model's by more than the tolerance.
    """
    from kfdeploy.graph.compose import parameter_count

    entries = [task.to_json() for task in tasks]
    about = stamp(kind, entries) | {
        "version": __version__,
        "name": name,
        "image": image.to_json(),
        "tasks": entries,
    }
    data = serialize(model, about | fields)
    check_whole(model, f"the graph of '{name}'")
    parameters = parameter_count(model)
    graph = out / GRAPH
    out.mkdir(parents=True, exist_ok=True)
    graph.write_bytes(data)
    if kind != "assembly":
        save_tensors(out / _EVIDENCE, _arrays_of(evidence, tasks), stamp("evidence"))
    difference, allowed = golden_difference(graph, evidence.images, evidence.golden, outputs_of(tasks))
    accuracy, told = _worth(evidence, tasks, kind)
    files = [path for path in (graph, out / _EVIDENCE) if path.is_file()]
    manifest = {
        **about,
        "parameters": parameters,
        "golden": {"difference": difference, "tolerance": allowed, "samples": len(evidence.images)},
        "accuracy": told,
        "files": describe_files(out, files),
        **fields,
        "data": shipped_data(fields["data"]),
    }
    (out / ASSEMBLY).write_text(dump_json(manifest), encoding="utf-8")
    return accuracy


def _arrays_of(evidence: Evidence, tasks: Sequence[TaskSpec]) -> Arrays:
    """Return a student's or a teacher's evidence as its file has it."""
    arrays: Arrays = {
        "golden.images": evidence.images,
        "golden.logits": evidence.golden,
        "validation.rows": evidence.rows,
        "validation.logits": evidence.logits,
    }
    for field, columns in fields_of(tasks).items():
        own = [class_names(tasks)[i] for i in columns]
        arrays[labels_key(field)] = label_columns(evidence.labels[field], own)
    if evidence.content is not None:
        arrays["validation.content"] = evidence.content
    return arrays


def _worth(evidence: Evidence, tasks: Sequence[TaskSpec], kind: str) -> tuple[Accuracy, dict[str, Any]]:
    """Return what a model is worth on its validation images, and what its manifest says of it."""
    found, each = subset_accuracy(evidence, tasks), accuracies(evidence, tasks)
    if kind == "assembly" and unknown_classes(evidence, tasks):
        found, each = Accuracy(float("nan"), 0), {}  # of some of its classes alone it would be another subset's

    def told(one: Accuracy) -> dict[str, Any]:
        return {"validation": one.value if one.images else None, "images": one.images}

    several = {"fields": {field: told(one) for field, one in each.items()}} if len(each) > 1 else {}
    return found, told(found) | several
