"""What the report shows as pictures: curves, views, samples and the map, for the template.

Each function returns None (or nothing) where the run has nothing to show, and bounds how much it
shows, so that the page stays a few megabytes whatever it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ssgear.report import charts, plots
from ssgear.report.contents import Map, Samples, Views
from ssgear.report.images import Picture, Sheet, picture, sheet
from ssgear.report.reading import RunFiles
from ssgear.storage.atomic import Json

MAX_ROWS = 12
"""Rows of views."""
MAX_VIEWS = 8
"""Views of one image."""
MAX_TIMES = 6
"""Points in time of which synthetic images are shown."""
MAX_SAMPLES = 16
"""Synthetic images of one point in time."""
MAX_PAIRS = 12
"""Positives shown side by side."""
MAX_EXTRAS = 16
"""Charts of values that a method logs by itself."""
_KNOWN = {
    "kind",
    "step",
    "epoch",
    "images_seen",
    "loss",
    "lr",
    "images_per_second",
    "data_wait",
    "seconds",
    "seconds_per_step",
}
"""Keys of training lines that have a chart of their own, or need none."""


def curves(run: RunFiles) -> list[charts.Chart]:
    """All curves that the log has values for, the most telling two first."""
    percent = [
        (name, 100 * run.summary_number("baselines", key, "knn"), key)
        for name, key in (("untrained", "untrained"), ("raw pixels", "pixels"))
    ]
    classes = run.text_list("classes")
    if classes:
        percent.append(("chance", 100 / len(classes), "chance"))
    rates = [charts.as_number(line.get("lr")) for line in run.train]
    peak = charts.number_text(max((rate for rate in rates if rate == rate), default=0.0), 3)
    extras = dict.fromkeys(key for line in run.train for key in line if key not in _KNOWN)
    wanted = [
        _curve(run.train, "loss", "Loss", note="training loss"),
        _curve(
            run.evals,
            "knn",
            "kNN accuracy",
            note="test images, in training",
            scale=100,
            unit=" %",
            compare=percent,
        ),
        _curve(
            run.evals,
            "effective_rank",
            "Effective rank",
            note="higher: more directions",
            from_zero=True,
        ),
        _curve(
            run.evals,
            "alignment",
            "Alignment",
            note="lower: views closer",
            from_zero=True,
        ),
        _curve(run.evals, "uniformity", "Uniformity", note="lower: more even"),
        _curve(run.train, "lr", "Learning rate", note=f"peak {peak}", from_zero=True),
        _curve(
            run.train,
            "images_per_second",
            "Images/s",
            note="while training",
            from_zero=True,
        ),
        _curve(
            run.train,
            "data_wait",
            "Waiting for data",
            note="share of the step",
            scale=100,
            unit=" %",
        ),
        *(
            _curve(run.train, key, key, note="logged by the method")
            for key in list(extras)[:MAX_EXTRAS]
        ),
    ]
    return [chart for chart in wanted if chart is not None]


def _curve(
    lines: Sequence[Mapping[str, Json]],
    key: str,
    title: str,
    *,
    note: str,
    scale: float = 1.0,
    unit: str = "",
    from_zero: bool = False,
    compare: Sequence[tuple[str, float, str]] = (),
) -> charts.Chart | None:
    present = [line for line in lines if key in line]
    if not present:
        return None
    epochs = [charts.as_number(line.get("epoch")) for line in present]
    rising = all(b > a for a, b in pairwise(epochs)) and epochs[-1] >= 2
    x_name = "epoch" if rising else "step"
    return charts.line_chart(
        title,
        epochs if rising else [charts.as_number(line.get("step")) for line in present],
        [scale * charts.as_number(line[key]) for line in present],
        note=note,
        x_name=x_name,
        unit=unit,
        from_zero=from_zero or bool(unit),
        references=compare,
    )


@dataclass(frozen=True, kw_only=True)
class ViewRows:
    """Rows of an original and the views of it."""

    count: int
    """Views of a row that are shown."""
    total: int
    """Views of a row."""
    rows: list[list[Picture]]
    shares: list[list[int]]
    """Widths in percent of the row's widest picture, so that a smaller view is seen smaller."""
    smaller: bool
    """Whether any view is."""
    stored: list[list[bool]]
    any_stored: bool


def views(views: Views | None) -> ViewRows | None:
    """Rows of an original and the views of it, each of any size."""
    if views is None or not len(views.rows):
        return None
    rows = [list(row[: MAX_VIEWS + 1]) for row in views.rows[:MAX_ROWS]]
    marks = np.zeros((len(rows), len(rows[0])), dtype=bool)
    if views.stored is not None:
        marks[:, 1:] = views.stored[:MAX_ROWS, :MAX_VIEWS]
    widths = [[image.shape[1] for image in row] for row in rows]
    return ViewRows(
        count=len(rows[0]) - 1,
        total=len(views.rows[0]) - 1,
        rows=[[picture(image) for image in row] for row in rows],
        shares=[[round(100 * width / max(row)) for width in row] for row in widths],
        smaller=any(min(row) < max(row) for row in widths),
        stored=marks.tolist(),
        any_stored=bool(marks.any()),
    )


def samples(samples: Samples | None) -> Samples | None:
    """Synthetic images through time; of many points in time a few, evenly spread."""
    if samples is None or not samples.steps:
        return None
    last = len(samples.steps) - 1
    chosen = sorted({*np.linspace(0, last, min(last + 1, MAX_TIMES)).round().astype(int).tolist()})
    looks = [samples.steps[place] for place in chosen]
    pairs, has_pairs = samples.pairs, samples.pairs is not None and len(samples.pairs.images)
    return replace(
        samples,
        real=samples.real[:MAX_SAMPLES],
        steps=[(step, images[:MAX_SAMPLES]) for step, images in looks],
        pairs=replace(pairs, images=pairs.images[:MAX_PAIRS]) if pairs and has_pairs else None,
    )


@dataclass(frozen=True, kw_only=True)
class MapPlot:
    """The scatter of the test features, with a sheet of thumbnails where there are any."""

    plot: plots.Scatter
    sheet: Sheet | None
    labelled: bool
    projected: bool
    count: int


def feature_map(contents: Map | None) -> MapPlot | None:
    """Lay the map out; of more points than it takes, some are chosen evenly."""
    if contents is None or not len(contents.xy):
        return None
    count = len(contents.xy)
    chosen = np.linspace(0, count - 1, min(count, plots.MAX_POINTS)).round().astype(int)
    labels = None if contents.labels is None else contents.labels[chosen]
    plot = plots.scatter(contents.xy[chosen], labels, contents.classes)
    if plot is None:
        return None
    return MapPlot(
        plot=plot,
        sheet=None if contents.thumbnails is None else sheet(contents.thumbnails[chosen]),
        labelled=labels is not None,
        projected=contents.projected,
        count=len(plot.points),
    )


def percent(share: float) -> str:
    """Write a share as a percentage."""
    return f"{100 * share:.1f} %"


def interval_text(interval: tuple[float, float] | None) -> str:
    """Write an interval of shares in percent; empty where there is none."""
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def points_text(interval: tuple[float, float]) -> str:
    """Write an interval of a difference of shares, in points of percent."""
    return " to ".join(f"{100 * end:+.1f}".replace("-", "−") for end in interval)


def p_text(p_value: float) -> str:
    """Write a p-value."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
