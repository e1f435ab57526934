"""The table of targets. A new one is a module beside this, a line here, and a folder in `export/`."""

from importlib import import_module
from typing import cast

from kfdeploy.errors import MissingDependencyError, UnsupportedError, nearest
from kfdeploy.manifest import versions
from kfdeploy.targets.base import Target

TARGETS = {
    "onnx": "kfdeploy.targets.onnx",
    "openvino": "kfdeploy.targets.openvino",
    "trt": "kfdeploy.targets.tensorrt",
    "mnn": "kfdeploy.targets.mnn",
}
# The files that a model of a target consists of, the graph first: an artifact has these, and its session opens them.
FILES = {
    "onnx": ("model.onnx",),
    "openvino": ("model.xml", "model.bin"),
    "trt": ("model.onnx",),
    "mnn": ("model.mnn",),
}
# The oldest versions that these targets work with; the kits run on these too (on MNN from 3.0 on: its converter is not
# needed there). Older ones were not tried: benchmarks/portability.py.
OLDEST = {"onnxruntime": (1, 15), "openvino": (2023, 3), "MNN": (3, 6)}
# What people type in a target's place.
ALIASES = {"tensorrt": "trt", "onnxruntime": "onnx", "ort": "onnx", "ov": "openvino"}


def state(name: str) -> str:
    """Return a target's state on this machine, with the line that mends it."""
    target = cast(Target, import_module(TARGETS[name]))
    if command := target.missing():
        return f"{target.TITLE} is not installed:  {command}"
    if old := too_old(target):
        return f"{old}:  pip install --upgrade {target.PACKAGE}"
    if why := target.can_run():
        return f"{target.TITLE}: exports, with a kit that builds on the device; not run here, {why}"
    return f"{target.TITLE} {versions(target.PACKAGE).get(target.PACKAGE, '')}, {', '.join(target.GRAPHS)}"


def too_old(target: Target) -> str:
    """Return what is said of a runtime older than this target knows, else an empty string."""
    import re

    seen = versions(target.PACKAGE).get(target.PACKAGE, "")
    oldest = OLDEST.get(target.PACKAGE)
    if oldest is None or not seen or tuple(map(int, re.findall(r"\d+", seen)[:2])) >= oldest:
        return ""
    return f"{target.TITLE} {seen} is too old: target '{target.NAME}' needs {'.'.join(map(str, oldest))} or newer"


def load(name: str, precision: str = "fp32") -> Target:
    """Return a target's module.

    Raises:
        UnsupportedError: there is none of that name, or it does not have that precision.
        MissingDependencyError: its runtime is not installed.
    """
    if name in ALIASES:
        raise UnsupportedError(f"there is no target '{name}'", allowed=TARGETS, hint=f"did you mean '{ALIASES[name]}'?")
    if name not in TARGETS:
        raise UnsupportedError(f"there is no target '{name}'", allowed=TARGETS, hint=nearest(name, list(TARGETS)))
    target = cast(Target, import_module(TARGETS[name]))
    if precision not in target.GRAPHS:
        raise UnsupportedError(
            f"target '{name}' has no precision '{precision}'",
            allowed=target.GRAPHS,
            hint=nearest(precision, list(target.GRAPHS)),
        )
    if command := target.missing():
        raise MissingDependencyError(f"the runtime of target '{name}' is not installed", hint=command)
    if old := too_old(target):
        raise MissingDependencyError(old, hint=f'pip install --upgrade "{target.PACKAGE}"')
    return target
