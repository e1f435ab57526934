"""A folder to train in, from which an interrupted run goes on."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed as dist

from kfdeploy.data.content import Record
from kfdeploy.errors import OutputError, TrainingError
from kfdeploy.files import CHECKPOINTS, dump_json, load_tensors, save_tensors
from kfdeploy.locks import lock
from kfdeploy.manifest import stamp
from kfdeploy.outputs import check_output, commit, partial
from kfdeploy.outputs import sweep as sweep_beside
from kfdeploy.places import shipped_recipe
from kfdeploy.reading import MOST_TEXT, parse_json, read_named
from kfdeploy.training.loop.processes import world
from kfdeploy.training.loop.progress import is_main
from kfdeploy.training.recipe.recipe import Recipe, changed_keys, completed
from kfdeploy.writing import followed, make_folder, place_errors, write_file

_NOTED = "recipe.json"  # in an unfinished folder: what it is being made from
DATA = "data.safetensors"  # beside a training's log: every image it was made from


@contextmanager
def unfinished(
    out: Path, recipe: Recipe, data: Record, *, force: bool, resume: bool, replace: bool = False, log: str = "train",
    wait: bool = False,
) -> Iterator[Path]:  # fmt: skip
    """Give the folder beside `out` for training in; it becomes `out` when the block ends well.

    `data` is what it is made from, and is put on record in `<log>/data.safetensors`. With `replace`, what is at `out`
    gives way to it, `force` or not. The lock of `out` is held until the block ends.

    It stays for `--resume` when the block fails after a first checkpoint, and vanishes when it fails before.

    Raises:
        OutputError: `out` is there, or an unfinished run is and neither `resume` nor `force` was said; or another
            process writes there and `wait` was not.
        TrainingError: the run to resume had another recipe, or other images.
    """
    out = followed(out)
    work = partial(out)
    if not is_main():  # one process writes: the others wait until the folder is there, and leave it alone
        dist.barrier()
        yield work
        return
    check_output(out, force=force or replace)
    with place_errors(out, "free some space, then go on with --resume"):
        make_folder(out.parent)
    with lock(out, wait=wait):
        check_output(out, force=force or replace)
        sweep_beside(out)
        _begin(work, recipe, data, log, force=force, resume=resume)
        try:
            with place_errors(out, "free some space, then go on with --resume"):
                work.mkdir(parents=True, exist_ok=True)
                save_tensors(work / log / DATA, data.arrays(), stamp("evidence"))
                write_file(work / _NOTED, dump_json(shipped_recipe(recipe.model_dump())))
                if world() > 1:
                    dist.barrier()
                yield work
                commit(work, out)
        except BaseException:
            if not any(work.rglob(CHECKPOINTS)):
                shutil.rmtree(work, ignore_errors=True)
            raise
        # Only now: while the folder is not in its place, they are what it could be finished from.
        sweep(out)


def _begin(work: Path, recipe: Recipe, data: Record, log: str, *, force: bool, resume: bool) -> None:
    """Leave in `work` what an interrupted run can go on from, or nothing."""
    noted = work / _NOTED
    begun = any(work.rglob(CHECKPOINTS))
    if begun and resume and noted.is_file():
        same_recipe(_noted(noted), recipe, f"'{work}' was begun with another recipe")
        same_data(work / log / DATA, data, f"'{work}'")
    elif begun and not force:
        raise OutputError(f"'{work}' holds an unfinished run", hint="go on with --resume, or start afresh with --force")
    elif work.exists():
        if not noted.is_file() and any(work.iterdir()):
            raise OutputError(f"'{work}' was not made by kfdeploy", hint="choose another --out, or remove it by hand")
        shutil.rmtree(work)
    for torn in work.rglob(".*.partial"):  # what was being written when a run was killed
        torn.unlink()


def sweep(out: Path) -> None:
    """Remove from a finished folder what only an unfinished one needs; a run may have been killed before it did."""
    for spent in (out / _NOTED, *out.rglob(CHECKPOINTS)):
        spent.unlink(missing_ok=True)


def _noted(path: Path) -> dict[str, Any]:
    """Return the recipe that a run was begun with.

    Raises:
        TrainingError: it cannot be read.
    """
    hint = "start afresh with --force"
    data = read_named(path, f"'{path}' is missing", hint, error=TrainingError, most=MOST_TEXT)
    found = parse_json(data, str(path), error=TrainingError, hint=hint)
    if not isinstance(found, dict):
        raise TrainingError(f"'{path}' holds no recipe", hint=hint)
    return found


def same_data(path: Path, data: Record, what: str) -> None:
    """Refuse to go on with other images than those on record at `path`.

    Raises:
        TrainingError: with what is new, and what is gone.
    """
    again = "start afresh with --force"
    if not path.is_file():
        raise TrainingError(
            f"which images {what} was begun with is not on record (version 0.1.0 kept none)", hint=again
        )
    if change := Record.of(load_tensors(path)).change(data):
        raise TrainingError(
            f"the images are not those that {what} was begun with: {change}",
            hint=f"put the folder back as it was, or {again}",
        )


# What may change between two sittings: where things are and what is logged, but nothing that is computed.
_MAY_CHANGE = (
    *(f"run.{key}" for key in ("tensorboard", "device", "devices", "threads", "replay", "checkpoint_minutes")),
    "data.root",
    "data.workers",
    "teacher.min_accuracy",
    "students",
)


def same_recipe(before: Mapping[str, Any], recipe: Recipe, what: str) -> None:
    """Refuse to go on with another recipe.

    Raises:
        TrainingError: with the keys that differ.
    """
    after = shipped_recipe(recipe.model_dump())  # files are told by their names: where they lie may change
    if changed := [key for key in changed_keys(shipped_recipe(completed(before)), after) if key not in _MAY_CHANGE]:
        raise TrainingError(
            f"{what}; these keys differ: {', '.join(changed)}", hint="set them back, or start afresh with --force"
        )
