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
    overall: float | None = None
    """Share of the K neighbours that have their query's class, over `num_queries` test images."""
    num_queries: int | None = None
    """Test images that `overall` is of; those shown are some of them."""


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often images of a class were taken for another."""

    matrix: Numbers
    """[C, C] counts; rows: the true class, columns: the prediction."""
    classes: Sequence[str]
    title: str = "linear probe"
    """The classifier."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Queries with what they retrieve, chosen by rule, and the figures over all queries."""

    queries: Pixels
    """[Q, H, W, 3]."""
    neighbours: Pixels
    """[Q, K, H, W, 3], the nearest first."""
    similarities: Sequence[Sequence[float]]
    """[Q, K], cosine."""
    query_labels: Sequence[str]
    neighbour_labels: Sequence[Sequence[str]]
    """[Q][K]."""
    kinds: Sequence[Literal["best", "typical", "worst"]]
    """[Q]."""
    average_precisions: Sequence[float]
    """[Q]."""
    mean_average_precision: float
    """Over all queries, as `mean_average_precision` of the evaluation defines it."""
    num_queries: int
    interval: tuple[float, float] | None = None
    """95 % confidence interval of `mean_average_precision`."""
    precision_at: Mapping[int, float] = field(default_factory=dict)
    """Share of the first k that have the query's class, by k, over all queries."""
    recall_at: Mapping[int, float] = field(default_factory=dict)
    """Share of the images of the query's class that are among the first k, by k."""
    hit_at: Mapping[int, float] = field(default_factory=dict)
    """Share of queries with at least one image of their class among the first k, by k; metric
    learning calls it Recall@k."""
    rule: str = (
        "best and worst: the queries of highest and lowest average precision; typical: those "
        "nearest to the median"
    )
    """How the queries shown were chosen."""


@dataclass(frozen=True, kw_only=True)
class LabelPoint:
    """An accuracy by how many labels it was learned from."""

    share: float
    """Of the training labels, in (0, 1]."""
    num_labels: int
    accuracy: float
    interval: tuple[float, float] | None = None
    """95 % confidence interval."""


@dataclass(frozen=True, kw_only=True)
class LabelCurve:
    """Accuracy over the number of labels."""

    points: Sequence[LabelPoint]
    """Of this run's encoder."""
    title: str = "linear probe"
    """What learns from the labels."""
    baselines: Mapping[str, Sequence[LabelPoint]] = field(default_factory=dict)
    """The same of others, by name: an untrained encoder, training from scratch."""


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """How similar the layers of two encoders are on the same images."""

    matrix: Points
    """[La, Lb]."""
    rows: Sequence[str]
    """Names of the first encoder's layers."""
    columns: Sequence[str]
    """Names of the second encoder's layers."""
    title: str
    """What is compared: "this run (rows) and resnet18 (columns)"."""
    measure: str = "linear CKA"
    is_distance: bool = False
    """Whether 0 means equal (OPD); else 1 does (CKA)."""


@dataclass(frozen=True, kw_only=True)
class Invariance:
    """How far features move under each augmentation, by its strength."""

    curves: Mapping[str, Sequence[tuple[float, float]]]
    """(strength, mean similarity to the features of the untouched image) by augmentation."""
    measure: str = "cosine similarity"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Rows of pictures with a title: attention maps, principal components of patches."""

    title: str
    rows: Sequence[Sequence[Pixels]]
    """Each [H, W, 3]."""
    text: str = ""
    """A sentence or two on what is shown."""
    columns: Sequence[str] = ()
    """A name over each column."""


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
    confusions: Sequence[Confusion] = ()
    """Of each classifier."""
    retrieval: Retrieval | None = None
    label_curves: Sequence[LabelCurve] = ()
    """Of each protocol."""
    similarities: Sequence[Similarity] = ()
    invariance: Invariance | None = None
    pictures: Sequence[Pictures] = ()
    map: Map | None = None
    maps: Maps | None = None
    """What the method draws of its own."""
