"""The tables of a recipe, typed. See `Recipe` for the whole."""

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field, model_validator

from kfdeploy.data.fields import KINDS, MAPS, NO_MAPS, Asked
from kfdeploy.tasks.spec import ImageSpec, Interpolation
from kfdeploy.training.recipe.base import Section
from kfdeploy.training.recipe.nets import Argument, Net


class DataField(Section):
    """One thing known of an image, such as a column of `attributes.csv`: a table for each that is spoken of."""

    kind: str = "classes"  # classes; maps of labels are not there yet
    classes: list[str] = Field(default_factory=list)  # all its values, in the order of the outputs; none: by name
    coupling: Literal["joint", "independent"] | None = None  # of its tasks among each other; none: the objective's

    @model_validator(mode="after")
    def _fits(self) -> "DataField":
        if self.kind in MAPS:
            raise ValueError(f"{NO_MAPS}, and kind is '{self.kind}' (allowed: {', '.join(KINDS)})")
        if self.kind not in KINDS:
            raise ValueError(f"there is no kind '{self.kind}' (allowed: {', '.join(KINDS)})")
        if twice := [name for i, name in enumerate(self.classes) if name in self.classes[:i]]:
            raise ValueError(f"classes has '{twice[0]}' twice")
        return self


class Data(Section):
    """Where the images come from and how they are split."""

    LATER = ("fields", "partial")
    # digits, dsprites, folder, arrays, webdataset, CIFAR10, CIFAR100, MNIST or FashionMNIST.
    source: str = "digits"
    # Of a folder: where train/<class>/ and test/<class>/ are, or train/images/ and train/attributes.csv; of arrays:
    # train/images.npy; of webdataset: train-*.tar. Relative to the recipe or to here.
    root: str = ""
    names: str | dict[str, str] = Field(default_factory=dict)  # readable ones, by folder: a table, a file, 'imagenet'
    ignore: list[str] = Field(default_factory=list)  # classes that no task has, and fields that are not read
    fields: dict[str, DataField] = Field(default_factory=dict)  # what is said of fields, each in [data.fields.<field>]
    partial: bool = False  # leave out images and rows that lack each other, instead of refusing them
    images: int = Field(100_000, ge=100, le=737_280)  # of dsprites: how many of all there are
    validation: float = Field(0.1, gt=0, lt=1)  # the stratified share of train that every choice is made on
    test: float = Field(0.0, ge=0, lt=1)  # of a source without a test split: the share of train that is one
    stream_above_mb: int = Field(4096, ge=0)  # decoded train images larger than this stream from disk
    workers: int = Field(0, ge=0)  # processes that decode what is streamed; 0: one a core, 8 at most

    @model_validator(mode="after")
    def _fits(self) -> "Data":
        if self.source != "dsprites" and self.images != type(self).model_fields["images"].default:
            raise ValueError(f"images is how many of dsprites are taken, and source is '{self.source}'")
        if self.partial and self.source not in ("folder", "webdataset"):
            raise ValueError(f"partial is for folders and webdataset, and source is '{self.source}'")
        if both := [name for name in self.fields if name in self.ignore]:
            raise ValueError(f"the field '{both[0]}' is in data.fields and in data.ignore")
        return self

    def silent(self) -> set[str]:
        """Return the keys that say nothing here: the number of images does of dSprites alone, and there always."""
        return super().silent() | ({"images"} if self.source != "dsprites" else set())

    def asked(self, only: Collection[str] | None = None) -> Asked:
        """Return what is asked of the source; `only` those fields of it, by default all that are not ignored."""
        orders = {name: tuple(field.classes) for name, field in self.fields.items()}
        return Asked(orders, only, tuple(self.ignore), self.partial, self.images)


class Groups(Section):
    """Tasks that the teacher's confusions make: classes that it takes for one another, on validation, are one task."""

    group: int = Field(ge=2)  # how many tasks, of sizes as even as can be


class Task(Section):
    """A task of one field of several."""

    field: str  # of a folder's attributes.csv: a column; the class of each image's folder is `class`
    classes: list[str] = Field(default_factory=list)  # those of the field that it has; none: all
    weight: float = Field(1.0, gt=0)  # of its field's losses; tasks of one field have the same


