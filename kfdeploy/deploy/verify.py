"""Proving an artifact right: golden images through every step from the torch network to the engine, task by task.

torch → ONNX → the precision's ONNX → the engine. Each step is compared with the one before it, so that a failure says
which step failed, and which module is to blame: the CKN, or which task's network.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from kfdeploy.deploy.parity import Verdict, compare, judge, require
from kfdeploy.graph.reference import run, tolerance
from kfdeploy.manifest import ARTIFACT, POOL
from kfdeploy.pool.remote.locate import locate

if TYPE_CHECKING:
    from kfdeploy.pool.pool import Pool


def verify(path: str | Path, *, atol: float | None = None, threads: int = 1) -> Verdict:
    """Verify an artifact, an assembly, a student or a pool again: its files' hashes, then its golden samples.

    Raises:
        PoolError: a file is missing, truncated or altered.
        ParityError: the difference is above the tolerance.
    """
    from kfdeploy.deploy import artifact, model
    from kfdeploy.pool import pool
    from kfdeploy.targets.base import Setup

    path = locate(path)
    if isinstance(path, str):  # only pools are read from servers
        verdict = _verify_pool(pool.Pool.open(path), atol, threads)
    elif (path / ARTIFACT).is_file():
        exported = artifact.Artifact.open(path)
        exported.check()
        images, _, expected = exported.golden()
        allowed = exported.proof["engine_tolerance"] if atol is None else atol
        with exported.session(Setup(threads=threads)) as session:
            verdict = compare(
                session, images, expected, exported.tasks, batch=exported.batch, allowed=allowed,
                threshold=exported.threshold,
            )  # fmt: skip
    elif (path / POOL).is_file():
        verdict = _verify_pool(pool.Pool.open(path), atol, threads)
    else:
        from kfdeploy.targets import onnx

        network = model.Model.open(path)
        network.check()
        evidence = network.evidence()
        with onnx.open(network.path, onnx.Options(), Setup(threads=threads)) as session:
            verdict = compare(
                session, evidence.images, evidence.golden, network.tasks, allowed=atol, step="onnx",
                threshold=network.threshold,
            )  # fmt: skip
    require(verdict, f"'{path}'")
    return verdict


def _verify_pool(whole: "Pool", atol: float | None, threads: int) -> Verdict:
    """Check every file of a pool, and every task at once against the golden samples."""
    whole.check()
    graph = whole.graph()
    evidence = whole.evidence()
    logits = run(graph, evidence.images, threads=threads)["logits"]
    allowed = tolerance(evidence.golden) if atol is None else atol
    return judge(logits, evidence.golden, whole.tasks, allowed, "onnx")
