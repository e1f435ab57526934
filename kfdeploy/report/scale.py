"""Axes in percent: a chart is as wide as its place, and its text and marks keep their size on a phone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kfdeploy.report.words import esc

# Each about 12 pixels wide, around (0, 0).
SHAPES = {
    "assembly": "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z",
    "student": "M-5.5-5.5h11v11h-11z",
    "teacher": "M0-7L6.7 5.5H-6.7z",
    "other": "M0-7.6L7.6 0L0 7.6L-7.6 0z",
}
COLOURS = 8  # as many as page.css has


@dataclass(frozen=True)
class Axis:
    """From values to percent of a plot's width or height."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Sequence[float], *, log: bool = False, room: float = 0.08, least: float = -math.inf
    ) -> "Axis":
        """Return an axis that holds all values, and a little more; nothing below `least`, which there is none of."""
        low, high = min(values), max(values)
        if log:
            pad = max((high / low) ** room, 1.02)
            return cls(low / pad, high * pad, True)
        pad = (high - low) * room or abs(high) * room or 1.0
        return cls(max(low - pad, min(low, least)), high + pad)

    def at(self, value: float) -> float:
        """Return where a value lies, in percent from the low end."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(100 * (value - low) / (high - low), 2)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round numbers to write at the axis, `most` of them or fewer."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for leading in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
                found = [lead * 10.0**decade for decade in decades for lead in leading]
                found = [tick for tick in found if self.low <= tick <= self.high]
                if 3 <= len(found) <= most:
                    return found
        rough = (self.high - self.low) / most
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(lead * unit for lead in (1, 2, 2.5, 5, 10) if lead * unit >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [i * step for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def written(tick: float) -> str:
    """Return a tick's number."""
    return f"{tick:.6g}"


def line(x1: float, y1: str, x2: float, y2: str, kind: str) -> str:
    """Return a line; x in percent."""
    return f'<line class="{kind}" x1="{x1}%" y1="{y1}" x2="{x2}%" y2="{y2}"/>'


def below(axis: Axis, marks: bool = True) -> str:
    """Return an axis' grid lines and, below the plot, its numbers."""
    text = '<text class="tick" x="{}%" y="100%" dy="18" text-anchor="middle">{}</text>'
    return "".join(
        line(at, "0", at, "100%", "grid") + (text.format(at, written(tick)) if marks else "")
        for tick in axis.ticks()
        for at in [axis.at(tick)]
    )


def beside(axis: Axis) -> str:
    """Return an axis' grid lines and, left of the plot, its numbers."""
    return "".join(
        f'<line class="grid" x1="0" y1="{at}%" x2="100%" y2="{at}%"/>'
        f'<text class="tick" x="0" y="{at}%" dx="-8" dy="4" text-anchor="end">{written(tick)}</text>'
        for tick in axis.ticks()
        for at in [round(100 - axis.at(tick), 2)]
    )


def mark(x: float, y: float, shape: str, series: int, about: str, *, more: str = "", label: str = "") -> str:
    """Return a point that can be reached with the keyboard and says `about`; x and y in percent from the top left.

    `more` is drawn below it. `label` is SVG text around (0, 0).
    """
    path = SHAPES.get(shape, SHAPES["other"])
    return (
        f'<g class="point s{series % COLOURS}" data-series="{series}" tabindex="0" role="img">'
        f"<title>{esc(about)}</title>{more}"
        f'<svg x="{x}%" y="{y}%" overflow="visible"><circle class="hit" r="13"/><path class="mark" d="{path}"/>'
        f"{label}</svg></g>\n"
    )


def chart(body: str, name: str, height: int) -> str:
    """Return a chart with room for the numbers left of it and below."""
    return f'<svg class="chart" role="group" aria-label="{esc(name)}" style="height:{height}px">{body}</svg>'


def legend(entries: Sequence[tuple[str, str, int | None]]) -> str:
    """Return what shapes and colours mean: (text, shape or "" for a swatch, series or None)."""
    items = []
    for text, shape, series in entries:
        colour = "plain" if series is None else f"s{series % COLOURS}"
        path = SHAPES.get(shape, "M-7-4h14v8h-14z")
        drawn = (
            f'<svg class="key {colour}" viewBox="-9 -9 18 18" aria-hidden="true"><path class="mark" d="{path}"/></svg>'
        )
        items.append(f"<li>{drawn}{esc(text)}</li>")
    return f'<ul class="legend">{"".join(items)}</ul>\n'


@dataclass(frozen=True)
class Strip:
    """One row of a chart of rows: who, what is drawn, and its number."""

    who: str
    drawn: str
    value: str
    how: str = ""


def strips(caption: str, rows: Sequence[Strip], axis: Axis, unit: str, height: int = 34, keys: str = "") -> str:
    """Return a chart with a row each, one axis below all of them, and a legend below that."""
    lines = "".join(
        f'<div class="strip"><span class="who">{esc(row.who)} <small>{esc(row.how)}</small></span>'
        f'<svg role="group" aria-label="{esc(row.who)}" style="height:{height}px">{below(axis, False)}{row.drawn}</svg>'
        f'<span class="value">{esc(row.value)}</span></div>\n'
        for row in rows
    )
    foot = f'<svg class="foot" aria-hidden="true">{below(axis)}</svg>'
    return (
        f'<figure><figcaption>{esc(caption)}</figcaption><div class="strips">{lines}'
        f'<div class="strip"><span class="who"></span>{foot}<span class="value unit">{esc(unit)}</span></div>'
        f"</div>{keys}</figure>\n"
    )