class Image(Section):
    """The model's input; see `ImageSpec`."""

    size: list[int] = Field(min_length=2, max_length=2)  # height and width, pixels
    channels: Literal[1, 3]  # 1: grey, 3: RGB
    mean: list[float]  # one a channel, of values in [0, 1]
    std: list[float]  # one a channel
    resize: int = Field(0, ge=0)  # the shorter side before the centre is cut out; 0: images have the size
    interpolation: Interpolation = "bilinear"  # of resizing: nearest, bilinear or bicubic

    @model_validator(mode="after")
    def _fits(self) -> "Image":
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std must have {self.channels} values, one a channel")
        if min(self.size) < 1 or min(self.std) <= 0:
            raise ValueError("size and std must be positive")
        return self

    def spec(self) -> ImageSpec:
        """Return the part that travels with weights."""
        return ImageSpec(
            (self.size[0], self.size[1]),
            self.channels,
            tuple(self.mean),
            tuple(self.std),
            self.resize,
            self.interpolation,
        )


class Augment(Section):
    """Random crops after padding by `crop` pixels, mirrored halves, and random resized crops (streamed data only).

    Every view is a function of the seed, the epoch and the image's place in its source. With a `seed` of its own here,
    runs of several seeds see the same views, in another order, and can share what the teacher says of them
    (`run.replay`). With `views`, epoch n sees the views of epoch n modulo `views`, and a replayed teacher is asked
    about those alone.
    """

    crop: int = Field(0, ge=0)  # pixels of padding before a random crop; 0: none
    flip: bool = False  # mirror half of the views
    resized_crop: float = Field(0.0, ge=0, lt=1)  # the smallest share of the area; 0 switches it off
    seed: int | None = Field(None, ge=0, le=10**12)  # none: the recipe's
    views: int = Field(0, ge=0)  # of each image; 0: a new one every epoch


class Train(Section):
    """Optimisation. The learning rate is a function of the step: linear warm-up, then a cosine or a line to zero."""

    epochs: int = Field(ge=1)  # passes over the training images
    batch: int = Field(128, ge=2)  # images a step, of all processes together
    optimizer: Literal["sgd", "adamw"] = "sgd"  # how steps are taken
    lr: float = Field(0.1, gt=0)  # the highest learning rate
    momentum: float = Field(0.9, ge=0, lt=1)  # of sgd, in Nesterov's form
    weight_decay: float = Field(5e-4, ge=0)  # of weights; biases and normalisation are not decayed
    warmup: float = Field(0.1, ge=0, lt=1)  # share of all steps
    schedule: Literal["cosine", "linear"] = "cosine"  # how the rate falls to zero
    clip: float = Field(0.0, ge=0)  # largest gradient norm; 0 switches it off
    label_smoothing: float = Field(0.0, ge=0, lt=1)  # the share of a label that is spread over all classes


class Run(Section):
    """Where training runs and what it writes beside the pool."""

    device: Literal["auto", "cpu", "cuda"] = "auto"  # where training runs
    devices: int = Field(1, ge=1)  # processes; the batch is shared among them
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: whichever is faster here, for teacher and network apart
    compile: bool = False  # torch.compile
    threads: int = Field(0, ge=0)  # of each process on the CPU; 0: torch's choice
    replay: str = ""  # a folder of what the teacher said of each view, read and added to
    checkpoint_minutes: float = Field(10.0, gt=0)  # besides the one after every epoch
    tensorboard: bool = False  # write the log for TensorBoard too


