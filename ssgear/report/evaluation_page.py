"""The page of an evaluation: figures with intervals, and what the protocols had to show.

    write_evaluation(path, Evaluated(title="runs/a", source="mini", rows=rows), contents)

It has the sections of a run's report that an evaluation can fill, in the same layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssgear.report.contents import Contents
from ssgear.report.page import render
from ssgear.report.sections.measured import measured_sections
from ssgear.storage.atomic import write_text


@dataclass(frozen=True, kw_only=True)
class FigureRow:
    """A figure as text."""

    name: str
    value: str
    interval: str = ""
    """95 % confidence interval."""
    num_train: str = ""
    """Images that it was learned from."""
    num_test: str = ""
    """Images that it was measured on."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What was evaluated, and what came out."""

    title: str
    """The encoder."""
    source: str
    """The images."""
    rows: Sequence[FigureRow]
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    """What a reader should know before relying on a figure."""


def write_evaluation(path: Path, evaluated: Evaluated, contents: Contents) -> Path:
    """Write the page and return its path."""
    page = render(
        "evaluation.html",
        title=evaluated.title,
        source=evaluated.source,
        facts=evaluated.facts,
        rows=evaluated.rows,
        notes=evaluated.notes,
        **measured_sections(contents),
    )
    write_text(path, page)
    return path
