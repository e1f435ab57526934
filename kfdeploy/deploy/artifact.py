"""Artifacts: a model exported to a target, with a manifest that says what it is. `kfdeploy.export` makes them."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy import targets
from kfdeploy.arrays import Arrays
from kfdeploy.deploy import identity
from kfdeploy.errors import MissingDependencyError, PoolError, first_line
from kfdeploy.graph.bounded import check_cost
from kfdeploy.graph.known import known_beside
from kfdeploy.graph.opened import read_onnx
from kfdeploy.manifest import (
    ARTIFACT,
    GOLDEN,
    GRAPH,
    ArtifactManifest,
    DataOrigin,
    check_files,
    open_manifest,
    read_bytes,
    read_file,
)
from kfdeploy.names import inside
from kfdeploy.reading import read_arrays
from kfdeploy.schema import hold
from kfdeploy.targets import mnn
from kfdeploy.targets.base import PRECISIONS, Session, Setup
from kfdeploy.tasks.openset import thresholds_of
from kfdeploy.tasks.spec import Described, widths_of

_NEEDS = ("model.kind", "model.name", "target", "precision", "options.batch", "verify.engine_tolerance", "model_files")
_AGAIN = "copy the folder again, or make it again"
_SAMPLES = 256  # golden ones, at most


@dataclass(frozen=True)
class Artifact(Described):
    """A folder with model files, `manifest.json` and golden samples, opened by `Artifact.open`."""

    path: Path
    manifest: ArtifactManifest

    @classmethod
    def open(cls, path: str | Path) -> "Artifact":
        """Open an artifact.

        Raises:
            PoolError: there is none, it is of another version, or it names a file outside itself.
        """
        root = Path(path)
        place, hint = inside(root, ARTIFACT), "kfdeploy export"
        manifest = open_manifest(read_bytes(place, "artifact", hint), str(place), ("artifact",), _NEEDS, hint)
        artifact = cls(root, manifest)
        artifact.require_image(place, hint)
        artifact.require_fields(place, hint)
        return artifact

    @property
    def kind(self) -> str:
        """`assembly`, `student` or `teacher`."""
        return str(self.manifest["model"]["kind"])

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.manifest["model"]["name"])

    @property
    def target(self) -> str:
        """The target's name."""
        return self.manifest["target"]

    @property
    def precision(self) -> str:
        """The precision it computes with."""
        return self.manifest["precision"]

    @property
    def batch(self) -> int:
        """The fixed batch, or 0 where it is dynamic."""
        return int(self.manifest["options"]["batch"])

    @property
    def data(self) -> DataOrigin:
        """Where its images came from."""
        return self.manifest["data"]

    @property
    def input(self) -> str:
        """What it takes an image's bytes as: `uint8`, or `float32`."""
        return str(self.manifest["options"].get("input", "uint8"))

    @property
    def executed(self) -> dict[str, Any]:
        """What the runtime said it executes: `{"device", "convolutions": {precision: n}, "nodes": {type: n}}`."""
        return self.manifest["executed"]

    @property
    def form(self) -> str | None:
        """How an assembly's task networks stand in it."""
        found = self.manifest["fuse"]
        return None if found is None else str(found["form"])

    @property
    def thresholds(self) -> dict[str, float]:
        """Where an assembly with an open set begins to accept, by output."""
        return thresholds_of(self.manifest.get("open_set"), self.tasks)

    @property
    def parameters(self) -> int:
        """The number of trained numbers in the model's graph."""
        return self.manifest["parameters"]

    @property
    def training(self) -> dict[str, Any] | None:
        """How long the model was trained."""
        return self.manifest.get("training")

    @property
    def proof(self) -> dict[str, Any]:
        """What was observed when it was exported; nothing is held to it, as its own golden samples give the bounds."""
        return self.manifest["verify"]

    @property
    def bytes(self) -> int:
        """The size of the model's own files."""
        return sum(self.files[name]["bytes"] for name in self.manifest["model_files"])

    @property
    def sha256(self) -> str:
        """The hash of the model's own file; of several, the hash of their hashes."""
        each = [str(self.files[name]["sha256"]) for name in self.manifest["model_files"]]
        return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()

    def check(self) -> None:
        """Check every file, what the manifest says against what the model says of itself, and that it can be run.

        Raises:
            PoolError: a file is missing, truncated or altered, the manifest does not describe the model, or its graph
                is more than plain computation.
        """
        place, wanted = self.path / ARTIFACT, targets.FILES.get(self.target, ())
        if wanted and sorted(self.manifest["model_files"]) != sorted(wanted):
            named = self.manifest["model_files"]
            raise PoolError(f"'{place}' names the model files {named!r:.80}", allowed=wanted, hint=_AGAIN)
        names = [*self.files, *(name for name in (*self.manifest["model_files"], GOLDEN) if name not in self.files)]
        check_files(self.path, self.files, names)
        if self.target == "onnx":
            name = self.manifest["model_files"][0]
            graph = read_onnx(read_file(self.path, self.files, name), str(self.path / name), inputs=1)
            check_cost(graph, str(self.path / name))
        options, batch = self.manifest["options"], self.manifest["options"]["batch"]
        if self.precision not in PRECISIONS or options.get("precision") != self.precision:
            asked = options.get("precision")
            raise PoolError(
                f"'{place}' has the precision {self.precision!r:.20}, and as an option {asked!r:.20}",
                allowed=PRECISIONS,
                hint=_AGAIN,
            )
        if type(batch) is not int or batch < 0:
            raise PoolError(f"'{place}' has the batch {batch!r:.20}", allowed=("0 (dynamic)", "1", "2", "…"))
        said = {key: self.manifest.get(key) for key in ("inputs", "outputs")}
        identity.require_same(said, faces(self, batch, self.input), place, "image and tasks")
        self._require_identity(place)
        if self.target == mnn.NAME and not mnn.missing():
            mnn.try_first(self.path, self.options, self.image.shape)

    def _require_identity(self, place: Path) -> None:
        """Refuse a manifest that says something else than the model's own file, or its golden samples, say."""
        said = described_as(self, self.manifest.get("open_set"))
        own = self._golden_says()
        if own is not None:
            identity.require_same(said | {"precision": self.precision}, own, place, GOLDEN)
        name = self.manifest["model_files"][0] if self.manifest["model_files"] else GRAPH
        path = self.path / name
        if path.suffix == ".onnx":
            graph = identity.load_graph(path)
            identity.require_same(said, identity.told_by_onnx(graph, path), place, name)
            identity.require_shape(graph, path, self.image.shape, widths_of(self.tasks), self.thresholds, self.input)
            if (seen := identity.precision_of(graph)) != self.precision:
                raise PoolError(f"'{path}' computes in {seen}, and its manifest says {self.precision}", hint=_AGAIN)
        elif path.suffix == ".xml":
            identity.require_same(said, identity.told_by_openvino(path), place, name)

    def _golden_says(self) -> dict[str, Any] | None:
        """Return what is on record of the model beside its golden samples; nothing in what 0.1.0 wrote."""
        path = self.path / GOLDEN
        arrays = self._arrays()
        text = arrays[ABOUT].tobytes().decode("utf-8", "replace") if ABOUT in arrays else None
        return None if text is None else identity.parsed(text, path)

    def golden(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return golden images (G, H, W, C), and the logits (G, C) of the torch network and of its own ONNX graph.

        The last are what the engine is held to: they have the precision's own rounding in them.

        Raises:
            PoolError: the file cannot be read, or its arrays are not of this model's images and classes.
        """
        columns, arrays = len(self.classes), self._arrays()
        wanted = {"image": ("uint8", ("G", *self.image.shape)), "logits": ("float32", ("G", columns)),
                  "expected": ("float32", ("G", columns))}  # fmt: skip
        hold(arrays, wanted, str(self.path / GOLDEN), _AGAIN)
        return arrays["image"], arrays["logits"], arrays["expected"]

    def _arrays(self) -> Arrays:
        """Return what is in `golden.npz`, bounded by what a model of these images and classes can have."""
        pixels, columns = math.prod(self.image.shape), len(self.classes)
        most = _SAMPLES * (pixels + 8 * columns) + 100_000 + 600 * columns
        names = ("image", "logits", "expected")
        return read_arrays(inside(self.path, GOLDEN), names, most, _AGAIN, optional=(ABOUT,))

    @property
    def options(self) -> Any:
        """The target's options that it was exported with.

        Raises:
            PoolError: the target has no such options.
        """
        kind = targets.load(self.target, self.precision).Options
        try:
            return kind(**self.manifest["options"])
        except TypeError as error:
            raise PoolError(
                f"'{self.path / ARTIFACT}' has options that '{self.target}' does not have: {first_line(error)}",
                hint=_AGAIN,
            ) from None

    def cannot_run(self) -> str:
        """Return why it cannot be run on this machine, else an empty string."""
        try:
            return targets.load(self.target, self.precision).can_run()
        except MissingDependencyError as error:
            return f"{error}:  {error.hint}"

    def session(self, setup: Setup) -> Session:
        """Open a session on the artifact's target.

        Raises:
            MissingDependencyError: its runtime is not installed.
        """
        return targets.load(self.target, self.precision).open(self.path, self.options, setup)


ABOUT = "about"  # among the golden samples: what the model is, as JSON


def described_as(model: Any, open_set: Any) -> dict[str, Any]:
    """Return what a manifest says of a model (an artifact or what it was made from) that its own file says too."""
    return {
        "kind": model.kind,
        "name": model.name,
        "image": model.image.to_json(),
        "tasks": model.manifest["tasks"],  # as they stand there, whatever is read of them
        "open_set": open_set,
    }


def faces(model: Any, batch: int, takes: str = "uint8") -> dict[str, Any]:
    """Return what goes into a model and what comes out, by name: the kind of number, and the shape.

    An output is of a field, which its tasks name.
    """
    count = batch or "N"
    outputs = {name: ["float32", count, width] for name, width in widths_of(model.tasks).items()}
    return {
        "inputs": {"image": [takes, count, *model.image.shape]},
        "outputs": outputs | {known_beside(name): ["float32", count] for name in model.thresholds},
    }