class Teacher(Section):
    """The network to factorize: `train`, `file:<path>`, `torchvision:<name>`, `timm:<name>` or `onnx:<path>`."""

    source: str  # where it comes from
    net: Net | None = None  # for train and file: its architecture
    weights: str = ""  # for torchvision and timm: a local file instead of a download
    args: dict[str, Argument] = Field(default_factory=dict)  # for torchvision and timm: what the model is made with
    output: str | dict[str, str] = ""  # for onnx: which of the outputs the logits are; of several fields a table
    # In its order: names, 'imagenet', or a file with a class a line; of several fields a table; none: the data's.
    classes: str | list[str] | dict[str, list[str]] = Field(default_factory=list)
    mean: list[float] = Field(default_factory=list)  # where it was normalised otherwise than the recipe's image
    std: list[float] = Field(default_factory=list)  # the same
    min_accuracy: float = Field(0.0, ge=0, le=1)  # refuse a teacher that has less on validation or test in a field
    train: Train | None = None  # for train: its optimisation

    @model_validator(mode="after")
    def _fits(self) -> "Teacher":
        kind, _, rest = self.source.partition(":")
        if kind not in ("train", "file", "torchvision", "timm", "onnx") or (kind != "train") != bool(rest):
            raise ValueError(
                "source must be 'train', 'file:<path>', 'torchvision:<name>', 'timm:<name>' or 'onnx:<path>', not "
                f"'{self.source}'"
            )
        libraries = ("torchvision", "timm")
        for key, kinds in (("weights", libraries), ("args", libraries), ("output", ("onnx",))):
            if getattr(self, key) and kind not in kinds:
                raise ValueError(f"{key} is for teachers from {' and '.join(kinds)}, and source is '{self.source}'")
        if kind == "train" and isinstance(self.classes, dict):
            raise ValueError("a teacher from 'train' answers every field of the tasks; leave classes out")
        if kind != "train" and self.net is not None and self.net.weights:
            raise ValueError(f"net.weights are what a teacher is trained from, and source is '{self.source}'")
        if kind in ("train", "file") and self.net is None:
            raise ValueError(f"a teacher from '{kind}' needs a net, such as {{ family = 'cifar_resnet', depth = 56 }}")
        if kind == "train" and self.train is None:
            raise ValueError("a teacher from 'train' needs a section [teacher.train]")
        return self


class Tsn(Section):
    """The task-specific networks: what they read, and their architecture."""

    # What the task networks read: the image, or a stage of the common network.
    tap: str = Field("image", pattern=r"^(image|stage[1-9][0-9]*)$")
    net: Net  # of channels in multiples of 8, so that it can be banked


class Objective(Section):
    """The weights and variants of Eq. 3 and 12 (Yang et al., ECCV 2022). `reference` is the published code's."""

    # Joint: one loss over all classes; independent: each task against other.
    coupling: Literal["joint", "independent"] = "joint"
    # Reference: the published code's form of the information terms.
    variant: Literal["default", "reference"] = "default"
    lambda_sup: float = Field(1.0, ge=0)  # the weight of the labels, L_sup
    lambda_kt: float = Field(0.1, ge=0)  # the weight of the teacher's soft targets, L_kt
    temperature: float = Field(10.0, gt=0)  # of the soft targets
    lambda_i: float = Field(1.0, ge=0)  # the weight of the information terms, λ_I
    alpha: float = Field(1.0, ge=0)  # of I(X; Z), teacher and common network
    beta: float = Field(1e-3, ge=0)  # of the bottleneck
    beta_reduction: Literal["sum", "mean"] = "sum"  # over the dimensions of t; Eq. 11 is the sum
    infomax: Literal["dv", "infonce"] = "dv"  # the bound: Donsker–Varadhan or InfoNCE
    infomax_temperature: float = Field(0.1, gt=0)  # of InfoNCE
    infomax_levels: int = Field(0, ge=0)  # the last so many stages of teacher and CKN; 0: as many as both have

    @model_validator(mode="after")
    def _fits(self) -> "Objective":
        if not self.lambda_sup and not self.lambda_kt:
            raise ValueError("lambda_sup and lambda_kt are both 0: there is nothing to learn from")
        if self.variant == "reference":
            for name in ("infomax", "infomax_temperature", "beta_reduction"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no meaning with variant = 'reference', which has its own form")
        return self


class SoftTargets(Section):
    """Distillation of a full student: (1 − weight) CE + weight T² KL (Hinton et al. 2015)."""

    weight: float = Field(0.9, ge=0, le=1)  # of the teacher's answers; the labels have the rest; 0: no teacher is asked
    temperature: float = Field(4.0, gt=0)  # of the teacher's answers


class Student(Section):
    """A student to distil, the alternative to an assembly."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # of its folder
    net: Net  # its architecture; `weights` beside it is short for `net.weights`
    soft: SoftTargets = SoftTargets()  # how it learns from the teacher

    @model_validator(mode="before")
    @classmethod
    def _short(cls, fields: Any) -> Any:
        """Take `weights` of a student for those of its net."""
        if isinstance(fields, dict) and "weights" in fields and isinstance(fields.get("net"), dict):
            if "weights" in fields["net"]:
                raise ValueError("a student has weights and net.weights; leave one of them out")
            rest = {key: value for key, value in fields.items() if key != "weights"}
            return rest | {"net": fields["net"] | {"weights": fields["weights"]}}
        return fields
