"""What the figures of a run say, in words: did it collapse, did the loss fall, did training help?

Each finding has a level: good, info, warn or bad; the verdict is the worst of them. The gain over a
baseline is that of the paired test in the summary; in a run without one it is held against the
noise of the test set (one binomial standard error of each accuracy, as if independent).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ssgear.methods.base import Card
from ssgear.report.charts import as_number, number_text
from ssgear.report.pictures import p_text, points_text
from ssgear.report.reading import Gain, RunFiles

Level = Literal["good", "info", "warn", "bad"]
_RANK: dict[Level, int] = {"good": 0, "info": 0, "warn": 1, "bad": 2}
_CRITIC = {
    "blind": "It tells real from synthetic images no better than a constant score would.",
    "won": "It is certain of every image, so that hardly a gradient is left in its loss.",
    "exploded": "Its scores or its penalty have grown beyond what its game can mean.",
}
"""What is said of a critic by how it failed (evaluation/generated/critic_health.py)."""
_USUAL_MENDS = "try a lower --optim.lr, a longer --optim.warmup-epochs or a larger batch"
"""Of a collapse whose reading names no cause."""
_BASELINES = {"untrained": "the untrained encoder", "pixels": "raw pixels"}
"""What is said of a baseline, by its name in the summary."""
SIGNIFICANT = 0.05
"""A gain is clear where its p-value is below this."""
_GAINS: dict[tuple[Level, str], str] = {
    ("good", "untrained"): "Training helped",
    ("good", "pixels"): "Training helped",
    ("warn", "untrained"): "No clear gain from training",
    ("warn", "pixels"): "No clear gain from training",
    ("bad", "untrained"): "Training made the features worse",
    ("bad", "pixels"): "Raw pixels are better than the features",
}
"""Title of a finding by its level and the better baseline."""
_HEADLINE = ("The run looks healthy", "Worth a second look", "Something went wrong")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that the figures say."""

    level: Level
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All findings, the worst level, and a headline for it."""

    level: Level
    headline: str
    findings: tuple[Finding, ...]


def judge(run: RunFiles, card: Card) -> Verdict:
    """Look at a run's figures."""
    candidates = (
        _collapse(run), _loss(run), _gain(run, card), _trend(run), _game(run), _unfinished(run)
    )  # fmt: skip
    findings = tuple(finding for finding in candidates if finding is not None)
    worst = max((_RANK[f.level] for f in findings), default=0)
    if not any(f.level != "info" for f in findings):
        return Verdict(level="info", headline="Too few figures for a verdict", findings=findings)
    levels: tuple[Level, ...] = ("good", "warn", "bad")
    headline = (
        "The features have collapsed" if findings[0].title == "Collapsed" else _HEADLINE[worst]
    )
    return Verdict(level=levels[worst], headline=headline, findings=findings)


def standard_error(accuracy: float, count: float) -> float:
    """Binomial standard error of an accuracy over `count` images; NaN for an unknown count."""
    return math.sqrt(max(0.0, accuracy * (1 - accuracy)) / count) if count > 0 else math.nan


def _collapse(run: RunFiles) -> Finding | None:
    flags = [
        (as_number(line.get("epoch")), line["collapsed"])
        for line in run.evals
        if "collapsed" in line
    ]
    if not flags:
        return None
    rank = run.last("effective_rank")
    spread = (
        f"effective rank {number_text(rank, 3)}" if math.isfinite(rank) else "by the last reading"
    )
    flagged = ", ".join(number_text(epoch) for epoch, collapsed in flags if collapsed)
    if flags[-1][1]:
        last = next(line for line in reversed(run.evals) if "collapsed" in line)
        sign, _, cause = str(last.get("collapse", f"{spread}; {_USUAL_MENDS}")).partition("; ")
        text = (
            f"Different images get nearly the same features ({sign}), so nothing can be told from "
            f"them. {cause[:1].upper()}{cause[1:]}. And look at the views below: are they still "
            "recognisable, and different?"
        )
        return Finding(level="bad", title="Collapsed", text=text)
    if flagged:
        text = f"Flagged at epoch {flagged}, and not at the last reading ({spread})."
        return Finding(level="warn", title="Collapse, but it passed", text=text)
    readings = f"{len(flags)} readings" if len(flags) > 1 else "one reading"
    text = f"Different images get different features: {spread}, not flagged in {readings}."
    return Finding(level="good", title="No collapse", text=text)


