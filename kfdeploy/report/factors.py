"""Saying, drawing and tabulating what an inspection found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kfdeploy.report import tables, words

# What each measure of disentanglement is called, in the order of the columns.
_MEASURES = {
    "mig": "MIG", "sap": "SAP", "disentanglement": "disentangled", "completeness": "complete",
    "informativeness": "informative", "factor_vae": "FactorVAE",
}  # fmt: skip
_CALIBRATION = {"subsets": 0, "error": 4, "largest_error": 4, "accuracy": 4}  # decimals
_HINT = (
    "1 is best, except for SAP, whose lines do not tell all values of a factor apart. MIG and SAP ask for it in a "
    "single code, so they compare on codes of one number a task alone."
)
_TREES = {"forest": "a random forest", "gbt": "gradient boosting"}
_CODES = {"tasks": "tasks (all networks side by side)", "each": "each (a component a task)",
          "common": "common (the common network)"}  # fmt: skip


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return what an inspection says, a line each."""
    cka, probe = np.array(found["cka"], float), np.array(found["probe"], float)  # None: not a number
    lines = []
    K = len(found["tasks"])
    if K > 1:
        other = ~np.eye(K, dtype=bool)
        apart = cka[1 : K + 1, 1 : K + 1][other]
        own, others = probe[1 : K + 1].diagonal(), probe[1 : K + 1][other]
        lines += [
            f"alike:       linear CKA of two tasks' networks {apart.mean():.3f} on average, {apart.max():.3f} at most; "
            f"of one and the common network {cka[0, 1 : K + 1].mean():.3f} on average",
            f"knows:       a linear probe for a task reads {_percent(own)} off its own network, "
            f"{_percent(others)} off another's, {_percent(probe[0])} off the common one (balanced accuracy)",
        ]
    for row, name in enumerate(found["factors"][K + 1 :], K + 1):
        rest = [f"{cka[row, i]:.3f} with {found['factors'][i]}" for i in range(K + 1, len(cka)) if i != row]
        told = [f"{cka[row, 0]:.3f} with the common network", *rest]
        lines.append(
            f"beside:      {name}: linear CKA {cka[row, 1 : K + 1].mean():.3f} with a task's network on average, "
            f"{', '.join(told)}; a probe reads {_percent(probe[row])} off it"
        )
    for row in found.get("disentanglement", []):
        lines.append(
            f"apart:       {row['codes']}, {row['D']} codes on {row['N']:,} images: MIG {row['mig']:.3f}, SAP "
            f"{row['sap']:.3f}, FactorVAE {row['factor_vae']:.3f}; DCI by {_TREES[row['trees']]} "
            f"{row['disentanglement']:.3f} disentangled, {row['completeness']:.3f} complete, "
            f"{row['informativeness']:.3f} informative"
        )
    calibration = found["calibration"]
    if calibration["subsets"]:
        within = f" within {len(calibration['fields'])} fields" if "fields" in calibration else ""
        lines.append(
            f"calibration: expected error {calibration['error']:.4f} over {calibration['subsets']} subsets{within} "
            f"(at most {calibration['largest_error']:.4f})" + ("" if within else f", {found['coupling']} tasks")
        )
    terms = found["training"].get("terms", {})
    if "bottleneck" in terms:
        lines.append(
            f"information: {terms['infomax']:.3f} nats shared with the teacher at least (InfoMax), "
            f"{terms['bottleneck']:.1f} nats through the bottlenecks at most, over {K} tasks"
        )
    return lines


def _percent(shares: Any) -> str:
    known = shares[~np.isnan(shares)]
    return f"{100 * known.mean():.1f} %" if known.size else "nothing that is known"


def section(inspection: Mapping[str, Any]) -> str:
    """Return an inspection as HTML: heat maps, tables of disentanglement and calibration; what it lacks is left out."""
    factors, asked = words.listed(inspection, "factors"), words.listed(inspection, "tasks")

    def matrix(key: str) -> dict[str, list[object]]:
        found = words.listed(inspection, key)
        return {str(name): row for name, row in zip(factors, found, strict=False) if isinstance(row, list)}

    html = tables.heat("Linear CKA on test: how alike two factors' features are", factors, matrix("cka"))
    html += tables.heat(
        "Balanced accuracy on test of a linear probe for a task (column) on a factor's features (row)",
        asked, matrix("probe"), low=None,
    )  # fmt: skip
    apart = disentanglement(inspection).html()
    html += apart + (f'<p class="hint">{words.esc(_HINT)}</p>\n' if apart else "")
    found = words.inner(inspection, "calibration")
    fields = words.inner(found, "fields")
    if not fields:
        return html + (tables.facts("Calibration of random subsets", found).html() if found else "")
    whole = {"all": found} | {name: words.inner(fields, name) for name in fields}
    cells = [[name, *(words.figures(words.number(about.get(key)), digits) for key, digits in _CALIBRATION.items())]
             for name, about in whole.items()]  # fmt: skip
    head = ["field", *(key.replace("_", " ") for key in _CALIBRATION)]
    return html + tables.Table("Calibration of random subsets of each field's classes", head, cells).html()


def disentanglement(inspection: Mapping[str, Any]) -> tables.Table:
    """Return the table of disentanglement, a row for each set of codes; without rows where none was measured."""
    rows = [row for row in words.listed(inspection, "disentanglement") if isinstance(row, dict)]
    names = list(dict.fromkeys(str(name) for row in rows for name in words.listed(row, "factors")))
    trees = list(dict.fromkeys(_TREES.get(str(row.get("trees")), str(row.get("trees"))) for row in rows))
    caption = (
        f"Disentanglement on test of the factors {', '.join(names)}; how disentangled, complete and informative codes "
        f"are (DCI) by {' and by '.join(trees)}"
    )
    cells = [
        [
            _CODES.get(str(row.get("codes")), str(row.get("codes"))),
            *(words.figures(words.number(row.get(key)), 0) for key in ("D", "N")),
            *(words.figures(words.number(row.get(key)), 3) for key in _MEASURES),
        ]
        for row in rows
    ]
    return tables.Table(caption, ["codes", "D", "images", *_MEASURES.values()], cells)


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
        values = np.array(found[key], float)  # None: not a number
        shown = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_title(title)
        axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylabel("features of")
        axes.set_xlabel("features of" if key == "cka" else "probe for the task")
        if len(rows) <= 14:
            for i, j in np.argwhere(~np.isnan(values)).tolist():
                value = values[i, j]
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="w" if value < 0.6 else "k", fontsize=8)
        figure.colorbar(shown, ax=axes)
    save_figure(figure, path)
