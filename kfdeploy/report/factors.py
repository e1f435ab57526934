"""Saying and drawing what an inspection found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return what an inspection says, a line each."""
    cka, probe = np.array(found["cka"]), np.array(found["probe"])
    lines = []
    K = len(found["tasks"])
    if K > 1:
        apart = cka[1:, 1:][~np.eye(K, dtype=bool)]
        own, others = probe[1:].diagonal(), probe[1:][~np.eye(K, dtype=bool)]
        lines += [
            f"alike:       linear CKA of two tasks' networks {apart.mean():.3f} on average, {apart.max():.3f} at most; "
            f"of one and the common network {cka[0, 1:].mean():.3f} on average",
            f"knows:       a linear probe for a task reads {100 * own.mean():.1f} % off its own network, "
            f"{100 * others.mean():.1f} % off another's, {100 * probe[0].mean():.1f} % off the common one "
            "(balanced accuracy)",
        ]
    calibration = found["calibration"]
    lines.append(
        f"calibration: expected error {calibration['error']:.4f} over {calibration['subsets']} subsets "
        f"(at most {calibration['largest_error']:.4f}), {found['coupling']} tasks"
    )
    terms = found["training"].get("terms", {})
    if "bottleneck" in terms:
        lines.append(
            f"information: {terms['infomax']:.3f} nats shared with the teacher at least (InfoMax), "
            f"{terms['bottleneck']:.1f} nats through the bottlenecks at most, over {K} tasks"
        )
    return lines


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw both matrices as heat maps, as a PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    from kfdeploy.report.picture import new_figure, save_figure

    rows, tasks = found["factors"], found["tasks"]
    size = min(16.0, 3.2 + 0.45 * len(rows))
    figure = new_figure(2 * size, size, 120)
    panels = (("linear CKA on test", "cka", rows), ("a linear probe's balanced accuracy on test", "probe", tasks))
    for number, (title, key, columns) in enumerate(panels):
        axes = figure.add_subplot(1, 2, number + 1)
        values = np.array(found[key])
        shown = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_title(title)
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylabel("features of")
        axes.set_xlabel("features of" if key == "cka" else "probe for the task")
        if len(rows) <= 14:
            for (i, j), value in np.ndenumerate(values):
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="w" if value < 0.6 else "k", fontsize=8)
        figure.colorbar(shown, ax=axes)
    save_figure(figure, path)
