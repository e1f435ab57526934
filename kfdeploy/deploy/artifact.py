"""Artifacts: a model exported to a target, with a manifest that says what it is. `kfdeploy.export` makes them."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy import targets
from kfdeploy.errors import MissingDependencyError, PoolError
from kfdeploy.manifest import ARTIFACT, GOLDEN, DataOrigin, check_files, inside, read_manifest
from kfdeploy.targets.base import Session, Setup
from kfdeploy.tasks.spec import ImageSpec, TaskSpec, class_names


@dataclass(frozen=True)
class Artifact:
    """A folder with model files, `manifest.json` and golden samples, opened by `Artifact.open`."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> "Artifact":
        """Open an artifact.

        Raises:
            PoolError: there is none, it is of another version, or it names a file outside itself.
        """
        root = Path(path)
        artifact = cls(root, read_manifest(root / ARTIFACT, "artifact", "kfdeploy export"))
        try:
            _ = artifact.image, artifact.tasks, artifact.name, artifact.target, artifact.batch, artifact.kind
            _ = artifact.manifest["verify"]["engine_tolerance"]
            for name in artifact.manifest["files"]:
                inside(root, name)
        except (KeyError, TypeError, AttributeError) as error:
            raise PoolError(f"'{root / ARTIFACT}' is incomplete: {error}", hint="kfdeploy export") from None
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
        return str(self.manifest["target"])

    @property
    def precision(self) -> str:
        """The precision it computes with."""
        return str(self.manifest["precision"])

    @property
    def batch(self) -> int:
        """The fixed batch, or 0 where it is dynamic."""
        return int(self.manifest["options"]["batch"])

    @property
    def data(self) -> DataOrigin:
        """Where its images came from."""
        about: DataOrigin = self.manifest["data"]
        return about

    @property
    def executed(self) -> dict[str, Any]:
        """What the runtime said it executes: `{"device", "convolutions": {precision: n}, "nodes": {type: n}}`."""
        found: dict[str, Any] = self.manifest["executed"]
        return found

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

    @property
    def bytes(self) -> int:
        """The size of the model's own files."""
        return sum(self.manifest["files"][name]["bytes"] for name in self.manifest["model_files"])

    @property
    def sha256(self) -> str:
        """The hash of the model's own file; of several, the hash of their hashes."""
        each = [str(self.manifest["files"][name]["sha256"]) for name in self.manifest["model_files"]]
        return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()

    def check(self) -> None:
        """Check every file against its hash.

        Raises:
            PoolError: a file is missing, truncated or altered.
        """
        check_files(self.path, self.manifest["files"], list(self.manifest["files"]))

    def golden(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return golden images (G, H, W, C), and the logits (G, C) of the torch network and of its own ONNX graph.

        The last are what the engine is held to: they have the precision's own rounding in them.
        """
        with np.load(self.path / GOLDEN) as arrays:
            return arrays["image"], arrays["logits"], arrays["expected"]

    @property
    def options(self) -> Any:
        """The target's options that it was exported with."""
        return targets.load(self.target, self.precision).Options(**self.manifest["options"])

    def cannot_run(self) -> str:
        """Return why it cannot be run on this machine, else an empty string."""
        try:
            return targets.load(self.target, self.precision).can_run()
        except MissingDependencyError as error:
            return f"{error}:  {error.hint}"

    def session(self, device: Setup) -> Session:
        """Open a session on the artifact's target.

        Raises:
            MissingDependencyError: its runtime is not installed.
        """
        return targets.load(self.target, self.precision).open(self.path, self.options, device)
