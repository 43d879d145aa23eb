"""What DrLIM makes of the images: every one at five horizontal shifts, and pairs of them.

`SHIFTS` and `shifted` are the paper's shifts of digits (Hadsell, Chopra and LeCun 2006).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ssgear.data.loaders.batch import Batch
from ssgear.data.sources.loading import load_images
from ssgear.data.sources.readers import ArrayReader
from ssgear.data.sources.source import Images, Source
from ssgear.errors import ArgumentError, ConfigError, DataError, refusing
from ssgear.methods.base import Facts, Pretext
from ssgear.methods.drlim.pairs import PairGraph, nearest_rows

SHIFTS = (-6, -3, 0, 3, 6)
"""Pixels that an image is moved sideways."""


@dataclass(kw_only=True)
class ShiftedPairs(Pretext):
    """Images of some classes at all shifts, each with one that belongs to it and one that does not.

    The fields are those of the method's settings.
    """

    reads_images = True

    kind: Literal["plain", "shift"]
    neighbours: int
    digits: tuple[int, ...]
    max_images: int
    graph: PairGraph | None = field(default=None, init=False)
    """Pairs of the images that were made."""

    def select(self, source: Source) -> Source:
        """Return the images of the classes that are shown, which are then all that there are."""
        if source.labels is None:
            raise DataError(
                "--method.digits: chooses images by their labels, and these have none; use "
                "--data.source digits or mnist, class folders, or --data.labels"
            )
        shown = torch.tensor(sorted(set(self.digits)))
        none = shown[~torch.isin(shown, source.labels)].tolist()
        if none:
            raise ConfigError(
                f"--method.digits: no image is of class {' or '.join(map(str, none))}; their "
                f"numbers go from {source.labels.min()} to {source.labels.max()}"
            )
        chosen = torch.isin(source.labels, shown).nonzero()[:, 0]
        part = source.subset(chosen)
        part.labels = torch.searchsorted(shown, source.labels[chosen])
        if source.classes is not None:
            names = dict(enumerate(source.classes))
            part.classes = tuple(names.get(digit, str(digit)) for digit in shown.tolist())
        return part

    def wrap_source(self, source: Source, facts: Facts) -> Source:
        """Return every image at all shifts: of image i at shift s, number 5 i + s."""
        count = min(len(source), self.max_images)
        if count <= self.neighbours:
            raise ConfigError(
                f"--method.neighbours: {self.neighbours} of {count} images; use fewer, or more "
                "images"
            )
        rows = torch.linspace(0, len(source) - 1, count).round().long()
        images = load_images(source, rows, facts.size)
        moved = at_all_shifts(images)
        too_many = (
            f"--method.neighbours: with {self.neighbours} an image belongs to all {count}; use "
            "fewer, or more images"
        )
        with refusing(ArgumentError, lambda _: ConfigError(too_many)):
            self.graph = self._joined(images, moved)
        assert source.labels is not None
        wrapped = Images(
            reader=ArrayReader(f"{source.name} shifted", moved.numpy()),
            keys=source.classes,
            labels=source.labels[rows].repeat_interleave(len(SHIFTS)),
            side=facts.size,
            notes=(f"{count} images at {len(SHIFTS)} shifts", *source.notes),
        )
        result = Source(source.name, wrapped, mean=source.mean, std=source.std)
        result.bad = source.bad
        return result

    def seen(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return each image, one that belongs to it and one that does not."""
        if batch.fetch is None or self.graph is None:
            return tuple(batch.views)
        near, far = self.graph.draw(batch.index, seed=batch.seed, epoch=batch.epoch)
        return (batch.views[0], batch.fetch(near), batch.fetch(far))

    def _joined(self, images: Tensor, moved: Tensor) -> PairGraph:
        """Join neighbours among images at all shifts."""
        if self.kind == "plain":
            return PairGraph.of(nearest_rows(moved.flatten(1), self.neighbours), len(moved))
        own = torch.arange(len(images))[:, None]
        alike = torch.cat((own, nearest_rows(images.flatten(1), self.neighbours)), dim=1)
        places = torch.arange(len(SHIFTS))
        joined = (alike[..., None] * len(SHIFTS) + places).flatten(1)
        return PairGraph.of(joined.repeat_interleave(len(SHIFTS), dim=0), len(moved))


def at_all_shifts(images: Tensor) -> Tensor:
    """Return images [N, C, H, W] at every shift: [5 N, C, H, W], the shifts of one together."""
    return torch.stack([shifted(images, by) for by in SHIFTS], dim=1).flatten(0, 1)


def shifted(images: Tensor, by: int) -> Tensor:
    """Return images [N, C, H, W] moved `by` pixels to the right; what comes in is black."""
    width = images.shape[-1]
    moved = torch.zeros_like(images)
    if abs(by) < width:
        moved[..., max(0, by) : width + min(0, by)] = images[..., max(0, -by) : width - max(0, by)]
    return moved
