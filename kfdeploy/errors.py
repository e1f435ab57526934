"""Every error a user can cause, as one tree.

KfdeployError                exit 1; what happened, the value seen, the values allowed, what to type next
├── UsageError               exit 2; something that was asked for cannot be had
│   ├── RecipeError          an unknown key, a wrong type, a class in two tasks
│   ├── UnsupportedError     a target, a precision or an option that is not there (yet)
│   └── DeviceError          a processor or a precision this machine does not have
├── DataError                a folder, an image or a data set that is not as it should be
├── TeacherError             a checkpoint or an accuracy that does not fit
├── TrainingError            a loss that is not finite, a checkpoint of another recipe
│   └── Interrupted          exit 130; Ctrl-C, with a checkpoint to go on from
├── PoolError                a missing, truncated, altered or foreign file in a pool, an assembly or an artifact
├── UpdateError              an update that is not whole, not trusted, or not for this assembly
├── TaskError                a task that is not there, or is there twice
├── ComposeError             an operator that cannot be put into a bank
├── ParityError              two graphs that should agree and do not
├── OutputError              a place that cannot be written to, or is taken
├── GateError                exit 3; a gate of a benchmark, --fail-if, that fails
├── RemoteError              a device that cannot be reached, or what went wrong on it, with the rows finished there
├── StoreError               a server with pools that cannot be reached, refuses, or breaks off
└── MissingDependencyError   an extra that is not installed, or cannot be loaded
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from kfdeploy.shown import without_secrets


class KfdeployError(Exception):
    """Something the user can mend. The command line prints the message and the hint; nothing else is caught there.

    `what` says what happened with the value seen in it, `allowed` lists what would have been accepted,
    `hint` is the next thing to type. No URL in any of them keeps its password or its query.
    """

    exit_code = 1

    def __init__(self, what: str, *, allowed: Iterable[object] = (), hint: str = "") -> None:
        self.what = without_secrets(what)
        self.allowed = tuple(without_secrets(value) for value in allowed)
        self.hint = without_secrets(hint)
        super().__init__(f"{self.what} (allowed: {', '.join(self.allowed)})" if self.allowed else self.what)


class UsageError(KfdeployError):
    """Something that was asked for cannot be had."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be honoured."""


class UnsupportedError(UsageError):
    """A target, a precision or an option that is not there."""


class DeviceError(UsageError):
    """A processor this machine does not have."""


class DataError(KfdeployError):
    """A folder, an image or a data set that is not as it should be."""


class TeacherError(KfdeployError):
    """A teacher whose weights, classes or accuracy do not fit."""


class TrainingError(KfdeployError):
    """Training that cannot start, go on or be resumed."""


class Interrupted(TrainingError):  # noqa: N818 - it is no mistake of anybody's
    """Training was stopped by Ctrl-C and left a checkpoint."""

    exit_code = 130


class PoolError(KfdeployError):
    """A pool, an assembly or an artifact that is not whole."""


class UpdateError(KfdeployError):
    """An update that is not whole, not trusted, or not for this assembly; or a key that is none."""


class TaskError(KfdeployError):
    """A task that is not in the pool, or is asked for twice."""


class ComposeError(KfdeployError):
    """A template graph with an operator that cannot be put into a bank."""


class ParityError(KfdeployError):
    """Two graphs that should give the same values and do not."""


class OutputError(KfdeployError):
    """A place that cannot be written to, or is taken."""


class RemoteError(KfdeployError):
    """A device that cannot be reached, or on which something went wrong.

    `result` is a benchmark result with the rows that were finished before it, or None.
    """

    def __init__(self, what: str, *, hint: str = "", result: dict[str, Any] | None = None) -> None:
        self.result = result
        super().__init__(what, hint=hint)


class StoreError(KfdeployError):
    """A server with pools that cannot be reached, refuses, or breaks off."""


class MissingDependencyError(KfdeployError):
    """An optional dependency that is not installed, or is and cannot be loaded."""


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, without its colours, or its kind where it says nothing."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", without_secrets(error))
    return next(iter(text.strip().splitlines()), "") or type(error).__name__


def unloaded(error: ImportError, package: str, absent: str, hint: str) -> MissingDependencyError:
    """Return what to raise where importing a package failed: it is not there, or it is and cannot be loaded.

    `absent` and `hint` are what is said in the first case.
    """
    # A module of another name that it lacks is its own fault.
    if isinstance(error, ModuleNotFoundError) and (error.name or package) == package:
        return MissingDependencyError(absent, hint=hint)
    said = first_line(error)
    hint = f"pip install --force-reinstall {package}"
    if "executable stack" in said:  # glibc 2.41 and newer gives none to a library that asks for one when it is loaded
        hint = "GLIBC_TUNABLES=glibc.rtld.execstack=2 kfdeploy …"
    return MissingDependencyError(f"{package} is installed and cannot be loaded: {said}", hint=hint)


TRAINING = ("torch", "torchvision", "timm", "lightning_fabric", "onnxscript", "sklearn")


def require_training(what: str) -> None:
    """Refuse to go on without the `train` extra, before anything is computed.

    Raises:
        MissingDependencyError: one of its packages is not installed.
    """
    for package in TRAINING:
        require(package, "train", what)


def require(package: str, extra: str, what: str) -> None:
    """Refuse to go on without an optional dependency.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(
            f"{what} needs {package}, which is not installed", hint=f'pip install "kfdeploy[{extra}]"'
        )


def listed(names: Iterable[str], most: int = 30) -> list[str]:
    """Return names for a message: of ten thousand, the first and how many more there are."""
    found = list(names)
    return found if len(found) <= most else [*found[: most - 10], f"and {len(found) - most + 10:,} more"]


def nearest(name: str, names: Sequence[str]) -> str:
    """Return "did you mean 'x'?" for the closest of `names`, or an empty string."""
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(name.lower(), list(lowered), n=1)
    # Two letters swapped in a three-letter word are below difflib's cut-off, yet the commonest slip there is.
    if not close:
        close = [candidate for candidate in lowered if sorted(candidate) == sorted(name.lower())][:1]
    return f"did you mean '{lowered[close[0]]}'?" if close else ""


class GateError(KfdeployError):
    """A gate that was asked for is not passed; the command line exits with 3."""

    exit_code = 3