def _loss(run: RunFiles) -> Finding | None:
    losses = [as_number(line.get("loss")) for line in run.train]
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < len(losses):
        bad = len(losses) - len(finite)
        text = f"{bad} of {len(losses)} logged steps; they are marked below the loss curve."
        return Finding(level="bad", title="The loss was not a finite number", text=text)
    if len(finite) < 5:
        return None
    part = max(1, len(finite) // 10)
    first, last = sum(finite[:part]) / part, sum(finite[-part:]) / part
    text = f"From {number_text(first, 3)} in the first tenth to {number_text(last, 3)} in the last."
    if last < first:
        return Finding(level="good", title="The loss fell", text=text)
    return Finding(level="warn", title="The loss did not fall", text=text)


def _gain(run: RunFiles, card: Card) -> Finding | None:
    own = str(run.facts.get("judged_by", ""))
    title = card.figures[own].title if own in card.figures else ""
    named = ((own, title), ("linear_probe", "Linear probe"), ("knn", "kNN"))
    for key, name in named:
        trained = run.summary_number(key)
        values = {what: run.summary_number("baselines", what, key) for what in _BASELINES}
        known = {what: value for what, value in values.items() if math.isfinite(value)}
        if name and math.isfinite(trained) and known:
            best = max(known, key=lambda what: known[what])
            gain, count = run.gain(key, best), run.num_test(key)
            if gain is None:
                level, text = _compared(trained, known[best], count)
            else:
                level, text = _tested(gain, count)
            what = _BASELINES[best] + (", the better baseline" if len(known) > 1 else "")
            return Finding(
                level=level, title=_GAINS[level, best], text=f"{name}{text.format(what)}."
            )
    return None


def _tested(gain: Gain, count: float) -> tuple[Level, str]:
    """Judge a gain by its paired test; the text has a place for the name of the baseline."""
    images = f" on {count:,.0f} images" if math.isfinite(count) else ""
    text = (
        f", paired test{images}: {_points(gain.difference)} {{}} "
        f"(95 % interval {points_text(gain.interval)}, {p_text(gain.p_value)})"
    )
    if gain.p_value >= SIGNIFICANT:
        return "warn", text
    return ("good" if gain.difference > 0 else "bad"), text


def _compared(trained: float, baseline: float, count: float) -> tuple[Level, str]:
    """Judge a gain by the noise of the test set."""
    gain = trained - baseline
    noise = math.hypot(standard_error(trained, count), standard_error(baseline, count))
    text = f": {_points(gain)} {{}}"
    if math.isfinite(noise):
        images = f"{count:,.0f} test images"
        text += f"; the standard error of that difference on {images} is about {100 * noise:.1f}"
    if gain > 2 * (noise if math.isfinite(noise) else 0):
        return "good", text
    return ("bad" if math.isfinite(noise) and gain < -2 * noise else "warn"), text


def _points(gain: float) -> str:
    return f"{100 * abs(gain):.1f} points {'over' if gain >= 0 else 'below'}"


def _trend(run: RunFiles) -> Finding | None:
    if run.facts.get("judged_by"):
        return None
    readings = [(as_number(line.get("epoch")), as_number(line.get("knn"))) for line in run.evals]
    readings = [
        (epoch, knn) for epoch, knn in readings if math.isfinite(epoch) and math.isfinite(knn)
    ]
    if len(readings) < 4:
        return None
    best = max(readings, key=lambda reading: reading[1])
    epoch, last = readings[-1]
    earlier = next(
        knn for at, knn in reversed(readings) if at <= 0.8 * epoch or at == readings[0][0]
    )
    if best[1] - last > 0.02:
        text = (
            f"{100 * best[1]:.1f} % at epoch {number_text(best[0])}, {100 * last:.1f} % at the end."
        )
        return Finding(level="warn", title="kNN was better earlier", text=text)
    if last - earlier > 0.01:
        gain = f"{100 * (last - earlier):.1f} points"
        text = f"It gained {gain} in the last fifth: more epochs would likely help."
        return Finding(level="info", title="kNN was still rising", text=text)
    return Finding(
        level="info",
        title="kNN has levelled off",
        text="It moved by less than a point in the last fifth.",
    )


def _game(run: RunFiles) -> Finding | None:
    """Say how generator and critic stood at the end."""
    found = run.facts.get("generator")
    if not isinstance(found, Mapping):
        return None
    if found.get("collapsed"):
        text = "All its images look alike; see the samples below, and the notes for what to try."
        return Finding(level="bad", title="The generator has collapsed", text=text)
    critic = str(found.get("critic", ""))
    if critic in _CRITIC:
        text = f"{_CRITIC[critic]} The notes below have the figures and what to try."
        return Finding(level="warn", title="The critic has failed", text=text)
    return None


def _unfinished(run: RunFiles) -> Finding | None:
    if run.finished:
        return None
    text = (
        "There is no summary: the run was stopped, or is still going. It can be continued (below)."
    )
    return Finding(level="info", title="The run is not finished", text=text)
