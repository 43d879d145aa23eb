"""Images as data URIs: small ones lossless, larger ones as JPEG no bigger than they are shown.

A report is one file of a few megabytes, so sides are bounded here, and the thumbnails of the map
share one sheet.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ssgear.report.contents import Pixels

MAX_SIDE = 128
"""Largest side of a picture in the report: images are shown at up to 96 CSS pixels."""
LOSSLESS_SIDE = 48
"""Up to this side an image is kept as PNG, to the bit."""
THUMBNAIL_SIDE = 32
"""Side of the thumbnails on the map's sheet."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image to show."""

    uri: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        """Whether single pixels should stay visible when the image is enlarged."""
        return max(self.width, self.height) <= 64


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Thumbnails side by side in one image, `columns` in a row, each `side` pixels square."""

    uri: str
    side: int
    columns: int


def picture(pixels_HWC: Pixels, side: int = MAX_SIDE) -> Picture:
    """Encode one uint8 image [H, W, 3], no larger than `side`."""
    image = Image.fromarray(np.ascontiguousarray(pixels_HWC, dtype=np.uint8))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    lossless = max(image.size) <= LOSSLESS_SIDE
    return Picture(uri=_uri(image, lossless=lossless), width=image.width, height=image.height)


def sheet(thumbnails_NHWC: Pixels) -> Sheet:
    """Put n uint8 images [n, h, w, 3] on one sheet, row by row."""
    count = len(thumbnails_NHWC)
    side = min(THUMBNAIL_SIDE, max(thumbnails_NHWC.shape[1:3]))
    columns = max(1, math.ceil(math.sqrt(count)))
    paper = Image.new("RGB", (columns * side, max(1, math.ceil(count / columns)) * side))
    for place, pixels in enumerate(thumbnails_NHWC):
        tile = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.uint8))
        if tile.size != (side, side):
            tile = tile.resize((side, side), Image.Resampling.LANCZOS)
        paper.paste(tile, (place % columns * side, place // columns * side))
    return Sheet(uri=_uri(paper, lossless=False), side=side, columns=columns)


def _uri(image: Image.Image, *, lossless: bool) -> str:
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=85, optimize=True)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
