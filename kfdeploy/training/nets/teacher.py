"""Teachers: from a file, from torchvision or from timm, always whole, always in `eval()`, and measured before use."""

import os
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from kfdeploy.errors import TeacherError, first_line, nearest
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.nets.answers import answers, outputs_for, teacher_columns
from kfdeploy.training.nets.build import describe
from kfdeploy.training.nets.classifier import Classifier, Normalise
from kfdeploy.training.nets.frozen import OnnxNet
from kfdeploy.training.nets.weights import (
    HEADS,
    Shapes,
    misfit,
    own_nets,
    read_weights,
    shapes_of,
    timm_nets,
    torchvision_nets,
)
from kfdeploy.training.recipe import sections

_CLASSES = "set teacher.classes to its classes in its order ('imagenet' for ImageNet's thousand)"
_OWN_WEIGHTS = f"set teacher.weights to a checkpoint of yours, or {_CLASSES.removeprefix('set ')}"


class Teacher(nn.Module):
    """A frozen network whose logits are permuted and sliced to the classes asked for.

    It stays in `eval()` whatever its surroundings do, so that its normalisation statistics never move.
    """

    columns: Tensor

    def __init__(self, net: nn.Module, columns: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.net = net.requires_grad_(False)
        self.channels = tuple(channels)
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64), persistent=False)
        self.knows = tuple(column >= 0 for column in columns)  # of each column whether it answers its field
        self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits (N, C) and the stages' features, from uint8 (N, H, W, C)."""
        logits, features = self.net(image)
        return self.choose(logits), features

    def choose(self, logits: Tensor) -> Tensor:
        """Return the columns asked for, of all the logits that the network gives; any for one that it lacks."""
        return logits.index_select(1, self.columns.clamp(min=0))


class _Torchvision(nn.Module):
    """A torchvision classifier; its stages are the last map of each resolution, found by tracing, not by hooks."""

    def __init__(self, model: nn.Module, image: ImageSpec) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

        names = get_graph_node_names(model)[1]
        example = torch.zeros(2, image.channels, *image.size)
        model.eval()
        with torch.no_grad():
            shapes = {
                name: tuple(value.shape)
                for name, value in create_feature_extractor(model, names)(example).items()
                if isinstance(value, Tensor)
            }
        # The same size twice means a later map of one stage.
        last: dict[tuple[int, ...], tuple[str, bool]] = {}
        for name, shape in shapes.items():
            for side, channels_last in ((shape[2:], False), (shape[1:3], True)):
                if _is_map(shape, side, image.size):
                    last[side] = (name, channels_last)
                    break
        if len(last) < 2:
            raise TeacherError(
                f"the features of {type(model).__name__} are no maps of several sizes at images of "
                f"{image.size[0]}×{image.size[1]} (a transformer's are tokens), so there are no stages to learn from",
                hint="choose a network with stages (a ResNet, MobileNet, ConvNeXt, Swin), or a larger image.size",
            )
        chosen = list(last.values())[-4:]
        self.nodes = [name for name, _ in chosen]
        self.last = [channels_last for _, channels_last in chosen]
        self.channels = [shapes[name][3 if channels_last else 1] for name, channels_last in chosen]
        self.output = names[-1]
        self.body = create_feature_extractor(model, [*self.nodes, self.output])
        self.normalise = Normalise(image)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits and the stages' features."""
        out = self.body(self.normalise(image))
        maps = [
            out[name].permute(0, 3, 1, 2) if back else out[name]
            for name, back in zip(self.nodes, self.last, strict=True)
        ]
        return out[self.output], tuple(maps)


