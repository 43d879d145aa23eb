"""The page of a comparison: settings that differ, figures, curves and maps side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ssgear.report import plots
from ssgear.report.charts import Floats, as_number
from ssgear.report.comparison import table
from ssgear.report.comparison.runs import ComparedRun
from ssgear.report.page import render
from ssgear.report.series import MAX_SERIES, Series, SeriesChart, series_chart
from ssgear.storage.atomic import Json

CURVES = (
    ("loss", "Loss", 1.0, ""),
    ("knn", "kNN accuracy", 100.0, " %"),
    ("effective_rank", "Effective rank", 1.0, ""),
    ("alignment", "Alignment", 1.0, ""),
    ("uniformity", "Uniformity", 1.0, ""),
)
"""Key of metrics.jsonl, title, factor and unit."""
AXES = (
    ("images_seen", "images seen", "images seen", 1.0),
    ("seconds", "wall time", "minutes", 60.0),
)
"""Key of training lines, what it is, name of the x axis, and what its unit has of the key's."""


class RunMap(NamedTuple):
    """The map of a run."""

    name: str
    plot: plots.Scatter


class FigureCell(NamedTuple):
    """A figure of a run, in words."""

    value: str
    interval: str
    counts: str
    difference: str
    """To the first run; empty where it was not tested."""
    p_value: str
    is_real: bool


def comparison_page(
    runs: Sequence[ComparedRun], rows: Sequence[table.Row], notes: Sequence[str]
) -> str:
    """Return the page."""
    maps = [RunMap(run.name, plot) for run in runs if (plot := _map(run)) is not None]
    return render(
        "comparison/comparison.html",
        names=[run.name for run in runs],
        settings=table.settings(runs),
        rows=[(row.name, _cells(row)) for row in rows],
        is_tested=any(difference for row in rows for difference in row.differences),
        notes=notes,
        charts=charts(runs),
        maps=maps,
        not_shown=max(0, len(runs) - MAX_SERIES),
    )


def _cells(row: table.Row) -> list[FigureCell | None]:
    return [
        None if figure is None else FigureCell(
            value=table.value_text(row, figure.value),
            interval="" if figure.interval is None else table.span_text(row, figure.interval),
            counts=_counts(figure.num_train, figure.num_test),
            difference="" if difference is None else table.difference_text(row, difference),
            p_value="" if difference is None else table.p_text(difference),
            is_real=difference is not None and difference.is_real,
        )
        for figure, difference in zip(row.figures, row.differences, strict=True)
    ]  # fmt: skip


def _counts(num_train: int | None, num_test: int | None) -> str:
    parts = [
        f"{count:,} {name}" for count, name in ((num_train, "train"), (num_test, "test")) if count
    ]
    return ", ".join(parts)


def charts(runs: Sequence[ComparedRun]) -> list[SeriesChart]:
    """Return each curve over images seen and over wall time."""
    found = []
    for key, title, factor, unit in CURVES:
        for axis, what, x_name, x_unit in AXES:
            series = [_series(run, key, factor, axis, x_unit) for run in runs]
            chart = series_chart(f"{title} over {what}", series, x_name=x_name, unit=unit)
            if chart is not None:
                found.append(chart)
    return found


def _series(run: ComparedRun, key: str, factor: float, axis: str, x_unit: float) -> Series:
    """Return a curve of a run; a reading stands where the training line of its step does."""
    train = run.files.train
    lines = [line for line in (*train, *run.files.evals) if key in line]
    known = _column(train, "step"), _column(train, axis)
    finite = np.isfinite(known[0]) & np.isfinite(known[1])
    steps = _column(lines, "step")
    if finite.any():
        x = np.interp(steps, known[0][finite], known[1][finite] / x_unit)
    else:
        x = np.full(len(lines), math.nan)
    return Series(name=run.name, x=x.tolist(), y=(factor * _column(lines, key)).tolist())


def _column(lines: Sequence[Mapping[str, Json]], key: str) -> Floats:
    return np.array([as_number(line.get(key)) for line in lines], dtype=np.float64)


def _map(run: ComparedRun) -> plots.Scatter | None:
    if run.map is None:
        return None
    chosen = np.linspace(0, len(run.map.xy) - 1, min(len(run.map.xy), plots.MAX_POINTS))
    places = chosen.round().astype(int)
    labels = None if run.map.labels is None else run.map.labels[places]
    return plots.scatter(run.map.xy[places], labels, run.map.classes)
