"""Assembling: a pool and some tasks become one ONNX graph. Numpy and onnx only; no torch, and no tracing."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kfdeploy.deploy.model import Model, serialize, write_model
from kfdeploy.manifest import PARTS
from kfdeploy.outputs import check_not_read, output_folder
from kfdeploy.pool.pool import Fuse, Pool
from kfdeploy.tasks.openset import described, open_sets, thresholds_of
from kfdeploy.tasks.spec import together


def assemble(
    pool: Pool | str | Path,
    tasks: Sequence[str],
    out: str | Path = "assembly",
    *,
    fuse: Fuse = "auto",
    open_set: float | None = None,
    force: bool = False,
    wait: bool = False,
) -> Model:
    """Assemble `tasks`, in that order, into the folder `out`, proved right on the pool's golden samples.

    Tasks of one field come beside each other, and a field is one output: `logits` for `class`, else the field's name.
    Of a pool on a server, `pool.json` travels, and of the graphs and these tasks' files those that the cache has not.
    `fuse` is how the task-specific networks stand in the graph: as one `bank` of grouped convolutions, as `branches`,
    or `auto`: a bank where the template's operators allow it. With `open_set`, a rate of false accepts, the graph
    has an output `known` (N,), at least 0 for an image that is of these tasks, beside that of each field of which a
    class is left out; see `kfdeploy.tasks.openset`.

    Raises:
        TaskError: a task is unknown or there twice; or `open_set`, and no class is left out to be told from.
        PoolError: a file of the pool is missing, truncated or altered; or `open_set`, without validation logits.
        StoreError: the pool's server cannot be reached, refuses, or breaks off.
        ComposeError: `fuse` is `bank`, and an operator cannot be banked.
        ParityError: the graph's numbers are not the torch network's.
        OutputError: `out` is there and `force` is not set, another process writes there and `wait` is not, or the
            place cannot be written.
    """
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    chosen = together(pool.choose(tasks))
    pool.fetch(pool.needs(chosen))
    evidence = pool.evidence(chosen)
    fields: dict[str, Any] = {}
    if open_set is not None:
        fields["open_set"] = described(open_sets(evidence, chosen, open_set), chosen)
    graph, form = pool.fused(chosen, fuse, thresholds_of(fields.get("open_set"), chosen))
    out = Path(out)
    check_not_read(out, pool.place.folder)
    with output_folder(out, force=force, wait=wait) as work:
        pool.write_part(chosen, work / PARTS)
        provenance = {"pool": {"name": pool.name, "sha256": pool.sha256}}
        write_model(
            work,
            graph,
            "assembly",
            out.name,
            pool.image,
            chosen,
            evidence,
            {"provenance": provenance | fields, "fuse": form, "data": pool.data, **fields},
        )
    return Model.open(out)


def recompose(parts: Pool, about: Mapping[str, Any], wanted: str) -> bytes | None:
    """Return the bytes of `model.onnx` that follow from an assembly's parts and what its `assembly.json` says.

    They have the hash `wanted`, as this version of kfdeploy composes a graph, or as 0.1.0 did; else there are none.
    """
    tasks = together(parts.choose([entry["name"] for entry in about["tasks"]]))
    for first in (False, True):
        graph = parts.graph(tasks, about["fuse"], thresholds_of(about.get("open_set"), tasks), first=first)
        data = serialize(graph, about)
        if hashlib.sha256(data).hexdigest() == wanted:
            return data
    return None
