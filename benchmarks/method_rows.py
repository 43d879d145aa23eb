"""What `benchmarks.methods` measures: rows in a file that several pieces fill, and their tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from benchmarks.common.table import markdown
from ssgear.errors import ConfigError
from ssgear.storage.atomic import write_json

COMMON = ("linear_probe", "knn")
"""Figures of every method, in the table's columns."""
DETAILS = ("linear_probe_top5", "knn_20")
"""Others of every method, in the file only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of it."""

    method: str
    seed: int
    images: int
    """Seen: those asked for, to the nearest whole epoch."""
    epochs: int
    figures: dict[str, float]
    """Of the trained encoder, shares in [0, 1]."""
    untrained: dict[str, float]
    """The same of the encoder that it began with."""
    images_per_second: float
    """Median over the log."""
    peak_mb: float
    """Most memory while training: of the process on a CPU, allocated by torch on a GPU."""
    minutes: float
    """From the command to the figures."""
    step_ms: float
    encoder_ms: float
    views_ms: float

    @property
    def overhead(self) -> float:
        """Return the share of a step that neither the encoder nor the views take."""
        return 1 - (self.encoder_ms + self.views_ms) / self.step_ms


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return shares as percent, with the deviation over seeds where there are several."""
    if not values:
        return "-"
    spread = f" +- {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def over_seeds(seeds: Sequence[dict[str, float]], name: str) -> str:
    """Return mean and deviation of a figure over the seeds that have it."""
    return mean_and_deviation([figures[name] for figures in seeds if name in figures])


def table(rows: Sequence[Row]) -> str:
    """Return one line for each method, over its seeds."""
    heads = (
        "method", "linear probe, %", "untrained", "kNN, %", "untrained", "images/s", "MiB",
        "minutes", "overhead",
    )  # fmt: skip
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        some = [row for row in rows if row.method == method]
        cells = [method]
        for name in COMMON:
            for figures in ([row.figures for row in some], [row.untrained for row in some]):
                cells.append(over_seeds(figures, name))
        cells += [
            f"{statistics.mean(row.images_per_second for row in some):,.0f}",
            f"{max(row.peak_mb for row in some):.0f}",
            f"{statistics.mean(row.minutes for row in some):.1f}",
            f"{100 * statistics.median(row.overhead for row in some):.0f} %",
        ]
        lines.append(cells)
    return markdown(heads, lines)


def own_figures(rows: Sequence[Row]) -> str:
    """Return a line for each figure that only some methods have: probes of blocks, shifts."""
    lines = []
    for method in dict.fromkeys(row.method for row in rows):
        some = [row for row in rows if row.method == method]
        for name in dict.fromkeys(name for row in some for name in row.figures):
            if name not in (*COMMON, *DETAILS):
                sides = [row.figures for row in some], [row.untrained for row in some]
                lines.append([method, name, *(over_seeds(side, name) for side in sides)])
    return markdown(("method", "figure", "trained, %", "untrained, %"), lines) if lines else ""


def kept(file: Path | None, settings: dict[str, Any]) -> dict[tuple[str, int], Row]:
    """Return the rows of a file of earlier trainings; refuse those of other settings."""
    if file is None or not file.exists():
        return {}
    table = json.loads(file.read_text(encoding="utf-8"))
    if table.get("settings") != settings:
        raise ConfigError(
            f"--json: {file} holds trainings of {table.get('settings')}, asked for is {settings}; "
            "name another file"
        )
    return {(row["method"], row["seed"]): Row(**row) for row in table["rows"]}


def keep(file: Path, device: str, settings: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write all rows, with what they were trained on."""
    table = {"settings": settings, "rows": [asdict(row) for row in rows]}
    write_json(file, {**machine.describe(device), **table})
