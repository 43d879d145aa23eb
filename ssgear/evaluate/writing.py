"""What an evaluation prints, and where it is written."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ssgear.config import images
from ssgear.errors import ConfigError, StorageError, reason_of
from ssgear.evaluate.options import OF_STORES, TIMM, Evaluation
from ssgear.evaluation.results import Measure, Outcome
from ssgear.report.evaluation_page import FigureRow

_NUMBERS = re.compile(r"rank|fid|frechet|density")
"""Figures that are printed with two decimals."""
_FRACTIONS = re.compile(r"^kid|^cka|^opd|^invariance")
"""Figures that are printed with four; all others are shares, and printed as percentages."""


WIDTH = 120
"""Characters of a line where standard output is no terminal."""


def check_output(evaluation: Evaluation, usual: Path) -> None:
    """Refuse an --output that cannot be written; without one, the `usual` folder."""
    if evaluation.output is None:
        if usual.is_dir() and not os.access(usual, os.W_OK):
            raise ConfigError(
                f"--output: {usual} cannot be written; name a file in a directory of yours"
            )
        return
    folder = evaluation.output.parent
    if evaluation.output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        is_folder = evaluation.output.is_dir()
        wrong = "is a directory" if is_folder else f"{folder} cannot be written"
        raise ConfigError(
            f"--output: {evaluation.output}: {wrong}; name a file in a directory of yours"
        )
    if evaluation.output.suffix != ".json":
        raise ConfigError(
            f"--output: must end in .json (got {evaluation.output}); a page and per-image values "
            "get the same name with other endings"
        )


def unwritable_figures(path: Path, error: OSError) -> StorageError:
    """Return the refusal of figures that cannot be written."""
    return StorageError(
        f"{path}: cannot be written: {reason_of(error)}; name another file by --output: what was "
        "computed is kept, unless --cache is false"
    )


def figures_name(
    folder: Path, evaluation: Evaluation, source: str, *, run: Path | None = None
) -> Path:
    """Return a name that says which images and figures: others never replace the run's own."""
    usual = Evaluation().protocol if evaluation.store is None else OF_STORES
    parts = ["evaluation", source]
    own = None if run is None else images.of_run(run).path
    path = evaluation.data.path
    if path is not None and path != own:
        parts.append(path.resolve().stem)
    if evaluation.max_images is not None:
        parts.append(f"{evaluation.max_images}-images")
    if evaluation.features != "last":
        parts.append(evaluation.features)
    if set(evaluation.protocol) != set(usual):
        parts += evaluation.protocol
    if evaluation.against is not None:
        parts += ["against", Path(evaluation.against.removeprefix(TIMM)).resolve().name]
    if evaluation.labels != (1.0,):
        parts += ["labels", *(f"{share:g}" for share in evaluation.labels)]
    if evaluation.seeds > 1:
        parts.append(f"{evaluation.seeds}-seeds")
    return folder / f"{'-'.join(parts)}.json"


def print_figures(title: str, outcome: Outcome) -> None:
    """Print a table of the figures, with intervals and the number of images that each is of."""
    table = Table(title=escape(title), title_justify="left")
    rows = figure_rows(outcome)
    table.add_column("figure", min_width=max((len(row.name) for row in rows), default=0))
    for heading in ("value", "95 % interval", "learned from", "tested on"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(escape(row.name), row.value, row.interval, row.num_train, row.num_test)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)
    for name, text in outcome.statements.items():
        console.print(f"{name}: {text}", highlight=False, markup=False)


def print_notes(outcome: Outcome) -> None:
    """Print what the user should know before relying on a figure."""
    for note in outcome.notes:
        print(f"ssgear: {note}", file=sys.stderr)


def figure_rows(outcome: Outcome) -> list[FigureRow]:
    """Return the figures as text."""
    return [_row(name, measure) for name, measure in outcome.measures.items()]


def _row(name: str, measure: Measure) -> FigureRow:
    def number(value: float) -> str:
        if _NUMBERS.search(name):
            return f"{value:.2f}"
        return f"{value:.4f}" if _FRACTIONS.search(name) else f"{100 * value:.2f} %"

    value = number(measure.value)
    if measure.deviation is not None:
        value += f" ± {number(measure.deviation)}"
    return FigureRow(
        name=name,
        value=value,
        interval="" if measure.interval is None else " to ".join(map(number, measure.interval)),
        num_train="" if measure.num_train is None else f"{measure.num_train:,}",
        num_test="" if measure.num_test is None else f"{measure.num_test:,}",
    )
