"""The figures at the top of a report: accuracies beside their baselines, and how sure a gain is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from ssgear.report.charts import nice_ticks
from ssgear.report.pictures import interval_text, p_text, percent, points_text
from ssgear.report.reading import RunFiles
from ssgear.report.verdict import standard_error

_BASELINES = {"untrained": "untrained encoder", "pixels": "raw pixels"}
"""Titles of baselines, by their names in the summary."""


class GainText(NamedTuple):
    """How a figure compares with a baseline."""

    name: str
    points: str
    side: str
    """`over` or `below`."""
    interval: str
    """95 % confidence interval and p-value of the paired test; empty where there is none."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """An accuracy with what it must be compared with."""

    title: str
    note: str
    value: str
    error: str
    """Standard error, where no interval is known."""
    interval: str
    """95 % confidence interval over the test images, where it is known."""
    count: str
    """Test images."""
    num_train: str
    """Training images that it rests on, where that is known."""
    rests_on: str
    """How it rests on them."""
    seeds: str
    """How many seeds it is the mean of, and their deviation, where there are several."""
    top5: str
    bars: list[tuple[str, str, float, str]]
    """Name, value, width in percent and style."""
    gains: list[GainText]
    is_tested: bool
    """Whether a gain was tested image by image."""


def figures(run: RunFiles) -> list[Figure]:
    """Return the figures that the run has."""
    cards = [
        _figure(run, key, title, note)
        for key, title, note in (
            ("linear_probe", "Linear probe", "a linear classifier trained on the frozen features"),
            (
                "knn",
                "Nearest neighbours",
                "a weighted vote of the nearest training images, nothing trained",
            ),
        )
    ]
    return [card for card in cards if card is not None]


def _figure(run: RunFiles, key: str, title: str, note: str) -> Figure | None:
    value = run.summary_number(key)
    if key == "knn" and not math.isfinite(value):
        value, note = run.last("knn"), f"{note}, as last read during training"
    if not math.isfinite(value):
        return None
    classes = run.text_list("classes")
    baselines = {
        title: run.summary_number("baselines", name, key) for name, title in _BASELINES.items()
    }
    baselines["chance"] = 1 / len(classes) if classes else math.nan
    known = {name: number for name, number in baselines.items() if math.isfinite(number)}
    top = nice_ticks(0, 100 * max(value, *known.values(), 0.01))[-1] / 100
    bars = [("this run", value, "own"), *((name, v, name.split()[0]) for name, v in known.items())]
    gains = [
        _gain(run, key, name, value - known[title])
        for name, title in _BASELINES.items()
        if title in known
    ]
    count = run.num_test(key)
    learned = run.summary_number("details", key, "num_train")
    told = key == "linear_probe" and (not classes or len(classes) > 5)  # of five it is always right
    top5 = run.summary_number("linear_probe_top5") if told else math.nan
    return Figure(
        title=title,
        note=note,
        value=f"{100 * value:.1f}",
        error=f"{100 * standard_error(value, count):.1f}" if count > 0 else "",
        interval=interval_text(run.interval(key)),
        num_train=f"{learned:,.0f}" if math.isfinite(learned) else "",
        rests_on="learned from" if key == "linear_probe" else "neighbours among",
        seeds=_seeds(run, key),
        count=f"{count:,.0f}" if count > 0 else "",
        top5=percent(top5) if math.isfinite(top5) else "",
        bars=[(name, percent(v), round(100 * v / top, 2), style) for name, v, style in bars],
        gains=gains,
        is_tested=any(gain.interval for gain in gains),
    )


def _gain(run: RunFiles, key: str, baseline: str, difference: float) -> GainText:
    gain = run.gain(key, baseline)
    interval = ""
    if gain is not None:
        difference = gain.difference
        interval = f"{points_text(gain.interval)}, {p_text(gain.p_value)}"
    name, points = _BASELINES[baseline], f"{100 * abs(difference):.1f}"
    if difference < 0:
        return GainText(name, points, "below", interval)
    return GainText(name, f"+{points}", "over", interval)


def _seeds(run: RunFiles, key: str) -> str:
    """Say how many seeds a figure is the mean of; empty for one."""
    deviation = run.summary_number("details", key, "deviation")
    values = run.detail(key, "values")
    if not math.isfinite(deviation) or not isinstance(values, list):
        return ""
    return f"mean of {len(values)} seeds, standard deviation {100 * deviation:.1f}"
