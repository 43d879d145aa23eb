"""What a run hands to its report beside the files in its directory.

    write_report(run_dir, Contents(views=Views(rows=...), map=Map(xy=...)))

Pictures are uint8 [..., height, width, 3]. The page has a section for each part that is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ssgear.methods.base import Card, Maps

Pixels = NDArray[np.uint8]
Points = NDArray[np.floating]
"""[n, 2]."""
Numbers = NDArray[np.integer]


@dataclass(frozen=True, kw_only=True)
class Views:
    """Rows of an image and the views of it, each of any size."""

    rows: Sequence[Sequence[Pixels]]
    stored: NDArray[np.bool_] | None = None
    """[rows, views]: which views are stored generated ones."""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Test images, and the training images whose features are nearest to theirs."""

    queries: Pixels
    """[Q, H, W, 3]."""
    neighbours: Pixels
    """[Q, K, H, W, 3]."""
    similarities: Sequence[Sequence[float]]
    """[Q, K]."""
    measure: str = "cosine similarity"
    """What a similarity is."""
    query_labels: Sequence[str] | None = None
    neighbour_labels: Sequence[Sequence[str]] | None = None


@dataclass(frozen=True, kw_only=True)
class Map:
    """Features of test images on a plane."""

    xy: Points
    projected: bool = True
    """Whether the plane is a projection; else the features are two numbers."""
    labels: Numbers | None = None
    classes: Sequence[str] | None = None
    thumbnails: Pixels | None = None
    """[n, H, W, 3]."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Positives of which at least one is synthetic."""

    kind: Literal["real", "synthetic"]
    """The first picture of a pair: a view of a real image, or of a synthetic one."""
    images: Pixels
    """[N, 2, H, W, 3]."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Images that a generator made of the same noise through time."""

    real: Pixels
    """[N, H, W, 3], beside them."""
    steps: Sequence[tuple[int, Pixels]]
    """A step of the run, and the images of that time [N, H, W, 3]."""
    count: int
    """Images that the distances are of."""
    paired: bool = False
    """Whether a row's real image conditions its synthetic one."""
    pairs: Pairs | None = None
    frechet: Mapping[str, float] = field(default_factory=dict)
    """Distances in the space of the run's own encoder, by time."""
    fid: float | None = None
    fid_protocol: str = ""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """All that is handed over; each part may be missing."""

    card: Card = field(default_factory=Card)
    """What the page says of the method."""
    views: Views | None = None
    samples: Samples | None = None
    neighbours: Neighbours | None = None
    map: Map | None = None
    maps: Maps | None = None
    """What the method draws of its own."""
