"""Heat maps of the report: confusion matrices and similarities of layers.

Up to `MAX_CELLS` rows and columns each cell shows its number; a larger matrix is a picture, with
the pairs that matter in a table beside it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssgear.report.contents import Confusion, Similarity
from ssgear.report.images import Picture

MAX_CELLS = 24
"""Most rows or columns whose cells have numbers."""
MAX_PAIRS, MAX_PAIRS_BESIDE_CELLS = 20, 8
"""Rows of the table of confused classes, without and with numbers in the matrix."""
MAX_MISSED = 20
"""Rows of the table of classes that are missed."""
MAX_SIDE = 512
"""Most pixels of a picture of a matrix; a larger matrix is made smaller by means."""
STRONG = 55
"""Percent from which a cell's text is light on dark."""
RIGHT, WRONG = (74, 122, 240), (222, 72, 78)
"""Colours of cells on and off the diagonal of a picture, between those of day and night."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell."""

    text: str
    level: int
    """Strength of its colour in percent."""
    title: str
    """What it says in words."""
    is_diagonal: bool

    @property
    def is_strong(self) -> bool:
        """Whether its text is light."""
        return self.level >= STRONG


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """A matrix as cells with numbers, or as a picture."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    """Empty where there are too many; `picture` has them then."""
    picture: Picture | None


@dataclass(frozen=True, kw_only=True)
class ConfusedPair:
    """Images of a class that were taken for another."""

    true: str
    predicted: str
    count: int
    share: str
    """Of the images of the true class."""


@dataclass(frozen=True, kw_only=True)
class ConfusionPart:
    """A confusion matrix, its worst pairs and its classes that are missed most often."""

    map: HeatMap
    accuracy: str
    num_images: int
    pairs: tuple[ConfusedPair, ...]
    missed: tuple[tuple[str, str, int], ...]
    """Class, share of its images that are right, and their number."""


@dataclass(frozen=True, kw_only=True)
class SimilarityPart:
    """Similarity of the layers of two encoders."""

    map: HeatMap
    measure: str
    is_distance: bool


def confusions(contents: Sequence[Confusion]) -> list[ConfusionPart]:
    """Lay out confusion matrices; those of no image are left out."""
    return [_confusion(one) for one in contents if np.asarray(one.matrix).sum() > 0]


def _confusion(contents: Confusion) -> ConfusionPart:
    counts = np.asarray(contents.matrix, dtype=np.int64)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    names = tuple(str(name) for name in contents.classes)
    cells = [
        [_confusion_cell(names, counts, shares, row, column) for column in range(len(names))]
        for row in range(len(names))
        if len(names) <= MAX_CELLS
    ]
    order = np.argsort(np.diag(shares) + (totals == 0), kind="stable")[:MAX_MISSED]
    missed = [(names[row], _percent(shares[row, row]), int(totals[row])) for row in order.tolist()]
    return ConfusionPart(
        map=HeatMap(
            title=contents.title,
            rows=names,
            columns=names,
            cells=tuple(tuple(row) for row in cells),
            picture=None if cells else _picture(shares, diagonal=True),
        ),
        accuracy=_percent(np.trace(counts) / counts.sum()),
        num_images=int(counts.sum()),
        pairs=_worst_pairs(names, counts, shares)[: MAX_PAIRS_BESIDE_CELLS if cells else MAX_PAIRS],
        missed=() if cells else tuple(missed),
    )


def _confusion_cell(
    names: Sequence[str], counts: NDArray[np.int64], shares: Floats, row: int, column: int
) -> Cell:
    count, share = int(counts[row, column]), float(shares[row, column])
    verb = "recognized" if row == column else f"taken for {names[column]}"
    return Cell(
        text=f"{100 * share:.0f}" if count else "",
        level=round(100 * share),
        title=f"{names[row]}, {verb}: {count:,} of {int(counts[row].sum()):,}",
        is_diagonal=row == column,
    )


def _worst_pairs(
    names: Sequence[str], counts: NDArray[np.int64], shares: Floats
) -> tuple[ConfusedPair, ...]:
    """Return the pairs that are confused most often, by the share of the true class."""
    wrong = np.where(np.eye(len(names), dtype=bool), 0.0, shares)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_PAIRS]
    places = [divmod(int(place), len(names)) for place in order]
    return tuple(
        ConfusedPair(
            true=names[row],
            predicted=names[column],
            count=int(counts[row, column]),
            share=_percent(shares[row, column]),
        )
        for row, column in places
        if wrong[row, column] > 0
    )


def similarities(contents: Sequence[Similarity]) -> list[SimilarityPart]:
    """Lay out the similarities of layers."""
    return [_similarity(one) for one in contents if np.asarray(one.matrix).size]


def _similarity(contents: Similarity) -> SimilarityPart:
    matrix = np.asarray(contents.matrix, dtype=np.float64)
    finite = matrix[np.isfinite(matrix)]
    highest = float(finite.max()) if len(finite) and contents.is_distance else 1.0
    closeness = 1 - matrix / (highest or 1.0) if contents.is_distance else matrix
    closeness = np.clip(np.nan_to_num(closeness), 0, 1)
    rows, columns = tuple(map(str, contents.rows)), tuple(map(str, contents.columns))
    cells = [
        tuple(
            Cell(
                text=f"{value:.2f}" if np.isfinite(value) else "-",
                level=round(100 * level),
                title=f"{rows[row]} and {columns[column]}: {value:.3f}",
                is_diagonal=True,
            )
            for column, (value, level) in enumerate(zip(matrix[row], closeness[row], strict=True))
        )
        for row in range(len(rows))
        if max(matrix.shape) <= MAX_CELLS
    ]
    shown = HeatMap(
        title=contents.title,
        rows=rows,
        columns=columns,
        cells=tuple(cells),
        picture=None if cells else _picture(closeness, diagonal=False),
    )
    return SimilarityPart(map=shown, measure=contents.measure, is_distance=contents.is_distance)


def _picture(shares: Floats, *, diagonal: bool) -> Picture:
    """Draw a matrix of shares, a pixel a cell; transparent where nothing is."""
    shape = shares.shape
    rgba = np.empty((*shape, 4), dtype=np.uint8)
    on_diagonal = np.eye(*shape) > 0 if diagonal else np.ones(shape, dtype=bool)
    rgba[..., :3] = np.where(on_diagonal[..., None], RIGHT, WRONG)
    rgba[..., 3] = np.rint(255 * np.sqrt(shares))  # a few percent can still be seen
    image = Image.fromarray(rgba, "RGBA")
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri=f"data:image/png;base64,{data}", width=image.width, height=image.height)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
