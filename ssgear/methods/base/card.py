"""A method's card: what people are told of it, as data.

The report, `ssgear.evaluate` and the readings while training take titles, hints and figures from
here; no other room knows a method by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

Encode = Callable[[Tensor], Tensor]
"""Features [N, F] float32 of images uint8 [N, 3, H, W]."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """How a figure of the summary is shown."""

    title: str
    chance: float | None = None
    """Value of a guess, where it does not depend on the data."""


@dataclass(frozen=True, kw_only=True)
class LabelledSplits:
    """Images of both splits, uint8 [N, 3, S, S], and their labels, int64 [N]."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...] | None = None
    """Name of each class, where it has one."""


@dataclass(frozen=True, kw_only=True)
class OwnProtocol:
    """A protocol that a method brings with it; it measures any encoder."""

    name: str
    """What `evaluate --protocol` takes."""
    measure: Callable[[Encode, LabelledSplits], dict[str, float]]
    """Returns figures by name."""


@dataclass(frozen=True, kw_only=True)
class Colouring:
    """One way to colour the points of a map."""

    title: str
    labels: Tensor
    """Int64 [N]: colour of each point."""
    names: tuple[str, ...] | None
    """Name of each colour, where it has one."""
    pictured: bool = False
    """Whether some of the images are shown on this one."""


@dataclass(frozen=True, kw_only=True)
class Maps:
    """Points of the plane for the report, the same ones under several colourings."""

    title: str
    text: str
    """What the points are, after their number."""
    xy: Tensor
    """[N, 2]."""
    images: Tensor
    """Image of each point, uint8 [N, 3, H, W]."""
    colourings: tuple[Colouring, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What people are told of a method."""

    title: str = ""
    """How it is written; by default as --method names it."""
    aim: str = "Training pulls the features of one image's views together."
    """What training does with the views, in one sentence."""
    collapse_hint: str = "try a lower --optim.lr or a longer --optim.warmup-epochs"
    """What a run is told where its features collapse: the method's usual cause, what to try."""
    final: tuple[str, ...] = ()
    """Protocols of a run's final figures beside linear and knn."""
    judged_by: str = ""
    """Figure of those that tells whether training helped; by default the linear probe."""
    sees_labels: bool = False
    """Whether training learns from the labels of the images."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """Figures of the summary that have a row in the report, beside the usual ones."""
    protocols: tuple[OwnProtocol, ...] = ()
    """Protocols that the method brings with it."""
    maps: Callable[[Encode, LabelledSplits], Maps] | None = None
    """Draws what the report shows of features that are points of the plane."""
