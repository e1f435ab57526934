"""Saying what a benchmark found, in sentences."""

from collections.abc import Sequence
from typing import Any


def merged(rows: Sequence[dict[str, Any]]) -> bool:
    """Return whether the rows are of several machines."""
    return len({row.get("machine", "") for row in rows}) > 1


def training(row: dict[str, Any]) -> str:
    """Return on how many images a model was trained, and how often it saw each: `30 × 8,522 images`.

    A pool's are spent once, for every assembly it will ever give; separate models' are all of them together.
    """
    found = row.get("training")
    if not isinstance(found, dict) or not {"epochs", "images"} <= set(found):
        return "–"
    numbers = [found["epochs"], found["images"], found.get("models", 1)]
    if not all(isinstance(number, int) for number in numbers):
        return "–"
    text = f"{numbers[0] * numbers[2]:,} × {numbers[1]:,} images"
    return f"{text} (its pool)" if row.get("kind") == "assembly" else text


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
            f"at {points[0]:+.2f} points of accuracy [{points[1]:+.2f}, {points[2]:+.2f}]{_by_field(entry)}"
        )
    found += doubts(result)
    if result["quick"]:
        found.append("This was a quick look: too short for numbers to be quoted.")
    return found


def _by_field(entry: dict[str, Any]) -> str:
    """Return by how much the first is more accurate in each field, where there are several."""
    said = []
    for found in entry.get("fields", ()):
        points = [100 * value for value in (found["accuracy_difference"], *found["accuracy_interval"])]
        said.append(f"{found['field']} {points[0]:+.2f} [{points[1]:+.2f}, {points[2]:+.2f}]")
    return f" on average over {len(said)} fields: {', '.join(said)}" if said else ""


def circumstances(result: dict[str, Any]) -> str:
    """Return on what a benchmark was measured, in one sentence."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name != "torch")
    count = result["rows"][0]["images"] if result["rows"] else 0
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['os']}; Python {machine['python']}, {versions}; "
        f"{result['protocol']['rounds']} alternating rounds of fresh processes; accuracy on {count:,} test images."
    )
