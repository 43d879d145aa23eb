"""Rows of pictures with a title: attention maps, principal components of patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ssgear.report.contents import Pictures
from ssgear.report.images import Picture, picture

MAX_PARTS = 4
MAX_ROWS = 6
MAX_COLUMNS = 6


@dataclass(frozen=True, kw_only=True)
class PicturePart:
    """Rows of pictures."""

    title: str
    text: str
    columns: tuple[str, ...]
    rows: list[list[Picture]]
    num_rows: int
    """Rows that were handed over, shown or not."""


def pictures(contents: Sequence[Pictures]) -> list[PicturePart]:
    """Lay out rows of pictures, of many the first."""
    return [_part(one) for one in contents if len(one.rows)][:MAX_PARTS]


def _part(contents: Pictures) -> PicturePart:
    return PicturePart(
        title=contents.title,
        text=contents.text,
        columns=tuple(str(name) for name in contents.columns[:MAX_COLUMNS]),
        rows=[[picture(image) for image in row[:MAX_COLUMNS]] for row in contents.rows[:MAX_ROWS]],
        num_rows=len(contents.rows),
    )
