"""Assembling: a pool and some tasks become one ONNX graph. Numpy and onnx only; no torch, and no tracing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kfdeploy.errors import ComposeError
from kfdeploy.files import output_folder
from kfdeploy.model import Model, write_model
from kfdeploy.pool import Pool
from kfdeploy.spec import TaskSpec

if TYPE_CHECKING:
    from onnx import ModelProto

    from kfdeploy.compose import Form

Fuse = Literal["auto", "bank", "branches"]
FORMS: tuple[Fuse, ...] = ("auto", "bank", "branches")


def compose_tasks(pool: Pool, tasks: Sequence[TaskSpec], form: "Form") -> "ModelProto":
    """Return the graph of some tasks of a pool: what `assemble` writes, and what a device makes of an update.

    Raises:
        PoolError: a file of the pool is missing, truncated or altered.
        ComposeError: the form is `bank`, and an operator cannot be banked.
    """
    from kfdeploy.compose import compose

    common, template = pool.graphs()
    return compose(common, template, [pool.part(task) for task in tasks], form)


def assemble(
    pool: Pool | str | Path,
    tasks: Sequence[str],
    out: str | Path = "assembly",
    *,
    fuse: Fuse = "auto",
    force: bool = False,
) -> Model:
    """Assemble `tasks`, in that order, into the folder `out`, proved right on the pool's golden samples.

    `fuse` is how the task-specific networks stand in the graph: as one `bank` of grouped convolutions, as `branches`,
    or `auto`: a bank where the template's operators allow it.

    Raises:
        TaskError: a task is unknown or there twice.
        PoolError: a file of the pool is missing, truncated or altered.
        ComposeError: `fuse` is `bank`, and an operator cannot be banked.
        ParityError: the graph's numbers are not the torch network's.
        OutputError: `out` is there and `force` is not set, or cannot be written.
    """
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    chosen = pool.choose(tasks)
    form: Form = "branches" if fuse == "branches" else "bank"
    try:
        graph = compose_tasks(pool, chosen, form)
    except ComposeError:
        if fuse == "bank":
            raise
        form = "branches"
        graph = compose_tasks(pool, chosen, form)
    out = Path(out)
    with output_folder(out, force=force) as work:
        pool.write_part(chosen, work / "parts")
        provenance = {"pool": {"name": pool.manifest["name"], "sha256": pool.sha256}}
        write_model(
            work,
            graph,
            "assembly",
            out.name,
            pool.image,
            chosen,
            pool.evidence(chosen),
            {"provenance": provenance, "fuse": form, "data": pool.manifest["recipe"]["data"]},
        )
    return Model.open(out)
