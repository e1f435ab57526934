"""The report's charts, as SVG that needs no script: accuracy over latency, distributions, stages, break-even."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kfdeploy.measuring.answer import front
from kfdeploy.measuring.intervals import wilson
from kfdeploy.report.scale import COLOURS, SHAPES, Axis, Strip, below, beside, chart, legend, line, mark, strips
from kfdeploy.report.words import (
    Row,
    about,
    by_setting,
    by_subject,
    comparisons,
    esc,
    field_names,
    fields,
    figures,
    how,
    latency,
    listed,
    model,
    number,
    share,
    subject,
)

_BINS = 120
_UNFOLDED = 3


def series(rows: Sequence[Row]) -> dict[str, int]:
    """Return the number, and so the colour, of each target and precision: the same in every chart of a page."""
    return {name: i for i, name in enumerate(dict.fromkeys(how(row) for row in rows))}


def pareto(rows: Sequence[Row]) -> str:
    """Return accuracy over latency, a plot for each subject and setting; rows without either are left out."""
    colours = series(rows)
    plots: dict[tuple[str, ...], str] = {}
    for held, scored in by_subject([row for row in rows if latency(row) is not None]).items():
        start = sum(plot.count("<figure") for plot in plots.values())  # a number for each plot of the page
        settings = by_setting(scored).items()
        plots[held] = "".join(_plane(name, some, colours, start + i) for i, (name, some) in enumerate(settings))
    return _subjects(plots)


def _subjects(html: Mapping[tuple[str, ...], str]) -> str:
    """Return each subject's part under its name; of many subjects, those after the third are folded away."""
    if len(html) < 2:
        return "".join(html.values())
    found = ""
    for i, (held, part) in enumerate(html.items()):
        name = ", ".join(held)
        folded = f"<details><summary>{esc(name)}</summary>{part}</details>\n"
        found += f"<h3>{esc(name)}</h3>\n{part}" if i < _UNFOLDED else folded
    return found


def _plane(name: str, rows: list[Row], colours: Mapping[str, int], place: int) -> str:
    points = [(latency(row) or 1.0, 100 * row["accuracy"]) for row in rows]
    tails = [latency(row, "p90") or x for row, (x, _) in zip(rows, points, strict=True)]
    x_axis = Axis.around([*(x for x, _ in points), *tails], log=True)
    y_axis = Axis.around([y for _, y in points], room=0.14)
    here = list(dict.fromkeys(how(row) for row in rows))
    groups = [("all", points)] + [
        (str(colours[one]), [point for row, point in zip(rows, points, strict=True) if how(row) == one]) for one in here
    ]
    fronts = ""
    for key, some in groups:
        hidden = "" if key == "all" else " hidden"
        fronts += (
            f'<g class="front" data-front="{key}"{hidden}>{_stairs([some[i] for i in front(some)], x_axis, y_axis)}</g>'
        )
    labels = _labels(
        [(x_axis.at(x), 100 - y_axis.at(y)) for x, y in points], [str(row.get("name", "")) for row in rows]
    )
    marks = ""
    for row, (x, y), tail, label in zip(rows, points, tails, labels, strict=True):
        down = round(100 - y_axis.at(y), 2)
        whisker = line(x_axis.at(x), f"{down}%", x_axis.at(tail), f"{down}%", "tail")
        kind = str(row.get("kind"))
        marks += mark(x_axis.at(x), down, kind, colours[how(row)], about(row), more=whisker, label=label)
    seen = {kind if (kind := str(row.get("kind"))) in SHAPES else "other" for row in rows}
    kinds = [kind for kind in SHAPES if kind in seen]
    keys: list[tuple[str, str, int | None]] = [(kind, kind, None) for kind in kinds]
    keys += [(one, "", colours[one]) for one in here]
    choice = ""
    if len(here) > 1:
        buttons = "".join(
            f'<label><input type="radio" name="show-{place}" value="{value}"{" checked" if value == "all" else ""}>'
            f"<span>{esc(text)}</span></label>"
            for value, text in [("all", "all"), *((str(colours[one]), one) for one in here)]
        )
        choice = f'<fieldset class="show"><legend>Show</legend>{buttons}</fieldset>'
    body = f"{below(x_axis)}{beside(y_axis)}{fronts}\n{marks}"
    return (
        f'<figure class="plane"><figcaption>{esc(name)}</figcaption>{choice}'
        f'<p class="unit">accuracy{", mean of the fields" if field_names(rows) else ""}, %</p>'
        + chart(body, f"accuracy over latency, {name}", 330)
        + '<p class="unit x">latency of a run, ms (mark: p50, line to p90)</p>'
        + f"{legend(keys)}</figure>\n"
    )


