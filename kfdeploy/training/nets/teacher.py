"""Teachers: from a file, from torchvision or from timm, always whole, always in `eval()`, and measured before use."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kfdeploy.errors import TeacherError, first_line
from kfdeploy.tasks.spec import ImageSpec
from kfdeploy.training.nets.classifier import Classifier, Normalise
from kfdeploy.training.recipe import sections

_OWN_WEIGHTS = "set teacher.weights to a checkpoint of yours, or teacher.classes to its classes"
_HEADS = ("linear", "fc", "head", "classifier")  # what published checkpoints call the last layer


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
        """Return the columns asked for, of all the logits that the network gives."""
        return logits.index_select(1, self.columns)


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


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's weights as float32, taken out of what wraps them (`model_state_dict`, `module.`, …).

    Nothing in it is executed.

    Raises:
        TeacherError: the file is missing, of another kind, or holds more than tensors.
    """
    if not path.is_file():
        raise TeacherError(f"there is no teacher at '{path}'", hint="set teacher.source = 'file:<path>'")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        elif path.suffix in (".pt", ".pth", ".th"):
            state = torch.load(path, map_location="cpu", weights_only=True)
        else:
            raise TeacherError(
                f"'{path}' is of an unknown kind '{path.suffix}'", allowed=(".safetensors", ".pt", ".pth", ".th")
            )
    except TeacherError:
        raise
    except Exception as error:  # unpickling fails in many ways, all of which mean the same to the user
        raise TeacherError(
            f"'{path}' cannot be read as weights alone: {first_line(error)}",
            hint="save it as safetensors, or as a plain state_dict",
        ) from None
    state = _unwrapped(state)
    if not isinstance(state, dict):
        raise TeacherError(
            f"'{path}' holds a {type(state).__name__}, not weights by name",
            hint="save it as safetensors, or as a plain state_dict",
        )
    return _stripped({str(key): value for key, value in state.items() if isinstance(value, Tensor)})


# Under which names training programs, Lightning and timm keep the weights; averaged ones are better.
_WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "net",
             "network", "weights", "params")  # fmt: skip
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")  # DDP, torch.compile, Lightning


def _unwrapped(state: Any) -> Any:
    """Return what a checkpoint keeps its weights under, or the checkpoint itself where it holds them."""
    while isinstance(state, dict) and not any(isinstance(value, Tensor) for value in state.values()):
        inner = next((state[name] for name in _WRAPPERS if isinstance(state.get(name), dict)), None)
        if inner is None:
            return state
        state = inner
    return state


def _stripped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return float32 weights without the prefixes that all names share, as wrappers of a model leave them."""
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    state.pop("n_averaged", None)  # torch's AveragedModel counts
    while state and (prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), "")):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def fill(net: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Load a checkpoint of one of our nets, whole, in place.

    Raises:
        TeacherError: keys are missing or left over, or shapes differ.
    """
    own = net.state_dict()
    renamed = {}
    for key, value in state.items():
        stem, _, rest = key.rpartition(".")
        ours = f"head.{rest}" if stem in _HEADS else key if key in own else f"backbone.{key}"
        renamed[ours] = value
    # Counters of batches are not weights: older checkpoints lack them.
    missing = [key for key in own if key not in renamed and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in renamed if key not in own]
    if missing or unexpected:
        raise TeacherError(
            f"'{origin}' does not fit the net: {len(missing)} keys are missing {missing[:3]}, "
            f"{len(unexpected)} are unexpected {[key.removeprefix('backbone.') for key in unexpected[:3]]}",
            hint="set teacher.net to the architecture of the checkpoint",
        )
    for key, value in renamed.items():
        if own[key].shape != value.shape:
            if key.startswith("head."):
                raise TeacherError(
                    f"'{origin}' has {value.shape[0]} classes, the recipe's has {own[key].shape[0]}",
                    hint="set teacher.classes to the classes of the checkpoint, in its order",
                )
            raise TeacherError(
                f"'{origin}' does not fit the net: '{key.removeprefix('backbone.')}' has shape "
                f"{tuple(value.shape)}, the net has {tuple(own[key].shape)}",
                hint="set teacher.net to the architecture of the checkpoint",
            )
    net.load_state_dict({**own, **renamed})


