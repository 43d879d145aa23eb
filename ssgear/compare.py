"""`python -m ssgear.compare RUN RUN ...`: runs -> one table and one page, CSV and LaTeX.

Written into `--output`: `comparison.html`, `figures.csv` and `figures.tex`. Figures are those of
each run's `summary.json` and `evaluation-*.json`; where runs kept right and wrong by image of the
same test images, each is tested against the first (evaluation/statistics.py). The last line on
standard output is the path of the page.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ssgear.command import command
from ssgear.config import arguments, help
from ssgear.config.layers import construct
from ssgear.config.options import options_of
from ssgear.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from ssgear.report.comparison.runs import ComparedRun
    from ssgear.report.comparison.table import Difference, Row

USAGE = "python -m ssgear.compare RUN RUN ..."
MOST_NAMES = 3
"""Runs whose names stand in the name of the output."""

ByImage = tuple[str, Mapping[str, "Tensor"]]
"""Fingerprint of test images, and values by image of each figure."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What to compare, and where to write it."""

    output: Path | None = None
    """Directory of the page and the tables; by default compare-RUN-RUN in the current one."""
    figures: tuple[str, ...] = ()
    """Names of the figures to show, in this order; by default all."""
    unpaired: bool = False
    """Show figures of different test images side by side, without a test."""


@command()
def main(words: list[str]) -> int:
    """Run the command and return its exit status."""
    if not words or words[0] in ("-h", "--help"):
        _show_help()
        return 0
    count = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    typed, help_wanted = arguments.read(words[count:])
    given = arguments.check(typed, options_of(Comparison), listing="--help")
    if help_wanted:
        _show_help()
        return 0
    directories = [Path(word).expanduser() for word in words[:count]]
    print(compare(directories, construct(Comparison, arguments.values_of(given))))
    return 0


def _show_help() -> None:
    about = "Compare runs: settings, figures, which differences are real, curves and maps."
    help.show_all(f"{USAGE} [OPTIONS]", about, [Comparison()])


def compare(directories: Sequence[Path], asked: Comparison) -> Path:
    """Compare runs, print the table, write all files, and return the page.

    Raises:
        ConfigError: fewer than two runs, the same run twice, an unknown figure.
        CheckpointError: a directory holds no run, or one that is not finished.
        DataError: figures were measured on different test images.
    """
    from ssgear.report.comparison import table
    from ssgear.report.comparison.page import comparison_page
    from ssgear.report.comparison.runs import read_compared
    from ssgear.storage.atomic import write_text

    _check_runs(directories)
    runs = read_compared(directories)
    if not asked.unpaired:
        _check_images(runs)
    known = dict.fromkeys(name for run in runs for name in run.figures)
    for name in asked.figures:
        if name not in known:
            raise ConfigError(f"--figures: {name}: no run has it{did_you_mean(name, known)}")
    names = asked.figures or tuple(known)
    differences: dict[str, list[Difference | None]] = {}
    notes = ["Differences were not tested: --unpaired."]
    if not asked.unpaired:
        differences, notes = tests(runs, names)
    rows = table.rows(runs, differences, names)
    folder = _folder(asked, runs)
    write_text(folder / "figures.csv", table.to_csv(rows, runs))
    write_text(folder / "figures.tex", table.to_latex(rows, runs))
    write_text(folder / "comparison.html", comparison_page(runs, rows, notes))
    _print(runs, rows, notes)
    return folder / "comparison.html"


def _check_runs(directories: Sequence[Path]) -> None:
    if len(directories) < 2:
        raise ConfigError(f"a comparison needs at least two runs: {USAGE}")
    places: dict[Path, Path] = {}
    for directory in directories:
        place = directory.resolve()
        if place in places:
            raise ConfigError(f"{directory}: the same run twice; name each run once")
        places[place] = directory


def _check_images(runs: Sequence[ComparedRun]) -> None:
    """Refuse figures of the same name that were measured on different test images."""
    first = runs[0]
    for run in runs[1:]:
        for prefix, images in run.test_images.items():
            others = first.test_images.get(prefix, "")
            if images and others and images != others:
                raise DataError(
                    f"{run.sources[prefix]} and {first.sources[prefix]}: measured on different "
                    "test images; evaluate both runs on the same by python -m ssgear.evaluate, or "
                    "show them side by side without a test by --unpaired"
                )


