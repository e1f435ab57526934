"""Weights to begin from: people's checkpoints, or a pool's common network; and what to say where they misfit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kfdeploy.errors import RecipeError, TeacherError, first_line
from kfdeploy.reading import check_archive, check_tensors, open_regular
from kfdeploy.training.nets.build import build, describe
from kfdeploy.training.nets.layers import Backbone
from kfdeploy.training.recipe import nets

HEADS = ("linear", "fc", "head", "classifier")  # what published checkpoints call the last layer
_KINDS = (".safetensors", ".pt", ".pth", ".th", ".ckpt", ".bin")
Shapes = Mapping[str, tuple[int, ...]]


def read_weights(path: Path, what: str = "teacher", key: str = "teacher.source = 'file:<path>'") -> dict[str, Tensor]:
    """Read a checkpoint's weights as float32, taken out of what wraps them (`model_state_dict`, `module.`, …).

    Nothing in it is executed.

    Raises:
        TeacherError: the file is missing, of another kind, or holds more than tensors.
    """
    if not path.is_file():
        there = "are" if what.endswith("s") else "is"
        raise TeacherError(f"there {there} no {what} at '{path}'", hint=f"set {key}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            check_tensors(path)
            state = load_file(path)
        elif path.suffix in _KINDS:
            with open_regular(path) as stream:
                check_archive(stream)
                state = torch.load(stream, map_location="cpu", weights_only=True)
        else:
            raise TeacherError(f"'{path}' is of an unknown kind '{path.suffix}'", allowed=_KINDS)
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


def shapes_of(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return each weight's shape, without counters of batches, which older checkpoints lack."""
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


def misfit(
    own: Shapes, given: Shapes, origin: str, what: str, candidates: Callable[[], Iterator[tuple[str, Shapes]]] | None
) -> tuple[str, str]:
    """Say in what the weights `given` differ from a net's `own`: a sentence and a hint, both empty where they fit.

    The hint names the nearest of `candidates`, each a text and its shapes, where one has nine tenths of the weights.
    """
    missing = [name for name in own if name not in given]
    strange = [name for name in given if name not in own]
    shapes = [name for name in own if name in given and own[name] != given[name]]
    if not (missing or strange or shapes):
        return "", ""
    parts = []
    for names, told in ((missing, "missing"), (strange, "not the net's")):
        if names:
            parts.append(f"{len(names)} {'are' if len(names) > 1 else 'is'} {told} ({_some(names)})")
    if shapes:
        each = [f"{name}: {_shape(given[name])} for {_shape(own[name])}" for name in shapes]
        parts.append(f"{len(shapes)} {'have' if len(shapes) > 1 else 'has'} another shape ({_some(each)})")
    text = f"'{origin}' does not fit {what}: of its {len(own)} tensors " + ", ".join(parts)
    best, most = "", 0.0
    for name, shape in candidates() if candidates else ():
        if shape == own:
            continue
        share = sum(given.get(key) == value for key, value in shape.items()) / max(len(shape), len(given))
        if share > most:
            best, most = name, share
    return text, f"it fits {best}" if most == 1 else f"the nearest is {best}" if most >= 0.9 else ""


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:2]) + (", …" if len(names) > 2 else "")


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"


def own_nets(channels: int, given: Shapes) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    """Give the usual members of our families, each as a recipe's text and the shapes of its backbone's weights.

    A family of whose first member nothing is among the names that were `given` is passed over.
    """
    resnets: list[nets.Net] = []
    for width in (16, 8, 32, 64):
        for shortcut in ("A", "projection"):
            for depth in (8, 14, 20, 32, 44, 56) if width == 16 else (8, 14, 20):
                resnets.append(nets.CifarResNet(family="cifar_resnet", depth=depth, width=width, shortcut=shortcut))
    large: list[nets.Net] = []
    mobile: list[nets.Net] = []
    for stem in ("image", "cifar"):
        large += [nets.ResNet(family="resnet", depth=depth, stem=stem) for depth in (18, 34)]
        mobile += [nets.MobileNetV2(family="mobilenetv2", width=w, stem=stem) for w in (1.0, 0.5, 1.4, 0.25)]
    sizes = (16, 2), (16, 4), (28, 10), (40, 2)
    wide: list[nets.Net] = [nets.WideResNet(family="wide_resnet", depth=d, width=w) for d, w in sizes]
    with torch.device("meta"):
        for family in (resnets, large, mobile, wide):
            for kind in family:
                shapes = shapes_of(build(kind, channels).state_dict())
                if not shapes.keys() & given.keys():
                    break
                told = ", ".join(f"{key} = {value!r}" for key, value in kind.model_dump(exclude_defaults=True).items())
                yield f"{describe(kind)}: {{ {told} }}", shapes


