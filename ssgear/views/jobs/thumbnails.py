"""A small picture of what is being made: sources beside their views, `preview.jpg` in the store."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssgear.storage.atomic import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

PREVIEW = "preview.jpg"
_SIDE = 128
"""Side of a thumbnail in pixels."""
_SHOWN = 16
"""Views that are shown."""
_COLUMNS = 4
"""Views in a row."""
_GAP = 4
"""Pixels between them."""

Pairs = NDArray[np.uint8]
"""[n, 1 or 2, side, side, 3]: source and view, or the view alone."""


def pairs(images: Tensor | None, views: Tensor, rows: Sequence[int]) -> Pairs:
    """Return thumbnails of some rows: of the views, and of the sources where there are any."""
    kinds = [views] if images is None else [images, views]
    shown = [[_thumbnail(kind[row]) for kind in kinds] for row in rows[:_SHOWN]]
    return np.array(shown, dtype=np.uint8).reshape(-1, len(kinds), _SIDE, _SIDE, 3)


def write_preview(root: Path, shown: Pairs) -> None:
    """Write the picture; where that cannot be done, there is none."""
    file = io.BytesIO()
    Image.fromarray(grid(shown)).save(file, "JPEG", quality=90)
    with contextlib.suppress(OSError):
        write_bytes(root / PREVIEW, file.getvalue())


def grid(shown: Pairs) -> NDArray[np.uint8]:
    """Lay thumbnails out, row after row; source and view touch each other."""
    count, kinds = shown.shape[:2]
    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    height, width = _SIDE + _GAP, kinds * _SIDE + _GAP
    sheet = np.full((rows * height + _GAP, columns * width + _GAP, 3), 255, dtype=np.uint8)
    for number, images in enumerate(shown):
        row, column = divmod(number, columns)
        top, left = row * height + _GAP, column * width + _GAP
        sheet[top : top + _SIDE, left : left + kinds * _SIDE] = np.concatenate(images, axis=1)
    return sheet


def _thumbnail(image: Tensor) -> NDArray[np.uint8]:
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
    return np.asarray(picture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))
