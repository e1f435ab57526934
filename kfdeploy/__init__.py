"""kfdeploy: factorize one teacher into a pool of parts, assemble any subset of its tasks, export and measure it.

The public names load on first use, so that importing the package loads neither torch nor a runtime.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from kfdeploy.artifact import Artifact
    from kfdeploy.assemble import assemble
    from kfdeploy.benchmark import benchmark
    from kfdeploy.distill import distill
    from kfdeploy.errors import KfdeployError
    from kfdeploy.export import export
    from kfdeploy.factorize import factorize
    from kfdeploy.inspect import inspect
    from kfdeploy.model import Model
    from kfdeploy.pool import Pool
    from kfdeploy.predict import predict
    from kfdeploy.recipe import Recipe, load_recipe
    from kfdeploy.spec import ImageSpec, TaskSpec
    from kfdeploy.verify import verify

_HOME = {
    "Artifact": "artifact",
    "ImageSpec": "spec",
    "KfdeployError": "errors",
    "Model": "model",
    "Pool": "pool",
    "Recipe": "recipe",
    "TaskSpec": "spec",
    "assemble": "assemble",
    "benchmark": "benchmark",
    "distill": "distill",
    "export": "export",
    "factorize": "factorize",
    "inspect": "inspect",
    "load_recipe": "recipe",
    "predict": "predict",
    "verify": "verify",
}

__all__ = [
    "Artifact",
    "ImageSpec",
    "KfdeployError",
    "Model",
    "Pool",
    "Recipe",
    "TaskSpec",
    "assemble",
    "benchmark",
    "distill",
    "export",
    "factorize",
    "inspect",
    "load_recipe",
    "predict",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kfdeploy' has no attribute '{name}'")
    return getattr(import_module(f"kfdeploy.{_HOME[name]}"), name)


class _Package(ModuleType):
    """Keeps `kfdeploy.assemble` the function: importing the module of that name would put itself in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if name not in _HOME:
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
