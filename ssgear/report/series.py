"""Geometry of charts with several curves: accuracy over labels, features under augmentation, runs.

`series_chart` lays out `Series` in the square of charts.py, on a linear or logarithmic x axis; a
series with `low` and `high` has an interval at each of its points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssgear.report import charts
from ssgear.report.charts import UNITS, Floats, Tick, number_text

MAX_SERIES = 10
"""Most curves of one chart: there are as many colours."""
MAX_DOTS = 40
"""Points of a curve up to which each has a dot."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    """Lower end of the interval of each point, where there are intervals."""
    high: Sequence[float] = ()
    details: Sequence[str] = ()
    """What a reader of a point is told beside x and y."""
    is_baseline: bool = False
    """Whether it is drawn dashed."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A series as paths."""

    name: str
    colour: int
    is_baseline: bool
    last: str
    line: str
    dots: str
    bars: str
    """Intervals."""


@dataclass(frozen=True, kw_only=True)
class SeriesChart:
    """A chart of several curves."""

    title: str
    note: str
    x_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]
    points: tuple[tuple[float, float, str], ...]


class _Axes:
    """Places of values in the square."""

    def __init__(self, x: Floats, y_ticks: Sequence[float], *, log_x: bool) -> None:
        self.log_x = log_x
        values = np.log10(x) if log_x else x
        self.first, self.last = float(values.min()), float(values.max())
        if log_x:  # room for the intervals of the first and last point
            margin = 0.06 * (self.last - self.first) or 0.5
            self.first, self.last = self.first - margin, self.last + margin
        else:
            self.first = min(self.first, 0.0)
        self.top, self.bottom = y_ticks[-1], y_ticks[0]

    def across(self, value: float) -> float:
        value = math.log10(value) if self.log_x else value
        return round(UNITS * (value - self.first) / ((self.last - self.first) or 1.0), 1)

    def down(self, value: float) -> float:
        return round(UNITS * (self.top - value) / (self.top - self.bottom), 1)

    def x_ticks(self) -> list[float]:
        if self.log_x:
            decades = range(math.floor(self.first), math.ceil(self.last) + 1)
            ticks = [10.0**decade for decade in decades]
        else:
            ticks = charts.nice_ticks(self.first, self.last, 5)
        ends = (10**self.first, 10**self.last) if self.log_x else (self.first, self.last)
        slack = 1e-9 * abs(ends[1])
        return [tick for tick in ticks if ends[0] - slack <= tick <= ends[1] + slack]


def series_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_name: str,
    note: str = "",
    unit: str = "",
    log_x: bool = False,
    from_zero: bool = False,
    x_labels: Sequence[tuple[float, str]] = (),
) -> SeriesChart | None:
    """Lay out curves; None where none has a finite point.

    Args:
        title: Name of the chart.
        series: At most `MAX_SERIES` are drawn.
        x_name: Name of the x axis.
        note: A line under the title.
        unit: Stands behind every y.
        log_x: Whether the x axis is logarithmic; points with x <= 0 are left out then.
        from_zero: Whether the y axis begins at zero.
        x_labels: Ticks of the x axis; by default round numbers.
    """
    parts = [_finite(one, log_x=log_x) for one in series[:MAX_SERIES]]
    drawn = [(one, table) for one, table in zip(series, parts, strict=False) if len(table)]
    if not drawn:
        return None
    values = np.concatenate([table[:, 1:].ravel() for _, table in drawn])
    values = values[np.isfinite(values)]
    low = min(0.0, float(values.min())) if from_zero else float(values.min())
    y_ticks = charts.nice_ticks(low, float(values.max()))
    axes = _Axes(np.concatenate([table[:, 0] for _, table in drawn]), y_ticks, log_x=log_x)
    labels = x_labels or [(tick, number_text(tick)) for tick in axes.x_ticks()]
    return SeriesChart(
        title=title,
        note=note,
        x_name=x_name,
        x_ticks=tuple(Tick(at=axes.across(at) / 10, label=label) for at, label in labels),
        y_ticks=tuple(Tick(at=axes.down(at) / 10, label=number_text(at)) for at in y_ticks),
        curves=tuple(
            _curve(one, table, axes, colour, unit) for colour, (one, table) in enumerate(drawn)
        ),
        points=tuple(
            point for one, table in drawn for point in _points(one, table, axes, x_name, unit)
        ),
    )


def _finite(series: Series, *, log_x: bool) -> Floats:
    """Return x, y, low and high [n, 4] of the points that can be drawn, long curves shortened."""
    unknown = [math.nan] * len(series.x)
    columns = [series.x, series.y, series.low or unknown, series.high or unknown]
    table = np.array(columns, dtype=np.float64).reshape(4, -1).T
    table = table[np.isfinite(table[:, :2]).all(axis=1)]
    if log_x:
        table = table[table[:, 0] > 0]
    if len(table) > charts.MAX_BUCKETS:
        pieces = np.array_split(table, charts.MAX_BUCKETS)
        table = np.stack([piece.mean(axis=0) for piece in pieces])
    return table


def _curve(series: Series, table: Floats, axes: _Axes, colour: int, unit: str) -> Curve:
    places = [(axes.across(x), axes.down(y)) for x, y in table[:, :2].tolist()]
    shown = places if len(places) <= MAX_DOTS else places[-1:]
    bars = [
        f"M{axes.across(x):g} {axes.down(high):g}V{axes.down(low):g}"
        for x, _, low, high in table.tolist()
        if math.isfinite(low) and math.isfinite(high)
    ]
    return Curve(
        name=series.name,
        colour=colour,
        is_baseline=series.is_baseline,
        last=number_text(float(table[-1, 1]), 3) + unit,
        line="M" + "L".join(f"{x:g} {y:g}" for x, y in places) + "h0",
        dots=charts.dots_path(shown),
        bars="".join(bars),
    )


def _points(
    series: Series, table: Floats, axes: _Axes, x_name: str, unit: str
) -> list[tuple[float, float, str]]:
    """Return the place and the words of each point."""
    points = []
    for number, (x, y, low, high) in enumerate(table.tolist()):
        whole = len(series.details) == len(table)
        at = series.details[number] if whole else f"{x_name} {number_text(x)}"
        text = f"{series.name}, {at}: {number_text(y)}{unit}"
        if math.isfinite(low) and math.isfinite(high):
            text += f" ({number_text(low)} to {number_text(high)})"
        points.append((axes.across(x), axes.down(y), text))
    return points
