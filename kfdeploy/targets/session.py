"""The one family of sessions: a target's kit runs the model, here and on the device."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from kfdeploy.arrays import Arrays
from kfdeploy.errors import DeviceError, KfdeployError, PoolError, first_line, unloaded
from kfdeploy.targets.base import Setup
from kfdeploy.targets.kits import kits


class KitSession:
    """The session of a target's device kit, so that one code runs a model here and there.

    It is the installed kit's: an artifact is data, and no code of it is run here.
    """

    def __init__(self, kit: str, folder: Path, options: Any, setup: Setup) -> None:
        self.kit, self.folder, self.options, self.setup = kit, folder, options, setup
        self.gpu = False
        self.inner: Any = None

    def __enter__(self) -> "KitSession":
        manifest = {"options": asdict(self.options), "precision": self.options.precision}
        module = _module(self.kit)
        try:
            with told(self.folder):
                self.inner = module.Session(self.folder, manifest, self.setup.threads, self.setup.scenario)
        except ImportError as error:
            package = module.VERSIONS[0]
            raise unloaded(error, package, f"{package} is not installed", f"pip install {package}") from None
        self.gpu, self._outputs = self.inner.gpu, self.inner.outputs
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self.inner, "close"):
            self.inner.close()
        self.inner = self._outputs = None

    def run(self, inputs: Arrays) -> Arrays:
        """Run the model; the arrays returned belong to the caller.

        Raises:
            DeviceError: the kit gave up.
            PoolError: it cannot read the model's file.
        """
        with told(self.folder):
            found: Arrays = self._outputs(inputs["image"])
        return found

    def synchronize(self) -> None:
        """Do nothing: `run` returns when its outputs are there."""


class NotTakenError(PoolError, ValueError):
    """What was given to a model is not what it takes: a mistake of the caller's, or of the model's folder."""


@contextmanager
def told(folder: Path | None = None) -> Iterator[None]:
    """Turn what a kit says when it gives up, and what its runtime raises over a model in `folder`, into our errors."""
    try:
        yield
    except SystemExit as stopped:
        raise _ours(stopped) from None
    except (KfdeployError, ImportError, AssertionError):
        raise
    except Exception as error:  # each runtime has classes of its own, and all of them mean that the model is none
        if folder is None:
            raise
        kind = NotTakenError if isinstance(error, ValueError) else PoolError
        raise kind(
            f"the model in '{folder}' cannot be run: {first_line(error)[:300]}",
            hint="copy it again, or export anew",
        ) from error


def _ours(stopped: SystemExit) -> KfdeployError:
    what, _, hint = str(stopped.code).partition("\nhint:  ")
    kind = PoolError if " cannot read " in what else DeviceError  # a damaged file is no fault of the device
    return kind(what.removeprefix("error: "), hint=hint)


@cache
def _module(kit: str) -> ModuleType:
    path = kits() / kit / "session.py"
    spec = importlib.util.spec_from_file_location(f"kfdeploy_kit_{kit}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
