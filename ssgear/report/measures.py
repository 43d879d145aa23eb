"""The table of what a method is measured by beside the usual two figures, for the template."""

from __future__ import annotations

import math
from typing import NamedTuple

from ssgear.report.charts import as_number
from ssgear.report.pictures import percent
from ssgear.report.reading import RunFiles

AT_BLOCK = "linear_probe_at_"
"""Start of the names of probes after a block; its name follows."""
TITLES = {
    "linear_probe_quadrants": "Linear probe on all layers, in quadrants",
    "shift_knn": "Shift of a moved image, by its nearest neighbours",
    "moved_label_knn": "Class of a moved image, by its nearest neighbours",
}
"""Other figures of the summary that have a row, and what it is called."""
_CHANCE = {"shift_knn": " (chance: 20 %)"}


class Measure(NamedTuple):
    """A row: a figure of this run and of the untrained encoder."""

    title: str
    value: str
    untrained: str


def measures(run: RunFiles) -> list[Measure]:
    """Return the rows that the run's summary has figures for, in its order."""
    rows = []
    for key in run.facts:
        title = TITLES.get(key)
        if key.startswith(AT_BLOCK):
            title = f"Linear probe after {key.removeprefix(AT_BLOCK)}"
        value = as_number(run.facts[key]) if title else math.nan
        if title and math.isfinite(value):
            untrained = run.summary_number("baselines", "untrained", key)
            shown = percent(untrained) if math.isfinite(untrained) else ""
            rows.append(Measure(title + _CHANCE.get(key, ""), percent(value), shown))
    return rows
