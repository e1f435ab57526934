"""kfdeploy: factorize one teacher into a pool of parts, assemble any subset of its tasks, export and measure it.

The public names load on first use, so that importing the package loads neither torch nor a runtime.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kfdeploy import quiet as _quiet  # noqa: F401 - before anything that would report home

if TYPE_CHECKING:
    from kfdeploy.deploy.artifact import Artifact
    from kfdeploy.deploy.assemble import assemble
    from kfdeploy.deploy.export import export
    from kfdeploy.deploy.model import Model
    from kfdeploy.deploy.predict import predict
    from kfdeploy.deploy.verify import verify
    from kfdeploy.errors import KfdeployError
    from kfdeploy.measuring.benchmark import benchmark
    from kfdeploy.measuring.factors.inspect import inspect
    from kfdeploy.pool.pool import Pool
    from kfdeploy.tasks.spec import ImageSpec, TaskSpec
    from kfdeploy.training.distill import distill
    from kfdeploy.training.factorize import factorize
    from kfdeploy.training.recipe.recipe import Recipe, load_recipe


_HOME = {
    "Artifact": "deploy.artifact",
    "ImageSpec": "tasks.spec",
    "KfdeployError": "errors",
    "Model": "deploy.model",
    "Pool": "pool.pool",
    "Recipe": "training.recipe.recipe",
    "TaskSpec": "tasks.spec",
    "assemble": "deploy.assemble",
    "benchmark": "measuring.benchmark",
    "distill": "training.distill",
    "export": "deploy.export",
    "factorize": "training.factorize",
    "inspect": "measuring.factors.inspect",
    "load_recipe": "training.recipe.recipe",
    "predict": "deploy.predict",
    "verify": "deploy.verify",
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
