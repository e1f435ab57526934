"""Saying what a benchmark found: sentences, a terminal table, a Markdown table, a plot."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


_COLUMNS: tuple[str, ...] = (
    "model",
    "tasks",
    "target",
    "scenario",
    "batch",
    "threads",
    "p50 ms",
    "p90 ms",
    "images/s",
    "accuracy",
)
_WORDS = ("machine", *_COLUMNS[:4])  # the others are numbers


_COLUMNS += ("kB", "parameters", "trained on")


def columns(result: dict[str, Any]) -> tuple[str, ...]:
    """Return the head of the table: where several machines' results were merged, they come first."""
    return ("machine", *_COLUMNS) if merged(result["rows"]) else _COLUMNS


def merged(rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether the rows are of several machines."""
    return len({row.get("machine", "") for row in rows}) > 1


def training(row: dict[str, Any]) -> str:
    """Return on how many images a model was trained, each counted as often as it was seen.

    A pool's are spent once, for every assembly it will ever give; separate models' are all of them together.
    """
    found = row.get("training")
    if not isinstance(found, dict) or not {"epochs", "images"} <= set(found):
        return "–"
    numbers = [found["epochs"], found["images"], found.get("models", 1)]
    if not all(isinstance(number, int) for number in numbers):
        return "–"
    count = numbers[0] * numbers[1] * numbers[2]
    text = f"{count / 1e6:.2f} M" if count >= 1e5 else f"{count:,}"
    return f"{text} (its pool)" if row.get("kind") == "assembly" else text


def cells(row: dict[str, Any], *, machine: bool = False) -> list[str]:
    """Return one row of a table as text, its machine first if asked; a row with a `reason` was not measured."""
    tasks = ", ".join(row["tasks"]) if len(row["tasks"]) <= 3 else f"{len(row['tasks'])} tasks"
    latency = row.get("latency_ms")
    return [
        *([str(row.get("machine", ""))] if machine else []),
        f"{row['kind']} {row['name']}" if row["kind"] != row["name"] else row["name"],
        tasks,
        f"{row['target']} {row['precision']}",
        row["scenario"],
        str(row["batch"]),
        str(row["threads"]),
        f"{latency['p50']:.3f}" if latency else "–",
        f"{latency['p90']:.3f}" if latency else "–",
        f"{row['throughput']:,.0f}" if latency else "–",
        f"{100 * row['accuracy']:.2f} %" if row["accuracy"] is not None else "not measured",
        f"{row['bytes'] / 1000:,.0f}",
        f"{row['parameters']:,}",
        training(row),
    ]


def doubts(result: dict[str, Any]) -> list[str]:
    """Return a sentence for each row that was not measured, or that was measured while the machine was noisy."""
    found = []
    for row in result["rows"]:
        where = f"{row['machine']}, " if merged(result["rows"]) else ""
        where += f"{row['name']}, {row['target']} {row['precision']}, {row['scenario']}, threads {row['threads']}"
        if "reason" in row:
            found.append(f"not measured: {where}: {row['reason']}")
        elif row.get("noise"):
            found.append(f"noisy: {where}: {'; '.join(row['noise'])}")
    return found


def sentences(result: dict[str, Any]) -> list[str]:
    """Return each comparison as a sentence; "faster" is said only if the interval excludes 1."""
    found = []
    for entry in result["comparisons"]:
        low, high = entry["interval"]
        ratio = entry["p50_ratio"]
        if high < 1:
            speed = f"is {1 / ratio:.2f}× faster than"
        elif low > 1:
            speed = f"is {ratio:.2f}× slower than"
        else:
            speed = "is neither faster nor slower than"
        points = [100 * value for value in (entry["accuracy_difference"], *entry["accuracy_interval"])]
        where = f"{entry['machine']}, " if merged(result["rows"]) and "machine" in entry else ""
        found.append(
            f"{where}{entry['target']} {entry['precision']}, {entry['scenario']}, threads {entry['threads']}: "
            f"{entry['a']} {speed} {entry['b']} (latency ratio {ratio:.3f}, 95 % interval [{low:.3f}, {high:.3f}]), "
            f"at {points[0]:+.2f} points of accuracy [{points[1]:+.2f}, {points[2]:+.2f}]"
        )
    found += doubts(result)
    if result["quick"]:
        found.append("This was a quick look: too short for numbers to be quoted.")
    return found


def table(result: dict[str, Any]) -> "Table":
    """Return a table for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    out = Table(title="benchmark (a quick look)" if result["quick"] else "benchmark")
    head, several = columns(result), merged(result["rows"])
    for name in head:
        out.add_column(name, justify="left" if name in _WORDS else "right", overflow="fold")
    for row in result["rows"]:
        out.add_row(*(escape(cell) for cell in cells(row, machine=several)))  # a task's name may look like markup
    return out


def markdown(result: dict[str, Any]) -> str:
    """Return a Markdown table with its circumstances below."""
    head, several = columns(result), merged(result["rows"])
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join("---" if name in _WORDS else "--:" for name in head) + "|"]
    lines += ["| " + " | ".join(cells(row, machine=several)) + " |" for row in result["rows"]]
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name != "torch")
    count = result["rows"][0]["images"] if result["rows"] else 0
    circumstances = (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['os']}; Python {machine['python']}, {versions}; "
        f"{result['protocol']['rounds']} alternating rounds of fresh processes; accuracy on {count:,} test images."
    )
    lines += ["", circumstances, "", *(f"- {sentence}" for sentence in sentences(result))]
    return "\n".join(lines) + "\n"
