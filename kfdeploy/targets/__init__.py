"""The table of targets. A new one is a module beside this, a line here, and a folder in `export/`."""

from importlib import import_module
from typing import cast

from kfdeploy.errors import MissingDependencyError, UnsupportedError, nearest
from kfdeploy.targets.base import Target

TARGETS = {"onnx": "kfdeploy.targets.onnx", "openvino": "kfdeploy.targets.openvino"}
PLANNED = {"trt": "TensorRT"}


def state(name: str) -> str:
    """Return a target's state on this machine, with the line that mends it."""
    from kfdeploy.pool import versions

    target = cast(Target, import_module(TARGETS[name]))
    if command := target.missing():
        return f"{target.TITLE} is not installed:  {command}"
    return f"{target.TITLE} {versions(target.PACKAGE).get(target.PACKAGE, '')}, {', '.join(target.PRECISIONS)}"


def load(name: str, precision: str = "fp32") -> Target:
    """Return a target's module.

    Raises:
        UnsupportedError: there is none of that name, or it does not have that precision.
        MissingDependencyError: its runtime is not installed.
    """
    if name in PLANNED:
        raise UnsupportedError(
            f"target '{name}' ({PLANNED[name]}) is not there yet", allowed=TARGETS, hint="kfdeploy export --target onnx"
        )
    if name not in TARGETS:
        raise UnsupportedError(f"there is no target '{name}'", allowed=TARGETS, hint=nearest(name, list(TARGETS)))
    target = cast(Target, import_module(TARGETS[name]))
    if precision not in target.PRECISIONS:
        there = " is not there yet" if precision in ("fp16", "int8", "auto") else " is unknown"
        raise UnsupportedError(
            f"precision '{precision}' of target '{name}'{there}",
            allowed=target.PRECISIONS,
            hint=f"kfdeploy export --target {name} --precision {target.PRECISIONS[0]}",
        )
    if command := target.missing():
        raise MissingDependencyError(f"the runtime of target '{name}' is not installed", hint=command)
    return target
