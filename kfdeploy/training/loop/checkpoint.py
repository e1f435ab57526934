"""Checkpoints: written beside and renamed, the last two kept, a truncated one skipped."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from kfdeploy.errors import TrainingError, first_line
from kfdeploy.files import CHECKPOINTS
from kfdeploy.reading import ReadingError, check_archive, open_regular
from kfdeploy.training.loop.progress import Progress
from kfdeploy.writing import replacing

FORMAT = 2
KEPT = 2
_AFRESH = "start afresh with --force"


def save(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write the checkpoint of a step, and remove all but the last two.

    Raises:
        TrainingError: the disk is full or cannot be written; older checkpoints stay.
    """
    path = folder / f"checkpoint-{step:09}.pt"
    try:
        with replacing(path) as stream:
            torch.save({"format": FORMAT, **state}, stream)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise TrainingError(
            f"the checkpoint '{path}' cannot be written: {first_line(error)}",
            hint="free some space, then go on with --resume",
        ) from None
    for old in sorted(folder.glob(CHECKPOINTS))[:-KEPT]:
        old.unlink(missing_ok=True)


def load(folder: Path, same: Mapping[str, Any], report: Progress) -> Mapping[str, Any] | None:
    """Return the newest checkpoint that can be read (None: there is none at all).

    `same` names what must be as it was, such as the number of threads, because results depend on it.

    Raises:
        TrainingError: it is of another version or another machine's setting, or none can be read.
    """
    found = sorted(folder.glob(CHECKPOINTS), reverse=True)
    for path in found:
        try:
            with open_regular(path) as stream:
                check_archive(stream)
                state: Mapping[str, Any] = torch.load(stream, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or not isinstance(state.get("same", {}), dict):
                raise ReadingError("it is no checkpoint")
        except Exception as error:  # a truncated archive, a foreign pickle: all mean the same to the user
            report.note(f"the checkpoint '{path}' cannot be read and is skipped: {first_line(error)}")
            continue
        if state.get("format") != FORMAT:
            raise TrainingError(
                f"the checkpoint '{path}' is of format {state.get('format')}, this version reads {FORMAT}",
                hint=_AFRESH,
            )
        for name, value in same.items():
            if state.get("same", {}).get(name) != value:
                raise TrainingError(
                    f"the checkpoint '{path}' was made with {name} {state.get('same', {}).get(name)}, and this run has "
                    f"{value}: its sums would be rounded otherwise",
                    hint=f"go back to {name} {state.get('same', {}).get(name)}, or {_AFRESH}",
                )
        return state
    if found:
        raise TrainingError(f"none of the {len(found)} checkpoints in '{folder}' can be read", hint=_AFRESH)
    return None
