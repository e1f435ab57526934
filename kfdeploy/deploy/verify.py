"""Proving an artifact right: golden images through every step from the torch network to the engine, task by task.

torch → ONNX → the precision's ONNX → the engine. Each step is compared with the one before it, so that a failure says
which step failed, and which module is to blame: the CKN, or which task's network.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from kfdeploy.deploy.parity import Verdict, allowed_in, check_atol, compare, judge, require
from kfdeploy.errors import ParityError
from kfdeploy.graph.reference import require_finite, run_joined, tolerance
from kfdeploy.manifest import ARTIFACT, POOL
from kfdeploy.pool.remote.locate import locate
from kfdeploy.tasks.spec import outputs_of

if TYPE_CHECKING:
    from typing import Any

    import numpy as np

    from kfdeploy.deploy.artifact import Artifact
    from kfdeploy.pool.pool import Pool

    Logits = np.ndarray[Any, Any]


def verify(path: str | Path, *, atol: float | None = None, threads: int = 1) -> Verdict:
    """Verify an artifact, an assembly, a student or a pool again: its files' hashes, then its golden samples.

    What is allowed is computed from the golden samples and our own constants; a manifest that allows more is not asked.
    Nothing is written.

    Raises:
        PoolError: a file is missing, truncated or altered, or the manifest does not describe the model.
        ParityError: the difference is above the tolerance.
        UnsupportedError: `atol` is no tolerance.
    """
    from kfdeploy.deploy import artifact, model
    from kfdeploy.pool import pool
    from kfdeploy.targets.base import Setup

    check_atol(atol)
    path = locate(path)
    if isinstance(path, str):  # only pools are read from servers
        verdict = _verify_pool(pool.Pool.open(path), atol, threads)
    elif (path / ARTIFACT).is_file():
        exported = artifact.Artifact.open(path)
        exported.check()
        images, logits, expected = exported.golden()
        _require_expected(exported, logits, expected, atol, f"'{path}'")
        allowed = allowed_in(exported.precision, expected, atol)
        with exported.session(Setup(threads=threads)) as session:
            verdict = compare(
                session, images, expected, exported.tasks, batch=exported.batch, allowed=allowed,
                thresholds=exported.thresholds,
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
                thresholds=network.thresholds,
            )  # fmt: skip
    require(verdict, f"'{path}'")
    return verdict


def _require_expected(
    exported: "Artifact", logits: "Logits", expected: "Logits", atol: float | None, name: str
) -> None:
    """Refuse an artifact whose two records of the golden logits are not of one network.

    Raises:
        ParityError: the torch network's and those of its own ONNX graph are further apart than its steps may be.
    """
    step = "onnx" if exported.precision == "fp32" else exported.precision
    allowed = tolerance(logits) if atol is None else atol
    if step != "onnx":
        allowed += allowed_in(exported.precision, logits, atol)
    require_finite(expected, "the golden logits")
    if logits.shape != expected.shape:
        raise ParityError(f"{name} has golden logits of shapes {logits.shape} and {expected.shape}")
    require(judge(expected, logits, exported.tasks, allowed, step), name)


def _verify_pool(whole: "Pool", atol: float | None, threads: int) -> Verdict:
    """Check every file of a pool, and every task at once against the golden samples."""
    whole.check()
    graph = whole.graph()
    evidence = whole.evidence()
    if not len(evidence.images):
        raise ParityError(f"'{whole.where}' has no golden samples: nothing would be proved", hint="make it again")
    logits = run_joined(graph, evidence.images, outputs_of(whole.tasks), threads=threads)
    allowed = tolerance(evidence.golden) if atol is None else atol
    return judge(logits, evidence.golden, whole.tasks, allowed, "onnx")
