"""What an assembly costs on a machine: a common part and a part for each task, measured once.

The model is a line, t(k) = common + k · task; its largest error over the sizes that were measured is part of it.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kfdeploy.deploy.assemble import assemble
from kfdeploy.deploy.export import export
from kfdeploy.deploy.model import Model
from kfdeploy.errors import PoolError, UnsupportedError
from kfdeploy.files import dump_json
from kfdeploy.manifest import SCHEMAS, stamp
from kfdeploy.measuring.rounds import Job, alternating, describe_machine, measure_afresh
from kfdeploy.pool.pool import Pool
from kfdeploy.reading import parse_json, read_named
from kfdeploy.schema import flag, mapping, number, record, require, text, whole
from kfdeploy.targets.device.clock import QUICK, Protocol
from kfdeploy.writing import write_file


@dataclass(frozen=True)
class Costs:
    """Single-stream medians in milliseconds, of one pool on one machine, target, precision and number of threads."""

    pool: str  # sha256 of its manifest
    machine: str
    target: str
    precision: str
    threads: int
    common_ms: float
    task_ms: float
    error: float  # the largest, as a share, over the sizes measured
    points: dict[str, float]  # tasks → ms
    students: dict[str, float]  # name → ms
    quick: bool

    def of(self, tasks: int) -> float:
        """Return the expected milliseconds of an assembly of so many tasks."""
        return self.common_ms + tasks * self.task_ms

    def within(self, budget: float) -> int:
        """Return the most tasks that fit into so many milliseconds."""
        return int(max(0.0, (budget - self.common_ms) / self.task_ms + 1e-9)) if self.task_ms > 0 else 10**9

    def even(self, student: str) -> float:
        """Return the number of tasks at which a student takes as long."""
        return (self.students[student] - self.common_ms) / self.task_ms if self.task_ms > 0 else float("inf")


def profile(
    pool: Pool | str | Path,
    *,
    students: Sequence[str | Path] = (),
    target: str = "onnx",
    precision: str = "fp32",
    threads: int = 1,
    quick: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> Costs:
    """Measure assemblies of several sizes, and students, in alternating rounds of fresh processes; fit the line.

    Raises:
        UnsupportedError: the pool has one task, or the target cannot run here.
    """
    pool = pool if isinstance(pool, Pool) else Pool.open(pool)
    names = [task.name for task in pool.tasks]
    sizes = sorted({k for k in (1, 2, 3, 4, 6, 8, 10, 16, 32, 64, 100) if k < len(names)} | {min(len(names), 100)})
    if len(sizes) < 2:
        raise UnsupportedError(f"'{pool.where}' has one task, and a line needs two points")
    protocol = QUICK if quick else Protocol()
    with tempfile.TemporaryDirectory() as place:
        jobs: dict[str, Job] = {}
        for k in sizes:
            model = assemble(pool, names[:k], Path(place) / str(k))
            made = export(model, target, precision=precision, out=Path(place) / "artifacts")
            if why := made.cannot_run():
                raise UnsupportedError(f"costs are measured, and {why}")
            jobs[str(k)] = Job(str(made.path), "single-stream", threads, 1)
        for path in students:
            student = Model.open(path)
            made = export(student, target, precision=precision, out=Path(place) / "students")
            jobs[f"student {student.name}"] = Job(str(made.path), "single-stream", threads, 1)
        samples: dict[str, list[float]] = {name: [] for name in jobs}
        for number, name in alternating(jobs, protocol.rounds):
            report(f"round {number + 1} of {protocol.rounds}: {name}")
            samples[name] += measure_afresh(jobs[name], protocol).samples
    median = {name: round(float(np.median(times)), 5) for name, times in samples.items()}
    points = {name: ms for name, ms in median.items() if not name.startswith("student ")}
    task, common = (float(v) for v in np.polyfit([int(k) for k in points], list(points.values()), 1))
    error = max(abs(common + int(k) * task - ms) / ms for k, ms in points.items())
    return Costs(
        pool.sha256, describe_machine()["cpu"], target, precision, threads,
        round(common, 5), round(task, 5), round(error, 4), points,
        {name.removeprefix("student "): ms for name, ms in median.items() if name not in points}, quick,
    )  # fmt: skip


def write_costs(path: Path, costs: Costs) -> None:
    """Write costs as JSON."""
    write_file(path, dump_json(stamp("costs") | asdict(costs)))


def read_costs(path: Path, pool: Pool) -> Costs:
    """Read costs, which must be of this pool.

    Raises:
        PoolError: there are none, or they are of another schema or pool.
    """
    hint = f"kfdeploy benchmark --profile {path} --pool {pool.where}"
    found = parse_json(read_named(path, f"there are no costs at '{path}'", hint), str(path), hint=hint)
    wanted = stamp("costs")
    if not isinstance(found, dict) or {key: found.pop(key, None) for key in wanted} != wanted:
        raise PoolError(f"'{path}' holds no costs of schema {SCHEMAS['costs']}", hint=hint)
    if found.get("pool") != pool.sha256:
        raise PoolError(f"'{path}' holds the costs of another pool than '{pool.where}'", hint=hint)
    require(found, _COSTS, path, hint)
    return Costs(**{name: found[name] for name in Costs.__dataclass_fields__})


_MS = number(0, 1e9)
_COSTS = record(
    {
        **dict.fromkeys(("pool", "machine", "target", "precision"), text()),
        "threads": whole(1, 65536), "common_ms": number(-1e9, 1e9), "task_ms": number(-1e9, 1e9), "error": number(0),
        "points": mapping(_MS), "students": mapping(_MS), "quick": flag,
    }
)  # fmt: skip
