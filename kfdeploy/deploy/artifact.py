"""Artifacts: a model exported to a target, with a manifest that says what it is. `kfdeploy.export` makes them."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy import targets
from kfdeploy.errors import MissingDependencyError, PoolError, first_line
from kfdeploy.graph.opened import check_cost, read_onnx
from kfdeploy.manifest import (
    ARTIFACT,
    GOLDEN,
    ArtifactManifest,
    DataOrigin,
    check_files,
    open_manifest,
    read_bytes,
    read_file,
)
from kfdeploy.reading import read_arrays
from kfdeploy.schema import hold
from kfdeploy.targets.base import Session, Setup
from kfdeploy.tasks.openset import threshold_of
from kfdeploy.tasks.spec import Described

_NEEDS = ("model.kind", "model.name", "target", "precision", "options.batch", "verify.engine_tolerance", "model_files")


_SAMPLES = 256  # golden ones, at most
_AGAIN = "copy the folder again, or export it again"


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
        place, hint = root / ARTIFACT, "kfdeploy export"
        manifest = open_manifest(read_bytes(place, "artifact", hint), str(place), ("artifact",), _NEEDS, hint)
        artifact = cls(root, manifest)
        artifact.require_image(place, hint)
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
    def executed(self) -> dict[str, Any]:
        """What the runtime said it executes: `{"device", "convolutions": {precision: n}, "nodes": {type: n}}`."""
        return self.manifest["executed"]

    @property
    def form(self) -> str | None:
        """How an assembly's task networks stand in it."""
        found = self.manifest["fuse"]
        return None if found is None else str(found["form"])

    @property
    def threshold(self) -> float | None:
        """Where an assembly with an open set begins to accept."""
        return threshold_of(self.manifest.get("open_set"))

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
        """What was observed when it was exported, and `engine_tolerance`, which the engine is held to."""
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
        """Check every file against its hash, and that a graph of ONNX is one that can be run.

        Raises:
            PoolError: a file is missing, truncated or altered; or the graph is more than plain computation.
        """
        check_files(self.path, self.files, self.files)
        if self.target == "onnx":
            name = self.manifest["model_files"][0]
            graph = read_onnx(read_file(self.path, self.files, name), str(self.path / name), inputs=1)
            check_cost(graph, str(self.path / name))

    def golden(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return golden images (G, H, W, C), and the logits (G, C) of the torch network and of its own ONNX graph.

        The last are what the engine is held to: they have the precision's own rounding in them.

        Raises:
            PoolError: the file cannot be read, or its arrays are not of this model's images and classes.
        """
        pixels, columns = math.prod(self.image.shape), len(self.classes)
        names = ("image", "logits", "expected")
        most = _SAMPLES * (pixels + 8 * columns) + 10_000
        arrays = read_arrays(self.path / GOLDEN, names, most, _AGAIN)
        wanted = {"image": ("uint8", ("G", *self.image.shape)), "logits": ("float32", ("G", columns)),
                  "expected": ("float32", ("G", columns))}  # fmt: skip
        hold(arrays, wanted, str(self.path / GOLDEN), _AGAIN)
        return arrays["image"], arrays["logits"], arrays["expected"]

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
