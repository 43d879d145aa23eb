"""DrLIM's maps for the template: the same points coloured by shift and by class, with images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssgear.report import plots
from ssgear.report.charts import UNITS
from ssgear.report.contents import ColouredMaps, Pixels
from ssgear.report.images import Picture, picture

Placed = tuple[float, float, Picture]
"""Left and top in percent, and the picture."""

THUMBNAILS = 24
"""Images shown on a map."""


@dataclass(frozen=True, kw_only=True)
class Planes:
    """The maps: of each its title, its scatter plot and the images shown on it."""

    maps: list[tuple[str, plots.Scatter, list[Placed]]]
    count: int


def shift_maps(shown: ColouredMaps | None) -> Planes | None:
    """Lay the maps out; None where there is nothing to show."""
    if shown is None or not len(shown.xy):
        return None
    maps = []
    for colouring in shown.colourings:
        plot = plots.scatter(shown.xy, colouring.labels, colouring.classes)
        if plot is None:
            return None
        pictures = [] if colouring.images is None else _thumbnails(plot, colouring.images)
        maps.append((colouring.title, plot, pictures))
    return Planes(maps=maps, count=len(maps[0][1].points))


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
