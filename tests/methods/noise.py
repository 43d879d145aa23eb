"""Images of noise, for what cuts patches out of images."""

from __future__ import annotations

import numpy as np

from ssgear.data.sources.readers import ArrayReader
from ssgear.data.sources.source import Images, Source


def noise(count: int, side: int) -> Source:
    """Return images uint8 [3, side, side], the same in every call."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)
    reader = ArrayReader("noise", pixels)
    return Source("noise", Images(reader=reader), mean=(0.5,) * 3, std=(1.0,) * 3)
