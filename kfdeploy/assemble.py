"""Assembling: a pool and some tasks become one ONNX graph. Numpy and onnx only; no torch, and no tracing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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

    `fuse` is how the task-specific networks stand in the graph: as one `bank` of grouped convolutions, as `branches`,
    or `auto`: a bank where the template's operators allow it. With `open_set`, a rate of false accepts, the graph has a
    second output `known` (N,), at least 0 for an image that is of these tasks; see `kfdeploy.openset`.

    Raises:
        TaskError: a task is unknown or there twice; or `open_set`, and no class is left out to be told from.
        PoolError: a file of the pool is missing, truncated or altered; or `open_set`, without validation logits.
        ComposeError: `fuse` is `bank`, and an operator cannot be banked.
        ParityError: the graph's numbers are not the torch network's.
        OutputError: `out` is there and `force` is not set, or cannot be written.
    """
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    chosen = pool.choose(tasks)
    graph, form = graph_of(pool, chosen, fuse)
    evidence, fields = pool.evidence(chosen), {}
    if open_set is not None:
        found = choose_threshold(evidence, class_names(chosen), open_set)
        add_known(graph, found.threshold)
        fields["open_set"] = found.to_json() | {"threshold": found.threshold}
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


def graph_of(pool: Pool, tasks: Sequence[TaskSpec], fuse: Fuse = "auto") -> "tuple[ModelProto, Form]":
    """Return the graph image → logits of some tasks, and the form it has.

    Raises:
        PoolError: a file of the pool is missing, truncated or altered.
        ComposeError: `fuse` is `bank`, and an operator cannot be banked.
    """
    from kfdeploy.compose import compose

    common, template = pool.graphs()
    parts = [pool.part(task) for task in tasks]
    if fuse == "branches":
        return compose(common, template, parts, "branches"), "branches"
    try:
        return compose(common, template, parts, "bank"), "bank"
    except ComposeError:
        if fuse == "bank":
            raise
        return compose(common, template, parts, "branches"), "branches"
