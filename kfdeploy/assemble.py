"""Assembling: a pool and some tasks become one ONNX graph. Numpy and onnx only; no torch, and no tracing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from kfdeploy.errors import ComposeError
from kfdeploy.files import output_folder
from kfdeploy.model import Model, write_model
from kfdeploy.pool import Pool

Fuse = Literal["auto", "bank", "branches"]
FORMS: tuple[Fuse, ...] = ("auto", "bank", "branches")


def assemble(
    pool: Pool | str | Path,
    tasks: Sequence[str],
    out: str | Path = "assembly",
    *,
    fuse: Fuse = "auto",
    force: bool = False,
) -> Model:
    """Assemble `tasks`, in that order, into the folder `out`, proved right on the pool's golden samples.

    Of a pool on a server, `pool.json` travels, and of the graphs and these tasks' files those that the cache has not.
    `fuse` is how the task-specific networks stand in the graph: as one `bank` of grouped convolutions, as `branches`,
    or `auto`: a bank where the template's operators allow it.

    Raises:
        TaskError: a task is unknown or there twice.
        PoolError: a file of the pool is missing, truncated or altered.
        StoreError: the pool's server cannot be reached, refuses, or breaks off.
        ComposeError: `fuse` is `bank`, and an operator cannot be banked.
        ParityError: the graph's numbers are not the torch network's.
        OutputError: `out` is there and `force` is not set, or cannot be written.
    """
    from kfdeploy.compose import Form, compose

    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    chosen = pool.choose(tasks)
    pool.fetch(pool.needs(chosen))
    common, template = pool.graphs()
    parts = [pool.part(task) for task in chosen]
    form: Form = "branches" if fuse == "branches" else "bank"
    try:
        graph = compose(common, template, parts, form)
    except ComposeError:
        if fuse == "bank":
            raise
        form = "branches"
        graph = compose(common, template, parts, form)
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