def _is_map(shape: tuple[int, ...], side: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether `side` of a tensor's shape is an image's, made smaller: neither the image itself nor pooled to 1×1.

    The tensor is of two images: what is not two times something is a constant, or windows of attention.
    """
    if len(shape) != 4 or shape[0] != 2 or not 1 < side[0] < image[0]:
        return False
    return abs(side[1] - side[0] * image[1] / image[0]) <= 1


class _TimmClassifier(nn.Module):
    """A timm classifier, by `forward_intermediates` and `forward_head`."""

    def __init__(self, model: nn.Module, image: ImageSpec) -> None:
        super().__init__()
        self.model = model
        self.normalise = Normalise(image)
        with torch.no_grad():
            model.eval()
            _, features = self(torch.zeros(1, *image.shape, dtype=torch.uint8))
        self.channels = [feature.shape[1] for feature in features]

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits and the stages' features."""
        final, features = self.model.forward_intermediates(self.normalise(image))  # type: ignore[operator]
        return self.model.forward_head(final), tuple(features)  # type: ignore[operator]


def fill(net: nn.Module, state: dict[str, Tensor], origin: str, told: str = "the net") -> None:
    """Load a checkpoint of one of our nets, whole, in place; `told` is the net in words.

    Raises:
        TeacherError: keys are missing or left over, or shapes differ.
    """
    own = net.state_dict()
    renamed = {}
    for key, value in state.items():
        stem, _, rest = key.rpartition(".")
        ours = f"head.{rest}" if stem in HEADS else key if key in own else f"backbone.{key}"
        renamed[ours] = value
    head = renamed.get("head.weight")
    if head is not None and "head.weight" in own and len(head) != len(own["head.weight"]):
        raise TeacherError(
            f"'{origin}' has {len(head)} classes, the recipe's has {len(own['head.weight'])}",
            hint="set teacher.classes to the classes of the checkpoint, in its order",
        )
    plain = {key.removeprefix("backbone."): shape for key, shape in shapes_of(own).items()}
    given = {key.removeprefix("backbone."): shape for key, shape in shapes_of(renamed).items()}
    text, hint = misfit(plain, given, origin, told, lambda: own_nets(3, given))
    if text:
        raise TeacherError(text, hint=hint or "set teacher.net to the architecture of the checkpoint")
    net.load_state_dict({**own, **renamed})


def pretrained(
    config: sections.Teacher,
    image: ImageSpec,
    data_classes: Sequence[str],
    wanted: Sequence[str],
    aliases: Mapping[str, str] | None = None,
    fields: Sequence[str] = (),
) -> Teacher:
    """Return a published teacher, its logits in the order of `wanted`; `aliases` are as `class_columns` has them.

    `data_classes` are the data's columns, and `fields` whose each of them is, where there are several; those of fields
    that the teacher does not answer are -1 among its columns.

    Raises:
        TeacherError: the weights cannot be had or do not fit, or the classes do not.
    """
    kind, _, name = config.source.partition(":")
    if config.mean or config.std:
        image = ImageSpec(image.size, image.channels, tuple(config.mean or image.mean), tuple(config.std or image.std))
    answered = answers(config.classes, data_classes, fields)
    known = [names for each in answered.values() for names in each]
    columns = teacher_columns(answered, wanted, dict(zip(data_classes, fields, strict=False)), aliases)
    if kind == "file":
        assert config.net is not None  # the recipe's own validator has checked it
        net = Classifier(config.net, image, len(known))
        fill(net, read_weights(Path(name)), name, f"the net {describe(config.net)}")
        return Teacher(net, columns, net.backbone.channels)
    if kind == "onnx":
        frozen = OnnxNet(Path(name), image, outputs_for(config.output, answered))
        sizes = [len(each) for each in answered.values()] if len(frozen.widths) > 1 else [len(known)]
        for output, found, size in zip(frozen.outputs, frozen.widths, sizes, strict=True):
            if found != size:
                which = f"the output '{output}' of '{name}'" if len(sizes) > 1 else f"'{name}'"
                raise TeacherError(f"{which} has {found} classes, the recipe's has {size}", hint=_CLASSES)
        return Teacher(frozen, columns, ())
    model = _torchvision(name, config, len(known)) if kind == "torchvision" else _timm(name, config, len(known), image)
    try:
        wrapped = _Torchvision(model, image) if kind == "torchvision" else _TimmClassifier(model, image)
    except (RuntimeError, AssertionError) as error:
        raise TeacherError(
            f"{config.source} does not take images of {image.size[0]}×{image.size[1]}: {first_line(error)}",
            hint="set image.size to the teacher's",
        ) from None
    return Teacher(wrapped, columns, wrapped.channels)


def _torchvision(name: str, config: sections.Teacher, classes: int) -> nn.Module:
    from torchvision import models

    if name not in models.list_models(models):
        raise TeacherError(f"torchvision has no classifier '{name}'", hint=nearest(name, models.list_models(models)))
    if config.weights:
        with _arguments(config):
            model: nn.Module = models.get_model(name, weights=None, num_classes=classes, **config.args)
        _load_exactly(model, Path(config.weights), config.source, lambda: torchvision_nets(name))
        return model
    weights = models.get_model_weights(name).DEFAULT
    if len(weights.meta["categories"]) != classes:
        found = len(weights.meta["categories"])
        raise TeacherError(f"torchvision's {name} has {found} classes, the recipe's has {classes}", hint=_OWN_WEIGHTS)
    with _arguments(config):
        return _download(lambda: models.get_model(name, weights=weights, **config.args), config)


def _timm(name: str, config: sections.Teacher, classes: int, image: ImageSpec) -> nn.Module:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise TeacherError(f"timm has no model '{name}'", hint=nearest(name, timm.list_models()))
    if config.weights:
        with _arguments(config):
            model: nn.Module = timm.create_model(name, num_classes=classes, in_chans=image.channels, **config.args)
        _load_exactly(
            model,
            Path(config.weights),
            config.source,
            lambda: timm_nets(name, image.channels, {"num_classes": classes}),
        )
        return model
    with _arguments(config):
        model = _download(lambda: timm.create_model(name, pretrained=True, **config.args), config)
    found = int(model.num_classes)  # type: ignore[arg-type]
    if found != classes:
        raise TeacherError(f"timm's {name} has {found} classes, the recipe's has {classes}", hint=_OWN_WEIGHTS)
    return model


@contextmanager
def _arguments(config: sections.Teacher) -> Iterator[None]:
    """Say of a model that does not take the recipe's arguments which they were."""
    try:
        yield
    except TypeError as error:
        if not config.args:
            raise
        raise TeacherError(
            f"{config.source} does not take the arguments {config.args}: {first_line(error)}", hint="see teacher.args"
        ) from None


def _download(make: Callable[[], nn.Module], config: sections.Teacher) -> nn.Module:
    hint = "download them elsewhere and set teacher.weights = '<path>'"
    try:
        with quick_to_fail():
            return make()
    except TypeError:
        raise
    except Exception as error:  # urllib, requests and the hub each have errors of their own
        raise TeacherError(
            f"the weights of {config.source} could not be downloaded: {type(error).__name__}: {first_line(error)}",
            hint=hint,
        ) from None


@contextmanager
def quick_to_fail() -> Iterator[None]:
    """Let a library that downloads give up after seconds where there is no network, not after minutes of trying again.

    Files that are in its cache are used either way.
    """
    timeout = socket.getdefaulttimeout()
    asked = os.environ.get("HF_HUB_OFFLINE") == "1"
    try:
        socket.setdefaulttimeout(20)  # of one answer, not of the whole download
        _offline(asked or not online("huggingface.co"))
        yield
    finally:
        socket.setdefaulttimeout(timeout)
        _offline(asked)


def online(host: str) -> bool:
    """Return whether a host can be reached at all, directly or through a proxy, in five seconds."""
    proxy = urllib.request.getproxies().get("https", "")
    address = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else None
    target = (address.hostname or host, address.port or 443) if address else (host, 443)
    try:
        socket.create_connection(target, timeout=5).close()
    except OSError:
        return False
    return True


def _offline(on: bool) -> None:
    """Tell the hub's library to use its cache alone: it reads the variable once, when it is imported."""
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = on  # type: ignore[attr-defined]


def _load_exactly(
    model: nn.Module, path: Path, told: str, candidates: Callable[[], Iterator[tuple[str, Shapes]]]
) -> None:
    state = read_weights(path)
    own = model.state_dict()
    text, hint = misfit(shapes_of(own), shapes_of(state), str(path), f"the model {told}", candidates)
    if text:
        raise TeacherError(text, hint=hint or "set teacher.source to the checkpoint's model, and teacher.classes")
    model.load_state_dict({**own, **state})
