"""The pool: one teacher's knowledge as files. Read without torch, and only what is asked for."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from kfdeploy.arrays import Arrays
from kfdeploy.errors import ComposeError, PoolError, UnsupportedError
from kfdeploy.files import parse_tensors, save_tensors
from kfdeploy.manifest import POOL, BlockEntry, DataOrigin, PoolManifest, TaskEntry, describe_files, open_manifest
from kfdeploy.places import found_recipe, origin_of
from kfdeploy.pool import manifest
from kfdeploy.pool.fields import TEMPLATE, block_columns, label_columns, upgraded
from kfdeploy.pool.held import as_opened, check_kinds, hold_evidence, hold_together
from kfdeploy.pool.manifest import COMMON, SHARED, Role
from kfdeploy.pool.remote.locate import locate
from kfdeploy.pool.remote.place import AGAIN, Folder, Place
from kfdeploy.tasks.evidence import Block, Evidence, Seen, gathered
from kfdeploy.tasks.spec import Described, TaskSpec, choose_names, outputs_of, widths_of

if TYPE_CHECKING:
    from onnx import ModelProto

    from kfdeploy.graph.compose import Form, Part

Fuse = Literal["auto", "bank", "branches"]
FORMS: tuple[Fuse, ...] = ("auto", "bank", "branches")
_NEEDS = ("name", "recipe", "coupling", "temperatures", "teacher", "training")


@dataclass(frozen=True)
class Pool(Described):
    """A folder `pool.json, common.onnx, task.onnx, tasks/, evidence/`, here or on a server, opened by `Pool.open`."""

    place: Place
    manifest: PoolManifest

    @classmethod
    def open(cls, path: str | Path) -> "Pool":
        """Open a pool in a folder or at a URL of fsspec; its files are checked, and fetched, when they are read.

        Raises:
            PoolError: there is none, its schema is unknown, or it names a file outside itself.
            StoreError: its server cannot be reached, or refuses.
        """
        root = locate(path)
        if isinstance(root, Path):
            return cls.at(Folder(root))
        from kfdeploy.pool.remote.cache import Mirror

        return cls.at(Mirror(root), "push the pool again")

    @classmethod
    def at(cls, place: Place, hint: str = AGAIN) -> "Pool":
        """Open the pool at a place; it raises as `open` does."""
        manifest: PoolManifest = open_manifest(place.manifest(), f"{place}/{POOL}", ("pool",), _NEEDS, hint)
        check_kinds(manifest, f"{place}/{POOL}")
        pool = cls(place, manifest)
        pool.require_image(f"{place}/{POOL}", hint)
        pool.require_fields(f"{place}/{POOL}", hint)
        return pool

    @property
    def where(self) -> str:
        """Where it is, for messages: its folder or its URL."""
        return str(self.place)

    @property
    def path(self) -> Path:
        """The folder it is in.

        Raises:
            UnsupportedError: it is on a server, where only `read` reaches.
        """
        if self.place.folder is None:
            raise UnsupportedError(f"'{self.where}' is on a server, and this needs its folder", hint="name the folder")
        return self.place.folder

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.manifest["name"]

    @property
    def version(self) -> str:
        """The version of kfdeploy that made it."""
        return self.manifest["version"]

    @property
    def nets(self) -> dict[str, Any]:
        """The names of its networks, their widths, and what tasks read."""
        return self.manifest["nets"]

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe it was factorized with, as plain fields, with the places that this machine remembers."""
        return found_recipe(self.manifest["recipe"], manifest.images_key(self.manifest))

    @property
    def data(self) -> DataOrigin:
        """Where its images came from."""
        return cast(DataOrigin, origin_of(self.manifest["recipe"]["data"], manifest.images_key(self.manifest)))

    @property
    def coupling(self) -> str:
        """`joint` or `independent`."""
        return self.manifest["coupling"]

    @property
    def couplings(self) -> dict[str, str]:
        """How the tasks of each field are coupled, where the field is split in several."""
        fields = upgraded(self.manifest)["fields"]
        return {field: about["coupling"] for field, about in fields.items()}

    @property
    def teacher(self) -> dict[str, Any]:
        """What is known of its teacher: source, accuracy."""
        return self.manifest["teacher"]

    @property
    def training(self) -> dict[str, Any]:
        """The circumstances it was trained in."""
        return self.manifest["training"]

    @property
    def images(self) -> dict[str, Any]:
        """How many images it was made from, and a hash of them all; empty in what 0.1.0 wrote."""
        return self.manifest.get("images", {})

    @property
    def entries(self) -> list[TaskEntry]:
        """What the manifest says of each task: its classes and its files."""
        return self.manifest["tasks"]

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Of each field the columns that the labels of evidence/shared count in."""
        return label_columns(self.manifest)

    @property
    def added(self) -> list[dict[str, Any]]:
        """How tasks were added, one after another."""
        return self.manifest.get("added", [])

    @property
    def added_images(self) -> list[BlockEntry]:
        """The validation images that came with added tasks."""
        return self.manifest.get("blocks", [])

    @property
    def calibrated(self) -> bool:
        """Whether it has ranges of activations, which int8 needs."""
        return "calibration" in self.manifest

    def choose(self, names: Sequence[str]) -> tuple[TaskSpec, ...]:
        """Return the named tasks in the order asked for; see `tasks.spec.choose`."""
        wanted = choose_names(self._entries, names, f"pool '{self.where}'")
        return tuple(TaskSpec.from_json(self._entries[name]) for name in wanted)  # ten of ten thousand

    def check(self, names: Sequence[str] | None = None) -> None:
        """Check the named files' hashes, or every one's (those in `train/` if they are in its folder).

        Raises:
            PoolError: one is missing, truncated or altered.
        """
        with as_opened(self.place, self.where, self.files):
            self.place.check(names, self.files)

    def read(self, name: str) -> bytes:
        """Return a file of the pool, its hash checked; every reading of a file goes through here.

        Raises:
            PoolError: it is missing, truncated, altered, or none of the pool's.
        """
        with as_opened(self.place, self.where, self.files):
            return self.place.read(name, self.files)

    def tensors(self, name: str) -> Arrays:
        """Return the arrays of a file of the pool.

        Raises:
            PoolError: as `read`; or they are not what the manifest says.
        """
        arrays = parse_tensors(self.read(name), f"{self.where}/{name}")
        hold_evidence(self._roles.get(name), arrays, self.image.shape, f"{self.where}/{name}")
        return arrays

    def fetch(self, names: Sequence[str]) -> None:
        """Bring files of a pool on a server into the cache, several at a time; of a folder, nothing is needed.

        Raises:
            PoolError: one is missing, truncated or altered, or not one of the pool's.
            StoreError: the server cannot be reached, refuses, or breaks off.
            OutputError: the cache cannot be written to.
        """
        self.place.fetch(names, self.files)

    def has(self, name: str) -> bool:
        """Return whether one of its files is there: those in `train/` may have been left behind.

        Raises:
            StoreError: the server cannot be reached, or refuses.
        """
        return name in self.files and self.place.has(name)

    def needs(self, tasks: Sequence[TaskSpec]) -> list[str]:
        """Return the names of the files that an assembly of these tasks is made from."""
        entries = [self.entry(task) for task in tasks]
        names = [COMMON, TEMPLATE, SHARED]
        if "calibration" in self.manifest:
            names += [self.manifest["calibration"], *(entry["calibration"] for entry in entries)]
        return [*names, *(name for entry in entries for name in (entry["file"], entry["evidence"]))]

    @cached_property
    def sha256(self) -> str:
        """The hash of its manifest, and so of everything in it."""
        return hashlib.sha256(self.place.manifest()).hexdigest()

    def graphs(self) -> "tuple[ModelProto, ModelProto]":
        """Return the common graph and the task template.

        Raises:
            PoolError: one is missing or altered.
        """
        from kfdeploy.graph.opened import read_onnx

        common = read_onnx(self.read(COMMON), f"{self.where}/{COMMON}", inputs=1, outputs=2)
        return common, read_onnx(self.read(TEMPLATE), f"{self.where}/{TEMPLATE}", inputs=1)

    def graph(
        self, tasks: Sequence[TaskSpec] | None = None, form: "Form" = "branches",
        thresholds: Mapping[str, float] | None = None, *, first: bool = False,
    ) -> "ModelProto":  # fmt: skip
        """Return the graph of some tasks (default: all): what `assemble` writes, and a device makes of an update.

        It has an output a field, `known` beside those in `thresholds`; with `first` it is as 0.1.0 wrote it.

        Raises:
            PoolError: a file of the pool is missing, truncated or altered.
            ComposeError: the form is `bank`, and an operator cannot be banked.
        """
        from kfdeploy.graph.compose import compose
        from kfdeploy.graph.fields import finish

        chosen = self.tasks if tasks is None else tasks
        graph = compose(*self.graphs(), [self.part(task) for task in chosen], form, first=first)
        return finish(graph, widths_of(chosen), thresholds or {})

    def fused(
        self, tasks: Sequence[TaskSpec], fuse: Fuse = "auto", thresholds: Mapping[str, float] | None = None
    ) -> "tuple[ModelProto, Form]":
        """Return `graph` and the form it has: a bank where that was asked for, or can be.

        Raises:
            PoolError: a file of the pool is missing, truncated or altered.
            ComposeError: `fuse` is `bank`, and an operator cannot be banked.
        """
        if fuse != "branches":
            try:
                return self.graph(tasks, "bank", thresholds), "bank"
            except ComposeError:
                if fuse == "bank":
                    raise
        return self.graph(tasks, "branches", thresholds), "branches"

    def prove(self) -> None:
        """Run all tasks at once on the golden samples.

        Raises:
            PoolError: a file of the pool is missing, truncated or altered.
            ParityError: the numbers are not the torch network's.
        """
        from kfdeploy.graph.reference import golden_difference

        evidence = self.evidence()
        golden_difference(self.graph(), evidence.images, evidence.golden, outputs_of(self.tasks))

    def part(self, task: TaskSpec) -> "Part":
        """Return one task's weights and folded head.

        Raises:
            PoolError: its file is missing or altered.
        """
        from kfdeploy.graph.compose import Part

        return Part.of(task.name, self._own(task, self.entry(task)["file"]))

    def _own(self, task: TaskSpec, name: str) -> Arrays:
        """Return the arrays of a task's own file, which says itself whose it is."""
        arrays = manifest.own_arrays(self.read(name), task, name, self.where)
        hold_evidence(self._roles.get(name), arrays, self.image.shape, f"{self.where}/{name}")
        return arrays

    def evidence(self, tasks: Sequence[TaskSpec] | None = None) -> Evidence:
        """Return the golden samples and validation logits of some tasks (default: all), as columns side by side.

        Validation images come in blocks: those the pool was made with, and those of each task that was added. A block
        counts for a field where all these tasks of it have logits for it: else its labels of the field are not told.

        Raises:
            PoolError: a file is missing or altered.
        """
        chosen = self.tasks if tasks is None else tasks
        own = [self.entry(task)["evidence"] for task in chosen]
        self.fetch([SHARED, *own, *(block["file"] for block in self.added_images)])
        shared = self.tensors(SHARED)
        each = [self._own(task, name) for task, name in zip(chosen, own, strict=True)]
        seen = gathered(self.blocks(chosen, shared, each), chosen, tuple(self.labels))  # which holds them together
        golden = np.concatenate([arrays["golden.logits"] for arrays in each], axis=1)
        return Evidence(shared["golden.images"], golden, *seen)

    def blocks(
        self, tasks: Sequence[TaskSpec], shared: Mapping[str, Any] | None = None, each: Sequence[Any] | None = None
    ) -> Iterator[Block]:
        """Give the validation images block by block, with these tasks' logits where they are known.

        `shared` and `each` are the arrays of evidence/shared and of the tasks' own evidence, where they are at hand.

        Raises:
            PoolError: a file is missing or altered.
        """
        shared = shared or self.tensors(SHARED)
        each = each or [self._own(t, self.entry(t)["evidence"]) for t in tasks]
        hold_together(shared, each, [self.entry(task)["evidence"] for task in tasks], self.where)
        yield Block(None, Seen.of(shared, self.labels), tuple(own.get("validation.logits") for own in each))
        added = self.added_images
        place = {name: i for i, name in enumerate(self._entries)} if added else {}
        for about in added:
            images, task = self.tensors(about["file"]), about["task"]
            # A block's file has the logits of the tasks before it, and each later task has its own for it. What else
            # goes by such a name is of a task that is gone, or of another pool's (`without`, after `pool merge`).
            found: list[Any] = []
            for t, own in zip(tasks, each, strict=True):
                known, mine = images.get(f"logits/{t.name}"), own.get(f"validation.logits/{task}")
                if t.name in about.get("without", ()):
                    found.append(None)
                elif t.name == task:
                    found.append(known if mine is None else mine)
                else:
                    found.append(mine if place[t.name] > place[task] else known)
            yield Block(task, Seen.of(images, block_columns(self.manifest, about)), tuple(found))

    def seen(self) -> Seen:
        """Return which validation images the pool was made with.

        Raises:
            PoolError: the file is missing or altered.
        """
        return Seen.of(self.tensors(SHARED), self.labels)

    def ranges(self, task: TaskSpec | None = None) -> "dict[str, tuple[float, float]]":
        """Return the activation ranges of one task's network, or of the CKN (None), by tensor.

        Raises:
            PoolError: the pool was never calibrated, or the file is missing or altered.
        """
        from kfdeploy.pool.ranges import parse_ranges

        name = self.manifest.get("calibration") if task is None else self.entry(task).get("calibration")
        if name is None:
            raise PoolError(
                f"'{self.where}' has no ranges of activations, which int8 needs",
                hint="kfdeploy calibrate <pool>, then assemble again",
            )
        return parse_ranges(self.read(name), f"{self.where}/{name}")

    def write_part(self, tasks: Sequence[TaskSpec], out: Path) -> None:
        """Write a pool of just these tasks to the folder `out`, in the same format: what a device needs."""
        # Without `train/` and without validation logits, which outweigh a task's weights on a small device.
        entries = [self.entry(task) for task in tasks]
        evidence = [entry["evidence"] for entry in entries]
        names = [name for name in self.needs(tasks) if name not in evidence]
        for name in names:
            target = out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read(name))
        for entry in entries:
            golden = self.tensors(entry["evidence"])["golden.logits"]
            save_tensors(out / entry["evidence"], {"golden.logits": golden}, manifest.owned("evidence", entry))
        files = {name: self.files[name] for name in names} | describe_files(out, [out / name for name in evidence])
        labels = self.tensors(SHARED).get("validation.labels")
        manifest.write(out, manifest.part(self.manifest, entries, files, labels))
        Pool.open(out).check()

    def entry(self, task: TaskSpec) -> TaskEntry:
        """Return what the manifest says of a task: its classes and the names of its files."""
        return self._entries[task.name]

    @cached_property
    def _roles(self) -> dict[str, Role]:
        return manifest.roles(self.manifest)

    @cached_property
    def _entries(self) -> dict[str, TaskEntry]:
        return {entry["name"]: entry for entry in self.manifest["tasks"]}
