"""Maps that a method draws, for the template: the same points under several colourings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ssgear.methods.base import Maps
from ssgear.report import plots
from ssgear.report.charts import UNITS
from ssgear.report.contents import Pixels
from ssgear.report.images import Picture, picture

Placed = tuple[float, float, Picture]
"""Left and top in percent, and the picture."""

THUMBNAILS = 24
"""Images shown on a map."""


class Plane(NamedTuple):
    """A map, and the images shown on it."""

    title: str
    plot: plots.Scatter
    images: list[Placed]


def planes(contents: Maps | None) -> list[Plane]:
    """Lay the maps out; none where there is nothing to show."""
    if contents is None or not len(contents.xy):
        return []
    pixels: Pixels = contents.images.permute(0, 2, 3, 1).numpy()
    maps = []
    for colouring in contents.colourings:
        plot = plots.scatter(contents.xy.numpy(), colouring.labels.numpy(), colouring.names)
        if plot is None:
            return []
        pictures = _thumbnails(plot, pixels) if colouring.pictured else []
        maps.append(Plane(colouring.title, plot, pictures))
    return maps


def _thumbnails(plot: plots.Scatter, pixels: Pixels) -> list[Placed]:
    """Return left and top in percent, and the picture, of images that lie far from each other."""
    places = np.array([(x, y) for x, y, _, _ in plot.points], dtype=np.float64)
    chosen = [0]
    distance = np.linalg.norm(places - places[0], axis=1)
    while len(chosen) < min(THUMBNAILS, len(places)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=1))
    return [
        (
            round(plot.points[place][0] * 100 / UNITS, 1),
            round(plot.points[place][1] * 100 / plot.height, 1),
            picture(pixels[plot.points[place][2]]),
        )
        for place in chosen
    ]