def class_columns(known: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return the teacher's column of each wanted class.

    Raises:
        TeacherError: the teacher does not know one.
    """
    if lost := [name for name in wanted if name not in known]:
        raise TeacherError(
            f"the teacher does not know the class '{lost[0]}'",
            allowed=known,
            hint="set teacher.classes to its classes in its order, or leave some out with data.ignore",
        )
    return [list(known).index(name) for name in wanted]


def pretrained(
    config: sections.Teacher, image: ImageSpec, data_classes: Sequence[str], wanted: Sequence[str]
) -> Teacher:
    """Return a published teacher (`file:`, `torchvision:` or `timm:`), its logits in the order of `wanted`.

    Raises:
        TeacherError: the weights cannot be had or do not fit, or the classes do not.
    """
    kind, _, name = config.source.partition(":")
    if config.mean or config.std:
        image = ImageSpec(image.size, image.channels, tuple(config.mean or image.mean), tuple(config.std or image.std))
    known = config.classes or list(data_classes)
    columns = class_columns(known, wanted)
    if kind == "file":
        assert config.net is not None  # the recipe's own validator has checked it
        net = Classifier(config.net, image, len(known))
        fill(net, read_weights(Path(name)), name)
        return Teacher(net, columns, net.backbone.channels)
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
        from kfdeploy.errors import nearest

        raise TeacherError(f"torchvision has no classifier '{name}'", hint=nearest(name, models.list_models(models)))
    if config.weights:
        model: nn.Module = models.get_model(name, weights=None, num_classes=classes)
        _load_exactly(model, Path(config.weights))
        return model
    weights = models.get_model_weights(name).DEFAULT
    if len(weights.meta["categories"]) != classes:
        found = len(weights.meta["categories"])
        raise TeacherError(f"torchvision's {name} has {found} classes, the recipe's has {classes}", hint=_OWN_WEIGHTS)
    return _download(lambda: models.get_model(name, weights=weights), config.source)


def _timm(name: str, config: sections.Teacher, classes: int, image: ImageSpec) -> nn.Module:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        from kfdeploy.errors import nearest

        raise TeacherError(f"timm has no model '{name}'", hint=nearest(name, timm.list_models()))
    if config.weights:
        model: nn.Module = timm.create_model(name, num_classes=classes, in_chans=image.channels)
        _load_exactly(model, Path(config.weights))
        return model
    model = _download(lambda: timm.create_model(name, pretrained=True), config.source)
    found = int(model.num_classes)  # type: ignore[arg-type]
    if found != classes:
        raise TeacherError(f"timm's {name} has {found} classes, the recipe's has {classes}", hint=_OWN_WEIGHTS)
    return model


def _download(make: Callable[[], nn.Module], source: str) -> nn.Module:
    try:
        return make()
    except Exception as error:  # urllib, requests and the hub each have errors of their own
        raise TeacherError(
            f"the weights of {source} could not be downloaded: {type(error).__name__}: {first_line(error)}",
            hint="download them elsewhere and set teacher.weights = '<path>'",
        ) from None


def _load_exactly(model: nn.Module, path: Path) -> None:
    state = read_weights(path)
    own = model.state_dict()
    wrong = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    wrong += [key for key in state if key not in own or own[key].shape != state[key].shape]
    if wrong:
        raise TeacherError(
            f"'{path}' does not fit the model: {len(wrong)} keys are missing, unexpected or of another "
            f"shape {wrong[:3]}",
            hint="set teacher.source to the checkpoint's model, and teacher.classes",
        )
    model.load_state_dict({**own, **state})