def _stairs(points: Sequence[tuple[float, float]], x_axis: Axis, y_axis: Axis) -> str:
    at = [(x_axis.at(x), round(100 - y_axis.at(y), 2)) for x, y in points]
    found = [line(at[0][0], "100%", at[0][0], f"{at[0][1]}%", "step")]
    for i, (x, y) in enumerate(at):
        to, up = at[i + 1] if i + 1 < len(at) else (100.0, y)
        found += [line(x, f"{y}%", to, f"{y}%", "step"), line(to, f"{y}%", to, f"{up}%", "step")]
    return "".join(found)


def _labels(at: Sequence[tuple[float, float]], names: Sequence[str]) -> list[str]:
    """Return names for the points that have room for one: on a phone, or else (class "roomy") on a wide screen."""
    found = ["" for _ in names]
    for width, kind in ((300, "label"), (640, "label roomy")):
        taken = [(x, y, x, y) for x, y in at]  # boxes in percent; every mark is one
        taken += [_box(*at[i], name, width) for i, name in enumerate(names) if found[i]]
        for i, (x, y) in enumerate(at):
            left, up, right, down = _box(x, y, names[i], width)
            clash = any(
                a < right and left < c and b < down and up < d for j, (a, b, c, d) in enumerate(taken) if j != i
            )
            if found[i] or clash or names[i] == "":
                continue
            side = 'x="-11" text-anchor="end"' if x > 55 else 'x="11"'
            found[i] = f'<text class="{kind}" {side} y="-9">{esc(names[i])}</text>'
            taken.append((left, up, right, down))
    return found


def _box(x: float, y: float, name: str, width: int) -> tuple[float, float, float, float]:
    long = 100 * (7 * len(name) + 12) / width
    return (x - long, y - 8, x - 1, y + 1) if x > 55 else (x + 1, y - 8, x + long, y + 1)


def ratios(result: Mapping[str, Any]) -> str:
    """Return every comparison's latency ratio with its interval, beside the line at 1."""
    entries = comparisons(result)
    if not entries:
        return ""
    axis = Axis.around([1.0, *(value for entry in entries for value in entry["interval"])], log=True)
    several = len({subject(entry) for entry in entries}) > 1
    one = line(axis.at(1.0), "0", axis.at(1.0), "100%", "one")
    rows = []
    for entry in entries:
        (low, high), ratio = entry["interval"], entry["p50_ratio"]
        drawn = line(axis.at(low), "50%", axis.at(high), "50%", "interval")
        said = f"{entry['a']} and {entry['b']}\nlatency ratio {ratio:.3f}\n95 % interval [{low:.3f}, {high:.3f}]"
        kind = "certain" if high < 1 or low > 1 else "open"
        drawn = f'<g class="{kind}">{one}{mark(axis.at(ratio), 50, "assembly", 0, said, more=drawn)}</g>'
        where = f"{entry['target']} {entry['precision']}, {entry['scenario']}, threads {entry['threads']}"
        if several:
            where = f"{', '.join(subject(entry))}; {where}"
        points = f"{100 * entry['accuracy_difference']:+.2f} points"
        rows.append(Strip(f"{entry['a']} / {entry['b']}", drawn, f"{ratio:.3f} · {points}", where))
    return strips(
        "Latency of the first over latency of the second: left of 1 the first is faster", rows, axis, "ratio · accuracy"
    )


