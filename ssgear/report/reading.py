"""What a run left in its directory, read for the report: config.json, metrics.jsonl, summary.json.

Any of them may be missing (a run that was interrupted has no summary, an unlabelled one no
accuracies), and the last line of metrics.jsonl may be half-written; a file that is there and is no
JSON object is an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from ssgear.errors import CheckpointError, refusing
from ssgear.report.charts import as_number
from ssgear.storage.atomic import Json


class Gain(NamedTuple):
    """How much higher a figure of the run is than that of a baseline on the same test images."""

    difference: float
    interval: tuple[float, float]
    """95 % confidence interval."""
    p_value: float


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """A run's own files."""

    directory: Path
    config: Mapping[str, Json]
    summary: Mapping[str, Json] | None
    train: list[Mapping[str, Json]] = field(default_factory=list)
    evals: list[Mapping[str, Json]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def facts(self) -> Mapping[str, Json]:
        """The summary, empty where there is none."""
        return self.summary or {}

    @property
    def finished(self) -> bool:
        """Whether the run came to its planned end."""
        return self.summary is not None or (
            not self.option("eval.final", True) and self._all_steps_taken()
        )

    @property
    def written(self) -> datetime:
        """When the run last wrote a figure."""
        paths = [self.directory / name for name in ("summary.json", "metrics.jsonl", "config.json")]
        times = [path.stat().st_mtime for path in paths if path.is_file()]
        return datetime.fromtimestamp(times[0]) if times else datetime.now()

    def option(self, dotted: str, default: Json = None) -> Json:
        """Return a setting by its dotted name."""
        found: Json = self.config
        for part in dotted.split("."):
            if not isinstance(found, Mapping) or part not in found:
                return default
            found = found[part]
        return default if found is None else found

    def last(self, key: str) -> float:
        """Return the newest finite value of a metric, evaluations first; NaN if there is none."""
        for lines in (self.evals, self.train):
            values = [as_number(line.get(key)) for line in lines]
            finite = [value for value in values if math.isfinite(value)]
            if finite:
                return finite[-1]
        return math.nan

    def furthest(self, key: str) -> float:
        """Return the largest value of a count (step, epoch, images_seen); NaN if there is none."""
        values = [as_number(line.get(key)) for line in (*self.train, *self.evals)]
        return max((value for value in values if math.isfinite(value)), default=math.nan)

    def summary_number(self, *keys: str) -> float:
        """Return a number of the summary by its nested keys; NaN where it is not there."""
        return as_number(_nested(self.facts, keys))

    def detail(self, figure: str, name: str) -> Json:
        """Return what the summary says of a figure under `details`; None where it does not."""
        return _nested(self.facts, ("details", figure, name))

    def interval(self, figure: str) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of a figure, or None."""
        return _interval(self.detail(figure, "interval"))

    def num_test(self, figure: str) -> float:
        """Return how many test images a figure was measured on; NaN where that is unknown."""
        count = self.summary_number("details", figure, "num_test")
        return count if math.isfinite(count) else self.summary_number("num_test")

    def gain(self, figure: str, baseline: str) -> Gain | None:
        """Return the gain over a baseline, tested image by image; None where it was not tested."""
        keys = ("gains", figure, baseline)
        difference = self.summary_number(*keys, "difference")
        p_value = self.summary_number(*keys, "p_value")
        interval = _interval(_nested(self.facts, (*keys, "interval")))
        if interval is None or not math.isfinite(difference) or not math.isfinite(p_value):
            return None
        return Gain(difference, interval, p_value)

    def text_list(self, key: str) -> list[str] | None:
        """Return a list of names of the summary, or None."""
        names = self.facts.get(key)
        return [str(name) for name in names] if isinstance(names, list | tuple) and names else None

    def _all_steps_taken(self) -> bool:
        steps = as_number(self.option("optim.max_steps"))
        done = self.furthest("step") >= steps
        return done or self.furthest("epoch") >= as_number(self.option("optim.epochs"))


def _nested(values: Mapping[str, Json], keys: Sequence[str]) -> Json:
    """Return a value by its nested keys; None where it is not there."""
    value: Json = values
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _interval(ends: Json) -> tuple[float, float] | None:
    if not isinstance(ends, list | tuple) or len(ends) != 2:
        return None
    low, high = (as_number(end) for end in ends)
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def read_run(directory: Path) -> RunFiles:
    """Read the files of a run directory."""
    if not directory.is_dir():
        raise CheckpointError(
            f"{directory}: no such run directory; give one that ssgear.train wrote"
        )
    lines = _read_lines(directory / "metrics.jsonl")
    by_kind = {
        kind: [line for line in lines if line.get("kind") == kind]
        for kind in ("train", "eval", "note")
    }
    return RunFiles(
        directory=directory,
        config=_read_object(directory / "config.json") or {},
        summary=_read_object(directory / "summary.json"),
        train=by_kind["train"],
        evals=by_kind["eval"],
        notes=list(dict.fromkeys(str(line.get("message", "")) for line in by_kind["note"])),
    )


def _read_object(path: Path) -> Mapping[str, Json] | None:
    if not path.is_file():
        return None
    with refusing(
        ValueError,
        lambda error: CheckpointError(f"{path}: no JSON ({error}); a run writes this file whole"),
    ):
        found: Json = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: {type(found).__name__}; a JSON object is expected")
    return found


def _read_lines(path: Path) -> list[Mapping[str, Json]]:
    if not path.is_file():
        return []
    lines: list[Mapping[str, Json]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # a kill left it half-written
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