def tests(
    runs: Sequence[ComparedRun], names: Sequence[str]
) -> tuple[dict[str, list[Difference | None]], list[str]]:
    """Test each run against the first, and return differences by figure and notes for the reader.

    A figure has one entry for each run; None where nothing is known by image.
    """
    from ssgear.evaluation.results import read_per_image

    by_image: list[dict[str, ByImage]] = [
        {prefix: read_per_image(path) for prefix, path in run.sources.items()} for run in runs
    ]
    found = {}
    for name in names:
        prefix = name[: name.find(": ") + 2] if ": " in name else ""
        values = [one.get(prefix, ("", {})) for one in by_image]
        differences = _differences(values, name.removeprefix(prefix))
        if any(differences):
            found[name] = differences
    untested = [name for name in names if name not in found]
    notes = []
    if len(runs) > 2 and found:
        notes.append(f"p-values are corrected for {len(runs) - 1} comparisons (Holm 1979).")
    if untested:
        notes.append(
            f"Not tested, as values by image of the same test images are missing: "
            f"{', '.join(untested)}."
        )
    return found, notes


def _differences(values: Sequence[ByImage], name: str) -> list[Difference | None]:
    """Return how each run differs from the first in a figure."""
    from ssgear.evaluation.results import LABELS
    from ssgear.evaluation.statistics import paired_figures
    from ssgear.report.comparison.table import Difference, holm

    images, first = values[0]
    places = [
        place
        for place, (others, tensors) in enumerate(values)
        if place and images and others == images and name in tensors and name in first
    ]
    results = [
        paired_figures(values[place][1][name], first[name], labels=first.get(LABELS))
        for place in places
    ]
    corrected = holm([result.p_value for result in results])
    differences: list[Difference | None] = [None] * len(values)
    for place, result, p_holm in zip(places, results, corrected, strict=True):
        differences[place] = Difference(
            value=result.difference,
            interval=result.interval,
            p_value=result.p_value,
            p_holm=p_holm,
            test=result.method,
        )
    return differences


def _folder(asked: Comparison, runs: Sequence[ComparedRun]) -> Path:
    """Return the directory of the output, and make it."""
    names = [run.name.replace("/", "-") for run in runs]
    more = f"-and-{len(names) - MOST_NAMES}-more" if len(names) > MOST_NAMES else ""
    folder = asked.output or Path(f"compare-{'-'.join(names[:MOST_NAMES])}{more}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--output: {folder}: cannot be made ({error.strerror}); name a directory of yours"
        ) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--output: {folder}: cannot be written; name a directory of yours")
    return folder


def _print(runs: Sequence[ComparedRun], rows: Sequence[Row], notes: Sequence[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from ssgear.report.comparison import table

    console = Console()
    for title, width, lines in (
        ("Settings that differ", 0, [(s.name, *s.values) for s in table.settings(runs)]),
        ("Figures", 1, [(row.name, *_cells(row)) for row in rows]),
    ):
        shown = Table(title=title, title_justify="left")
        shown.add_column("")
        for run in runs:
            shown.add_column(escape(run.name), justify="right" if width else "left")
        for line in lines:
            shown.add_row(*map(escape, line))
        if lines:
            console.print(shown)
    for note in notes:
        console.print(note, highlight=False, markup=False)


def _cells(row: Row) -> list[str]:
    """Return the figure of each run as lines: value, interval, difference."""
    from ssgear.report.comparison import table

    cells = []
    for figure, difference in zip(row.figures, row.differences, strict=True):
        lines = [] if figure is None else [table.value_text(row, figure.value)]
        if figure is not None and figure.interval is not None:
            lines.append(table.span_text(row, figure.interval))
        if difference is not None:
            verdict = "real" if difference.is_real else "not real"
            lines.append(f"{table.difference_text(row, difference)} ({verdict})")
        cells.append("\n".join(lines))
    return cells


if __name__ == "__main__":
    sys.exit(main())
