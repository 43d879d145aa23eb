"""DrLIM's maps for the template: the same points coloured by shift and by class, with images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssgear.report import images, plots
from ssgear.report.charts import UNITS

THUMBNAILS = 24
"""Images shown on a map."""


def shift_maps(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the maps, each with its title, its scatter plot and the images shown on it."""
    if not found or not len(found["xy"]):
        return None
    xy = np.asarray(found["xy"], dtype=np.float64)
    maps = []
    for title, labels, classes in found["colourings"]:
        plot = plots.scatter(xy, labels, classes)
        if plot is None:
            return None
        shown = _thumbnails(plot, found["images"]) if title == "by class" else []
        maps.append((title, plot, shown))
    return {"maps": maps, "count": len(maps[0][1].points)}


def _thumbnails(
    plot: plots.Scatter, pixels: NDArray[np.uint8]
) -> list[tuple[float, float, images.Picture]]:
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
            images.picture(pixels[plot.points[place][2]]),
        )
        for place in chosen
    ]