def distributions(rows: Sequence[Row]) -> str:
    """Return every sample of every row: a histogram, p50, p90, and each round's median."""
    colours, found = series(rows), ""
    for name, some in by_setting(rows).items():
        samples = [(row, rounds) for row in some if (rounds := _rounds(row))]
        if not samples:
            continue
        whole = [np.concatenate(rounds) for _, rounds in samples]
        # The slowest runs of all would press everything else together.
        axis = Axis.around(
            [float(v) for each in whole for v in (each.min(), np.percentile(each, 99.5))], log=True, room=0.02
        )
        edges = np.geomspace(axis.low, axis.high, _BINS + 1)
        lines = [
            _spread(row, rounds, each, axis, edges, colours[how(row)])
            for (row, rounds), each in zip(samples, whole, strict=True)
        ]
        found += strips(name, lines, axis, "p50 · p90, ms a run", 46)
    return found


def _rounds(row: Row) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    given = listed(row, "samples_ms")
    rounds = given if any(isinstance(each, list) for each in given) else [given]
    kept = [
        [v for each in some if (v := number(each)) is not None and v > 0] for some in rounds if isinstance(some, list)
    ]
    return [np.array(some) for some in kept if some]


def _spread(row: Row, rounds: Sequence[Any], samples: Any, axis: Axis, edges: Any, colour: int) -> Strip:
    counts, _ = np.histogram(samples, edges)
    heights = 30 * counts / max(1, counts.max())
    steps = "".join(f"V{30 - h:.1f}H{i + 1}" for i, h in enumerate(heights))
    shape = (
        f'<svg y="4" width="100%" height="30" viewBox="0 0 {_BINS} 30" preserveAspectRatio="none">'
        f'<path class="hill" d="M0 30{steps}V30z"/></svg>'
    )
    p50 = latency(row) or float(np.median(samples))
    p90 = latency(row, "p90") or float(np.percentile(samples, 90))
    marks = "".join(
        line(at, "0", at, "38", kind)
        for value, kind in ((p50, "p50"), (p90, "p90"))
        for at in [min(axis.at(value), 100.0)]
    )
    dots = "".join(f'<circle class="dot" cx="{axis.at(float(np.median(some)))}%" cy="41" r="2.5"/>' for some in rounds)
    beyond = int((samples > axis.high).sum())
    lines = [about(row), f"{len(samples):,} samples in {len(rounds)} rounds, not thinned"]
    lines += [f"{beyond:,} are beyond the right edge, up to {samples.max():,.3f} ms"] if beyond else []
    title = f"<title>{esc(chr(10).join(lines))}</title>"
    hit = '<rect class="hit" width="100%" height="46"/>'
    drawn = f'<g class="point s{colour % COLOURS}" tabindex="0" role="img">{title}{hit}{shape}{marks}{dots}</g>'
    return Strip(model(row), drawn, f"{figures(p50)} · {figures(p90)}", how(row))


def accuracies(rows: Sequence[Row]) -> str:
    """Return each model's accuracy with the 95 % interval that its number of images leaves (Wilson 1927)."""
    colours = series(rows)
    found = {}
    for name, scored in by_subject(rows).items():
        each = field_names(scored)
        found[name] = _scores(scored, colours, f", mean of {len(each)} fields" if each else "")
        for field in each:
            own = [{**row, **fields(row)[field], "fields": []} for row in scored if field in fields(row)]
            found[name] += _scores(own, colours, f" in {field}")
    return _subjects(found)


def _scores(rows: Sequence[Row], colours: Mapping[str, int], of: str = "") -> str:
    models = {(model(row), how(row), row["accuracy"]): row for row in reversed(rows)}
    spans = {key: wilson(row["accuracy"], number(row.get("images"))) for key, row in models.items()}
    axis = Axis.around([100 * value for span in spans.values() for value in span])
    lines = []
    for key, row in reversed(models.items()):
        low, high = (axis.at(100 * value) for value in spans[key])
        more = line(low, "50%", high, "50%", "interval")
        drawn = mark(axis.at(100 * row["accuracy"]), 50, str(row.get("kind")), colours[how(row)], about(row), more=more)
        lines.append(Strip(key[0], drawn, share(row["accuracy"]), key[1]))
    return strips(f"Accuracy of each model{of}, with the 95 % interval of its number of images", lines, axis, "%", 28)
