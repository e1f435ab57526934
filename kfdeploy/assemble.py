"""Assembling: a pool and some tasks become one ONNX graph. Numpy and onnx only; no torch, and no tracing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kfdeploy.errors import ComposeError
from kfdeploy.files import output_folder
from kfdeploy.model import Model, write_model
from kfdeploy.openset import add_known
from kfdeploy.openset import open_set as choose_threshold
from kfdeploy.pool import Pool
from kfdeploy.spec import TaskSpec, class_names

if TYPE_CHECKING:
    from onnx import ModelProto

    from kfdeploy.compose import Form

Fuse = Literal["auto", "bank", "branches"]
FORMS: tuple[Fuse, ...] = ("auto", "bank", "branches")


def compose_tasks(pool: Pool, tasks: Sequence[TaskSpec], form: "Form", threshold: float | None = None) -> "ModelProto":
    """Return the graph of some tasks of a pool: what `assemble` writes, and what a device makes of an update.

    With a `threshold` it has the output `known` of `kfdeploy.openset`.

    Raises:
        PoolError: a file of the pool is missing, truncated or altered.
        ComposeError: the form is `bank`, and an operator cannot be banked.
    """
    from kfdeploy.compose import compose

    common, template = pool.graphs()
    graph = compose(common, template, [pool.part(task) for task in tasks], form)
    return graph if threshold is None else add_known(graph, threshold)


def assemble(
    pool: Pool | str | Path,
    tasks: Sequence[str],
    out: str | Path = "assembly",
    *,
    fuse: Fuse = "auto",
    open_set: float | None = None,
    force: bool = False,
) -> Model:
    """Assemble `tasks`, in that order, into the folder `out`, proved right on the pool's golden samples.

    Of a pool on a server, `pool.json` travels, and of the graphs and these tasks' files those that the cache has not.
    `fuse` is how the task-specific networks stand in the graph: as one `bank` of grouped convolutions, as `branches`,
    or `auto`: a bank where the template's operators allow it. With `open_set`, a rate of false accepts, the graph has a
    second output `known` (N,), at least 0 for an image that is of these tasks; see `kfdeploy.openset`.

    Raises:
        TaskError: a task is unknown or there twice; or `open_set`, and no class is left out to be told from.
        PoolError: a file of the pool is missing, truncated or altered; or `open_set`, without validation logits.
        StoreError: the pool's server cannot be reached, refuses, or breaks off.
        ComposeError: `fuse` is `bank`, and an operator cannot be banked.
        ParityError: the graph's numbers are not the torch network's.
        OutputError: `out` is there and `force` is not set, or cannot be written.
    """
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    chosen = pool.choose(tasks)
    pool.fetch(pool.needs(chosen))
    evidence, threshold = pool.evidence(chosen), None
    fields: dict[str, Any] = {}
    if open_set is not None:
        found = choose_threshold(evidence, class_names(chosen), open_set)
        threshold = found.threshold
        fields["open_set"] = found.to_json() | {"threshold": threshold}
    graph, form = graph_of(pool, chosen, fuse, threshold)
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
            evidence,
            {"provenance": provenance | fields, "fuse": form, "data": pool.manifest["recipe"]["data"], **fields},
        )
    return Model.open(out)


def graph_of(
    pool: Pool, tasks: Sequence[TaskSpec], fuse: Fuse = "auto", threshold: float | None = None
) -> "tuple[ModelProto, Form]":
    """Return `compose_tasks` and the form it has: a bank where that was asked for, or can be.

    Raises:
        PoolError: a file of the pool is missing, truncated or altered.
        ComposeError: `fuse` is `bank`, and an operator cannot be banked.
    """
    if fuse == "branches":
        return compose_tasks(pool, tasks, "branches", threshold), "branches"
    try:
        return compose_tasks(pool, tasks, "bank", threshold), "bank"
    except ComposeError:
        if fuse == "bank":
            raise
        return compose_tasks(pool, tasks, "branches", threshold), "branches"
