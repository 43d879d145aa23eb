"""The table of what a method is measured by beside the usual two figures, for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from ssgear.methods.base import Figure
from ssgear.report.charts import as_number
from ssgear.report.pictures import percent
from ssgear.report.reading import RunFiles

AT_BLOCK = "linear_probe_at_"
"""Start of the names of probes after a block; its name follows."""


class Measure(NamedTuple):
    """A row: a figure of this run and of the untrained encoder."""

    title: str
    value: str
    untrained: str


def measures(run: RunFiles, figures: Mapping[str, Figure]) -> list[Measure]:
    """Return the rows that the run's summary has figures for, in its order."""
    rows = []
    for key in run.facts:
        title = _title(key, figures)
        value = as_number(run.facts[key]) if title else math.nan
        if math.isfinite(value):
            untrained = run.summary_number("baselines", "untrained", key)
            shown = percent(untrained) if math.isfinite(untrained) else ""
            rows.append(Measure(title, percent(value), shown))
    return rows


def _title(key: str, figures: Mapping[str, Figure]) -> str:
    """Return the title of a figure's row; empty where it has none."""
    if key.startswith(AT_BLOCK):
        return f"Linear probe after {key.removeprefix(AT_BLOCK)}"
    if key not in figures:
        return ""
    title, chance = figures[key].title, figures[key].chance
    return title if chance is None else f"{title} (chance: {100 * chance:.0f} %)"
