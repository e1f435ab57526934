"""Which way to have some tasks on a device: the assembly or a plain student, by accuracy and by cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from kfdeploy.errors import TaskError, UnsupportedError


@dataclass(frozen=True)
class Design:
    """One way to have some tasks on a device."""

    name: str
    ms: float | None  # single-stream milliseconds that are expected; None: not measured
    accuracy: float  # a share, exactly, of the validation images of these tasks; of several fields the mean
    fields: tuple[float, ...] = ()  # of several fields each one's accuracy

    @property
    def least(self) -> float:
        """The accuracy of the field that has the least."""
        return min(self.fields or (self.accuracy,))

    def __str__(self) -> str:
        cost = "not measured" if self.ms is None else f"about {self.ms:.3f} ms"
        least = f" on average, {100 * self.least:.2f} % in its least field" if self.fields else ""
        return f"{self.name}, {cost}, {100 * self.accuracy:.2f} %{least}"


def choose_design(
    designs: Sequence[Design], *, budget_ms: float | None = None, min_accuracy: float | None = None
) -> Design:
    """Return the fastest design that reaches `min_accuracy` in every field, or the most accurate within `budget_ms`.

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
        wrong = 0.0 if min_accuracy is None else (min_accuracy - design.least) / max(min_accuracy, 1e-9)
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


@dataclass(frozen=True)
class Candidate:
    """What may go onto a device for some tasks: its accuracy on their validation images, and what an image costs."""

    name: str
    accuracy: float  # a share; of several fields the mean
    multiplications: int
    fields: tuple[float, ...] = ()  # of several fields each one's accuracy, in one order for all candidates

    def no_less_than(self, other: "Candidate") -> bool:
        """Return whether it is as accurate as another in every field."""
        pairs = zip(self.fields or (self.accuracy,), other.fields or (other.accuracy,), strict=True)
        return all(mine >= its for mine, its in pairs)


def plain_words(assembly: Candidate, students: Sequence[Candidate]) -> str:
    """Say whether a plain student is the better choice for just these tasks, or by how much the assembly is cheaper.

    The cheapest student that is no less accurate, in any field, is what the assembly is held against.
    """
    if not students:
        return ""
    able = [student for student in students if student.no_less_than(assembly)]
    rival = min(able or students, key=lambda s: s.multiplications if able else -s.accuracy)
    ratio = assembly.multiplications / rival.multiplications
    own, other = (each.multiplications / 1e6 for each in (assembly, rival))
    fewer = f"{max(ratio, 1 / ratio):.2f}× fewer multiplications"
    none, every = (" in any field", " in every field") if assembly.fields else ("", "")
    if able and ratio >= 1:
        return (
            f"{rival.name} is no less accurate here{none}, with {fewer} ({other:.1f} against {own:.1f} million an "
            "image): for these tasks alone a plain student is the better choice"
        )
    counts = f"{own:.1f} against {other:.1f} million an image"
    if able:
        return f"the assembly needs {fewer} than {rival.name}, which is no less accurate{none} ({counts})"
    unlike = f"no student is as accurate{every}"
    if ratio < 1:
        return f"{unlike}, and the assembly needs {fewer} than the nearest, {rival.name} ({counts})"
    return f"{unlike}; the nearest, {rival.name}, needs {fewer} ({other:.1f} against {own:.1f} million)"
