"""Geometry of the report's line charts.

Nothing here is HTML. Paths live in a square of 1000 x 1000 units that the template stretches over
the plot, with strokes and text that keep their size; so a chart is sharp at any width and takes its
colours from the page's theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNITS = 1000
"""Side of the square that paths live in."""
MAX_BUCKETS = 240
"""A longer curve is drawn as the mean of that many stretches, with their extremes as a band."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A labelled place on an axis, in percent of the plot from its left or top edge."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A horizontal line to compare with; `label_at` is the lower edge of its name."""

    at: float
    label_at: float
    label: str
    style: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One line chart."""

    title: str
    note: str
    last: str
    line: str
    band: str
    dots: str
    missing: str
    x_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    references: tuple[Reference, ...]
    points: tuple[tuple[float, float, str], ...]


def as_number(value: object) -> float:
    """Return a metric as a float; what is no number (null, text) is NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return float(value)


def number_text(value: float, digits: int = 4) -> str:
    """Write a number with `digits` significant digits: 12.35k, 4.561, 2e-05."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("-" if value < 0 else "") + "infinite"
    if abs(value) >= 1e6:
        return f"{value:.{digits - 1}e}".replace("e+0", "e").replace("e+", "e")
    if abs(value) >= 1e4:
        return f"{value / 1e3:.{max(digits, 4)}g}k"
    return f"{value:.0f}" if abs(value) >= 1e3 else f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """Write a time for people: 41 s, 2 min 41 s, 3 h 5 min; nothing where it is not known."""
    if not math.isfinite(seconds):
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def nice_ticks(low: float, high: float, count: int = 4, *, whole: bool = False) -> list[float]:
    """Round numbers, about `count` steps apart, from at or below `low` to at or above `high`."""
    if not high > low:
        low, high = (
            (low - 1.0, high + 1.0) if low == 0 else (low - abs(low) / 2, low + abs(low) / 2)
        )
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    if whole:
        step = max(1.0, float(round(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def line_chart(
    title: str,
    x: Sequence[float],
    y: Sequence[float],
    *,
    note: str = "",
    x_name: str = "step",
    unit: str = "",
    from_zero: bool = False,
    references: Iterable[tuple[str, float, str]] = (),
    height: int = 200,
) -> Chart | None:
    """Lay out y over x; `references` are (name, value, style). None where no y is finite.

    Values that are not finite break the line and are marked at the foot of the plot. `height` is
    the plot's in CSS pixels: it decides how far the names of references must be apart.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    finite = np.isfinite(ys)
    if not finite.any():
        return None
    lines = [(name, value, style) for name, value, style in references if math.isfinite(value)]
    values = [*ys[finite].tolist(), *(value for _, value, _ in lines)]
    y_ticks = nice_ticks(min([*values, 0.0]) if from_zero else min(values), max(values))
    x_last = float(xs.max())
    x_first = min(0.0, float(xs.min()))
    x_span = (x_last - x_first) or 1.0
    x_ticks = [
        t
        for t in nice_ticks(x_first, x_first + x_span, 5, whole=True)
        if x_first <= t <= x_first + x_span
    ]

    def across(value: float) -> float:
        return round(UNITS * (value - x_first) / x_span, 1)

    def down(value: float) -> float:
        return round(UNITS * (y_ticks[-1] - value) / (y_ticks[-1] - y_ticks[0]), 1)

    parts = _stretches(xs, ys)
    shown = [p for p in parts if math.isfinite(p[1])]
    dots = dots_path([(across(p[0]), down(p[1])) for p in shown]) if len(shown) <= 40 else ""
    spread = len(parts) < len(xs)
    last = shown[-1]
    return Chart(
        title=title,
        note=note,
        last=number_text(last[1]) + unit,
        line=_line((across(p[0]), down(p[1])) for p in parts),
        band=_band([(across(p[0]), down(p[3]), down(p[2])) for p in shown]) if spread else "",
        dots=dots or dots_path([(across(last[0]), down(last[1]))]),
        missing=dots_path([(across(float(v)), UNITS) for v in xs[~finite][:200]]),
        x_name=x_name,
        x_ticks=tuple(Tick(at=across(t) / 10, label=number_text(t)) for t in x_ticks),
        y_ticks=tuple(Tick(at=down(t) / 10, label=number_text(t)) for t in y_ticks),
        references=_references(
            [(name, down(v) / 10, v, style) for name, v, style in lines], unit, height
        ),
        points=tuple((across(p[0]), down(p[1]), _reading(x_name, p, unit)) for p in shown),
    )


def _stretches(x: Floats, y: Floats) -> list[tuple[float, float, float, float]]:
    """At most MAX_BUCKETS stretches as (x, mean, low, high); NaN where no value is finite."""
    parts = []
    for place in np.array_split(np.arange(len(x)), min(len(x), MAX_BUCKETS)):
        values = y[place][np.isfinite(y[place])]
        centre = float(x[place].mean())
        if len(values):
            parts.append((centre, float(values.mean()), float(values.min()), float(values.max())))
        else:
            parts.append((centre, math.nan, math.nan, math.nan))
    return parts


def _reading(x_name: str, part: tuple[float, float, float, float], unit: str) -> str:
    return (
        f"{x_name} {number_text(part[0], 3 if part[0] < 1000 else 6)}: {number_text(part[1])}{unit}"
    )


def _line(points: Iterable[tuple[float, float]]) -> str:
    path, pen_down = [], False
    for x, y in points:
        if not math.isfinite(y):
            pen_down = False
            continue
        path.append(f"L{x:g} {y:g}" if pen_down else f"M{x:g} {y:g}h0")
        pen_down = True
    return "".join(path)


def _band(points: Sequence[tuple[float, float, float]]) -> str:
    top = [f"{x:g} {high:g}" for x, high, _ in points]
    bottom = [f"{x:g} {low:g}" for x, _, low in reversed(points)]
    return "M" + "L".join(top + bottom) + "Z"


def dots_path(points: Iterable[tuple[float, float]]) -> str:
    """Zero-length strokes: with round caps, dots whose size does not stretch with the plot."""
    return "".join(f"M{x:g} {y:g}h0" for x, y in points)


def _references(
    lines: Sequence[tuple[str, float, float, str]], unit: str, height: int
) -> tuple[Reference, ...]:
    """Place the name of each line above it, or below where another line would strike it through."""
    text = 100 * 15 / height  # a line of text, in percent of the plot
    placed: list[Reference] = []
    for name, at, value, style in sorted(lines, key=lambda line: -line[1]):
        others = [other for _, other, _, _ in lines if other != at]
        edge = at  # of the name's lower side
        if any(at - text < other < at for other in others):
            edge = at + text
        if placed and edge > placed[-1].label_at - text and placed[-1].label_at - text < at:
            edge = placed[-1].label_at - text
        label = f"{name} {number_text(value, 3)}{unit}"
        placed.append(Reference(at=at, label_at=round(edge, 2), label=label, style=style))
    return tuple(placed)
