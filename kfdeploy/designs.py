"""Which design for given tasks: the assembly, or a student masked to them, under a budget or an accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass

from kfdeploy.errors import TaskError, UnsupportedError


@dataclass(frozen=True)
class Design:
    """One way to have some tasks on a device."""

    name: str
    ms: float | None  # single-stream milliseconds that are expected; None: not measured
    accuracy: float  # a share, exactly, of the validation images of these tasks

    def __str__(self) -> str:
        cost = "not measured" if self.ms is None else f"about {self.ms:.3f} ms"
        return f"{self.name}, {cost}, {100 * self.accuracy:.2f} %"


def choose_design(
    designs: Sequence[Design], *, budget_ms: float | None = None, min_accuracy: float | None = None
) -> Design:
    """Return the fastest design that reaches `min_accuracy`, or the most accurate within `budget_ms`.

    Raises:
        TaskError: none meets what is asked; it names the nearest.
        UnsupportedError: a budget was given, and no design's cost is known.
    """
    timed = [design for design in designs if design.ms is not None]
    if budget_ms is not None and not timed:
        raise UnsupportedError("no design's cost is known", hint="kfdeploy benchmark --profile costs.json")
    able = timed if budget_ms is not None else list(designs)

    def misses(design: Design) -> float:
        """By how much it misses what is asked, as a share; 0 where it meets it."""
        late = 0.0 if budget_ms is None else ((design.ms or 0.0) - budget_ms) / max(budget_ms, 1e-9)
        wrong = 0.0 if min_accuracy is None else (min_accuracy - design.accuracy) / max(min_accuracy, 1e-9)
        return max(0.0, late, wrong)

    fit = [design for design in able if misses(design) == 0]
    if not fit:
        limits = [f"{budget_ms:g} ms"] if budget_ms is not None else []
        limits += [f"{100 * min_accuracy:g} %"] if min_accuracy is not None else []
        raise TaskError(
            f"no design meets {' and '.join(limits)} for these tasks; the nearest is {min(able, key=misses)}",
            hint="ask for less, or for fewer tasks",
        )
    if min_accuracy is not None and any(design.ms is not None for design in fit):
        return min((design for design in fit if design.ms is not None), key=lambda design: design.ms or 0.0)
    return max(fit, key=lambda design: design.accuracy)
