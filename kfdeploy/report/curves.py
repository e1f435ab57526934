"""The report's charts of what a benchmark may hold besides: the stages of an image, and the break-even."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from kfdeploy.report.scale import (
    COLOURS,
    SHAPES,
    Axis,
    Strip,
    below,
    beside,
    chart,
    legend,
    line,
    mark,
    strips,
    written,
)
from kfdeploy.report.words import Row, esc, figures, how, inner, listed, model, number


def stages(rows: Sequence[Row]) -> str:
    """Return how long an image takes in each stage, a bar a row."""
    told = {i: {k: v for k, v in inner(row, "stages_ms").items() if (number(v) or 0) > 0} for i, row in enumerate(rows)}
    told = {i: parts for i, parts in told.items() if parts}
    if not told:
        return ""
    names = list(dict.fromkeys(name for parts in told.values() for name in parts))
    axis = Axis(0.0, max(sum(parts.values()) for parts in told.values()))
    lines = []
    for i, parts in told.items():
        drawn, start = "", 0.0
        for name, value in parts.items():
            said = f"{model(rows[i])}, {how(rows[i])}\n{name}: {value:,.4g} ms of {sum(parts.values()):,.4g} ms"
            drawn += (
                f'<g class="point s{names.index(name) % COLOURS}" tabindex="0" role="img"><title>{esc(said)}</title>'
                f'<rect class="mark" x="{axis.at(start)}%" y="6" width="{axis.at(value)}%" height="18"/></g>'
            )
            start += value
        lines.append(
            Strip(model(rows[i]), drawn, f"{figures(start)}", f"{how(rows[i])}, {rows[i].get('scenario', '')}")
        )
    keys = legend([(name, "", i) for i, name in enumerate(names)])
    return strips("Where an image's time goes", lines, axis, "ms an image", 30, keys)


def break_even(result: Mapping[str, Any]) -> str:
    """Return latency over the number of tasks, and from how many tasks on each student is faster."""
    given = inner(result, "break_even")
    models = {str(name): values for name, values in inner(given, "models").items() if isinstance(values, list)}
    curves = {
        name: [(size, y) for size, y in zip(listed(given, "sizes"), values, strict=False) if number(size) and number(y)]
        for name, values in models.items()
    }
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    sizes = sorted({x for points in curves.values() for x, _ in points})
    x_axis = Axis.around(sizes, room=0.04, least=0.0)
    y_axis = Axis(0.0, 1.12 * max(y for points in curves.values() for _, y in points))
    shapes, body = list(SHAPES), below(x_axis) + beside(y_axis)
    said = []
    for name, k in inner(given, "k").items():
        many = number(k)
        said.append(
            f"{name} is faster from {written(many)} tasks on" if many else f"{name} is faster at none of these sizes"
        )
        if many and x_axis.low <= many <= x_axis.high:
            body += line(x_axis.at(many), "0", x_axis.at(many), "100%", "one")
    for i, (name, points) in enumerate(curves.items()):
        at = [(x_axis.at(x), round(100 - y_axis.at(y), 2)) for x, y in points]
        lines = "".join(line(a[0], f"{a[1]}%", b[0], f"{b[1]}%", "curve") for a, b in itertools.pairwise(at))
        body += f'<g class="s{i % COLOURS}">{lines}</g>'
        for (x, y), (size, value) in zip(at, points, strict=True):
            body += mark(x, y, shapes[i % 4], i, f"{name}\n{written(size)} tasks: {figures(value)} ms (p50)")
    text = f"<p>{esc('; '.join(said))}.</p>" if said else ""
    return (
        f'{text}<figure class="plane"><figcaption>Latency over the number of tasks</figcaption>'
        '<p class="unit">p50, ms</p>'
        + chart(body, "latency over the number of tasks", 300)
        + '<p class="unit x">tasks</p>'
        + legend([(name, shapes[i % 4], i) for i, name in enumerate(curves)])
        + "</figure>\n"
    )
