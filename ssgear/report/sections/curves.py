"""Curves of the evaluation: accuracy over labels, and features under augmentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ssgear.report.contents import Invariance, LabelCurve, LabelPoint
from ssgear.report.pictures import interval_text, percent
from ssgear.report.series import Series, SeriesChart, series_chart


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """Accuracies of one number of labels."""

    share: str
    num_labels: int
    cells: tuple[tuple[str, str], ...]
    """Accuracy and interval of each curve; empty where a curve has no such point."""


@dataclass(frozen=True, kw_only=True)
class LabelPart:
    """A chart of accuracy over labels, and the same as a table."""

    title: str
    chart: SeriesChart
    names: tuple[str, ...]
    rows: tuple[LabelRow, ...]


def label_curves(contents: Sequence[LabelCurve]) -> list[LabelPart]:
    """Lay out accuracies over the number of labels."""
    parts = [_label_curve(one) for one in contents]
    return [part for part in parts if part is not None]


def _label_curve(contents: LabelCurve) -> LabelPart | None:
    curves = {"this run": contents.points, **contents.baselines}
    numbers = {p.num_labels: p.share for points in curves.values() for p in points}
    chart = series_chart(
        contents.title,
        [_series(name, points, name != "this run") for name, points in curves.items()],
        x_name="labels",
        note="test accuracy with its 95 % interval; labels on a logarithmic axis",
        unit=" %",
        log_x=True,
        x_labels=[(number, f"{number:,}") for number in sorted(numbers)],
    )
    if chart is None:
        return None
    rows = [_row(curves.values(), number, numbers[number]) for number in sorted(numbers)]
    return LabelPart(title=contents.title, chart=chart, names=tuple(curves), rows=tuple(rows))


def _series(name: str, points: Sequence[LabelPoint], is_baseline: bool) -> Series:
    ordered = sorted(points, key=lambda point: point.num_labels)
    intervals = [point.interval or (float("nan"), float("nan")) for point in ordered]
    return Series(
        name=name,
        x=[point.num_labels for point in ordered],
        y=[100 * point.accuracy for point in ordered],
        low=[100 * low for low, _ in intervals],
        high=[100 * high for _, high in intervals],
        details=[f"{point.num_labels:,} labels" for point in ordered],
        is_baseline=is_baseline,
    )


def _row(curves: Iterable[Sequence[LabelPoint]], number: int, share: float) -> LabelRow:
    cells = []
    for points in curves:
        point = next((point for point in points if point.num_labels == number), None)
        cells.append(
            ("", "") if point is None else (percent(point.accuracy), interval_text(point.interval))
        )
    return LabelRow(share=f"{100 * share:g} %", num_labels=number, cells=tuple(cells))


def invariance(contents: Invariance | None) -> SeriesChart | None:
    """Lay out how features move under each augmentation."""
    if contents is None:
        return None
    return series_chart(
        "Features under augmentation",
        [
            Series(name=name, x=[x for x, _ in points], y=[y for _, y in points])
            for name, points in contents.curves.items()
        ],
        x_name="strength",
        note=f"{contents.measure} to the features of the untouched image; 1: unmoved",
    )
