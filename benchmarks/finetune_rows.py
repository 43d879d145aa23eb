"""Rows of `python -m benchmarks finetune`: kept in a file, compared, and shown as a table."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import safetensors.torch
from torch import Tensor

from benchmarks.common import machine
from benchmarks.common.table import markdown
from ssgear.errors import ConfigError
from ssgear.evaluation.statistics import mcnemar, wilson

STARTS = ("pretrained", "scratch")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training."""

    start: str
    """pretrained or scratch."""
    share: float
    """Of the labels."""
    seed: int
    lr: float
    is_tuning: bool
    """Whether it was tested on held-out training images, to choose `lr`."""
    num_train: int
    epochs: int
    num_test: int
    accuracy: float
    interval: tuple[float, float]
    """Wilson's, at 95 %."""
    seconds: float

    @property
    def key(self) -> str:
        """Return what tells it from others."""
        return key_of(self.start, self.share, self.seed, self.lr, is_tuning=self.is_tuning)


Rows = dict[str, Row]
Right = dict[str, Tensor]
"""By row, uint8 [num_test]: 1 where an image is right."""


def key_of(start: str, share: float, seed: int, lr: float, *, is_tuning: bool) -> str:
    """Return the name of a row."""
    return f"{'tuning' if is_tuning else 'test'} {start} {share:g} {seed} {lr:g}"


def kept(file: Path | None, settings: Mapping[str, Any]) -> tuple[Rows, Right]:
    """Return the rows of a file, and which images each has right; neither if there is no file."""
    if file is None or not file.is_file():
        return {}, {}
    fields = json.loads(file.read_text(encoding="utf-8"))
    if fields["settings"] != json.loads(json.dumps(settings)):
        raise ConfigError(f"--json: {file} is of other settings; name another file")
    rows = [Row(**{**row, "interval": tuple(row["interval"])}) for row in fields["rows"]]
    return {row.key: row for row in rows}, safetensors.torch.load_file(beside(file))


def keep(options: argparse.Namespace, settings: Mapping[str, Any], row: Row, right: Tensor) -> None:
    """Add a row to the file, beside what another piece wrote there meanwhile."""
    rows, vectors = kept(options.json, settings)
    rows, vectors = {**rows, row.key: row}, {**vectors, row.key: right}
    safetensors.torch.save_file(vectors, beside(options.json))
    fields = {
        **machine.describe(options.device),
        "settings": settings,
        "comparison": compared(rows, vectors),
        "rows": [dataclasses.asdict(row) for row in rows.values()],
    }
    options.json.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def beside(file: Path) -> Path:
    """Return the file that says which images each training has right."""
    return file.with_suffix(".safetensors")


def compared(rows: Rows, right: Right) -> list[dict[str, Any]]:
    """Return mean, deviation and paired tests for every share of the labels that has both."""
    tested = [row for row in rows.values() if not row.is_tuning]
    entries: list[dict[str, Any]] = []
    for share in sorted({row.share for row in tested}):
        tuned, scratch = (
            {row.seed: row for row in tested if (row.start, row.share) == (start, share)}
            for start in STARTS
        )
        pairs = [(tuned[seed], scratch[seed]) for seed in sorted(tuned.keys() & scratch.keys())]
        if not pairs:
            continue
        tests = [mcnemar(right[a.key].double(), right[b.key].double()) for a, b in pairs]
        num_test = len(right[pairs[0][0].key])
        entry: dict[str, Any] = {"share": share, "num_train": pairs[0][0].num_train}
        for number, start in enumerate(STARTS):
            entry[start] = summary([pair[number] for pair in pairs], num_test)
        entry["difference"] = mean_and_deviation([a.accuracy - b.accuracy for a, b in pairs])
        entry["mcnemar"] = [dataclasses.asdict(test) for test in tests]
        entries.append(entry)
    return entries


def summary(rows: Sequence[Row], num_test: int) -> dict[str, Any]:
    """Return the accuracies of all seeds."""
    accuracies = [row.accuracy for row in rows]
    return {
        **mean_and_deviation(accuracies),
        "accuracies": accuracies,
        "intervals": [row.interval for row in rows],
        "interval": wilson(round(mean(accuracies) * num_test), num_test),
        "lr": rows[0].lr,
        "epochs": rows[0].epochs,
    }


def mean_and_deviation(values: Sequence[float]) -> dict[str, float]:
    """Return the mean and the standard deviation over seeds."""
    return {"mean": mean(values), "deviation": stdev(values) if len(values) > 1 else 0.0}


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return a line for each share: accuracies in percent, with Wilson's interval of the mean."""
    heads = ("labels", "images", "fine-tuned", "from scratch", "difference", "p (McNemar)")
    lines: list[list[str]] = []
    for entry in entries:
        cells = [f"{entry['share']:.0%}", f"{entry['num_train']:,}"]
        for start in STARTS:
            part = entry[start]
            low, high = part["interval"]
            spread = f"{100 * part['mean']:.2f} ± {100 * part['deviation']:.2f}"
            cells.append(f"{spread} [{100 * low:.1f}, {100 * high:.1f}]")
        difference = entry["difference"]
        cells.append(f"{100 * difference['mean']:+.2f} ± {100 * difference['deviation']:.2f}")
        cells.append(f"at most {max(test['p_value'] for test in entry['mcnemar']):.1g}")
        lines.append(cells)
    return markdown(heads, lines)