def start_from(backbone: Backbone, net: nets.Net, channels: int, what: str) -> dict[str, Any]:
    """Give a backbone the weights that its section of the recipe names, in place; return what they are.

    `what` is the net in words. A checkpoint's last layer is left out. Without `weights` nothing happens.

    Raises:
        RecipeError: they are not there, or do not fit.
    """
    if not net.weights:
        return {}
    kind, _, place = net.weights.partition(":")
    if kind == "pool":
        from kfdeploy.pool.pool import Pool

        pool = Pool.open(place)
        name = "train/state.safetensors"
        if not pool.has(name):
            raise RecipeError(
                f"the pool '{place}' has no '{name}', which holds its common network", hint="name a whole pool"
            )
        arrays = pool.tensors(name)
        prefix = "net.ckn."
        state = {k.removeprefix(prefix): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(prefix)}
        about = {"pool": pool.name, "sha256": pool.sha256}
    else:
        from kfdeploy.files import sha256

        try:
            state = read_weights(Path(net.weights), "weights", "weights to a checkpoint, or to 'pool:<folder>'")
        except TeacherError as error:
            raise RecipeError(str(error), hint=error.hint) from None
        about = {"file": Path(net.weights).name, "sha256": sha256(Path(net.weights))}
        if isinstance(net, nets.Timm):
            _fill_timm(backbone, net, channels, state, what)
            return about
    own = backbone.state_dict()
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if key in own or not _is_head(key)}
    text, hint = misfit(
        shapes_of(own), shapes_of(state), net.weights, what, lambda: own_nets(channels, shapes_of(state))
    )
    if text:
        raise RecipeError(text, hint=hint or "name the net that the weights are of")
    backbone.load_state_dict({**own, **state})
    return about


def _is_head(key: str) -> bool:
    return key.split(".")[0] in HEADS


def _fill_timm(backbone: Any, net: nets.Timm, channels: int, state: dict[str, Tensor], what: str) -> None:
    """Load a whole classifier's checkpoint into its `features_only` form, as timm loads its own."""
    import timm

    with torch.device("meta"):
        whole = timm.create_model(net.model, in_chans=channels, **net.args)
    head = {f"{name}." for name in _names(whole.default_cfg.get("classifier", ""))}
    own = {k: v for k, v in shapes_of(whole.state_dict()).items() if not k.startswith(tuple(head))}
    given = {k: v for k, v in shapes_of(state).items() if not k.startswith(tuple(head))}
    text, hint = misfit(own, given, net.weights, what, lambda: timm_nets(net.model, channels, net.args))
    if text:
        raise RecipeError(text, hint=hint or "name the model that the weights are of")
    made = timm.create_model(
        net.model, pretrained=True, features_only=True, in_chans=channels,
        pretrained_cfg_overlay={"state_dict": state, "num_classes": _classes(state, head)}, **net.args,
    )  # fmt: skip
    backbone.net.load_state_dict(made.state_dict())


def _names(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _classes(state: Mapping[str, Tensor], head: set[str]) -> int:
    return next((len(v) for k, v in state.items() if k.startswith(tuple(head))), 1000) if head else 1000


def timm_nets(name: str, channels: int, args: Mapping[str, Any]) -> Iterator[tuple[str, Shapes]]:
    """Give the models of timm of the same family, by name, without building their weights."""
    import timm

    family = name.partition("_")[0]
    for other in [model for model in timm.list_models() if model.startswith(family) and model != name][:24]:
        try:
            with torch.device("meta"):
                yield other, shapes_of(timm.create_model(other, in_chans=channels, **args).state_dict())
        except (RuntimeError, TypeError, ValueError, NotImplementedError):  # it has not these arguments, or needs data
            continue


def torchvision_nets(name: str) -> Iterator[tuple[str, Shapes]]:
    """Give the classifiers of torchvision of the same family, by name, without building their weights."""
    from torchvision import models

    family = name.partition("_")[0].rstrip("0123456789")
    for other in [model for model in models.list_models(models) if model.startswith(family) and model != name]:
        with torch.device("meta"):
            yield other, shapes_of(models.get_model(other, weights=None).state_dict())
