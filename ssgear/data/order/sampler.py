"""Which image stands in which row of which step.

A pure function of (seed, stream, epoch, position). The order is drawn once an epoch for the whole
world; a rank takes a contiguous part of every global batch, so that the ranks together see exactly
what one process would. A sampler's whole state is (epoch, position), which the trainer keeps.
Synthetic images (data/order/view_mix.py) are numbered after the real ones and make no epoch longer,
and stored views of the real ones after both. `stream` names an order of its own for repeated phases
(`ssgear.methods.base.Phase`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssgear.data.order.view_mix import Mix, ViewMix, mixed_order
from ssgear.errors import ConfigError, DataError
from ssgear.kernels import philox


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """An epoch's order, as `Sampler.items` reads it."""

    draw: Tensor
    """[m] int64: as in `Items`, for all steps and ranks."""
    rows: Tensor | None = None
    """[V, m] int64: likewise."""
    stored: Tensor | None = None
    """[V, m] bool: which views are stored generated ones, where any may be."""


@dataclass(frozen=True, kw_only=True)
class Items:
    """What the rows of one rank's part of a global batch are made from."""

    index: Tensor
    """[n] int64: place in the data set; synthetic images stand after the real ones."""
    draw: Tensor
    """[n] int64: what the chances of the views are drawn by: the index, but another number each
    time that an image comes again within an epoch."""
    position: Tensor
    """[n] int64: row of the global batch."""
    generated: Tensor | None = None
    """[V or 1, n] bool: which views come from a stored generated image; None where none does."""
    rows: Tensor | None = None
    """[V, n] int64: as `rows_of`; None where every view is made of the image at `index`."""

    def rows_of(self, view: int) -> Tensor:
        """Return what a view is made of, [n] int64: places among all images that a loader has.

        The real ones come first, then the synthetic ones, then stored views
        (`loading.build_loader` joins them).
        """
        return self.index if self.rows is None else self.rows[view]


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """The order of a data set, cut into global batches and those into ranks.

    The last short batch is left out.
    """

    num_images: int
    """Images of the data set."""
    batch_size: int
    """Rows of a global batch."""
    seed: int
    """Seed of the run."""
    rank: int = 0
    """This process."""
    world_size: int = 1
    """How many processes share a batch."""
    num_synthetic: int = 0
    """Synthetic images beside those."""
    synthetic_ratio: float = 0.0
    """Share of the rows that are synthetic."""
    views: ViewMix | None = field(default=None, repr=False)
    """Stored views that stand for images, where there are any."""

    def __post_init__(self) -> None:
        """Refuse a set smaller than a batch and a batch that the ranks cannot share evenly."""
        if self.num_images < self.batch_size:
            smaller = f"--optim.batch-size {self.num_images // 2 * 2} or less, "
            raise DataError(
                f"{self.num_images} images to train on are fewer than one batch of "
                f"{self.batch_size}; use {smaller if self.num_images > 1 else ''}more images, or a "
                "smaller --data.test-share"
            )
        if self.batch_size % self.world_size:
            raise ConfigError(
                f"--optim.batch-size: {self.batch_size} rows cannot be shared evenly by "
                f"{self.world_size} ranks; use a multiple of {self.world_size}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of whole batches in one pass over the real images."""
        return self.num_images // self.batch_size

    def order(self, epoch: int, stream: str = "") -> Order:
        """Return the order of the images in an epoch; `items` reads it."""
        draw = self._draw(epoch, stream)
        if self.views is None:
            return Order(draw=draw)
        # for the whole epoch: the calls of a draw cost more than its rows
        rows, stored = self.views.choose(
            self._index(draw), draw, seed=self.seed, stream=stream, epoch=epoch
        )
        return Order(draw=draw, rows=rows, stored=stored)

    def _draw(self, epoch: int, stream: str) -> Tensor:
        if self._mixes:
            mix = Mix(
                num_real=self.num_images,
                num_synthetic=self.num_synthetic,
                ratio=self.synthetic_ratio,
            )
            return mixed_order(
                mix,
                seed=self.seed,
                stream=stream,
                epoch=epoch,
                steps=self.steps_per_epoch,
                batch_size=self.batch_size,
            )
        return philox.permutation(
            philox.derive_key(self.seed, "order", stream, epoch), self.num_images
        )

    def items(self, order: Order, step: int) -> Items:
        """Return this rank's rows of batch number `step` of an epoch in that order."""
        share = self.batch_size // self.world_size
        position = torch.arange(self.rank * share, (self.rank + 1) * share)
        here = step * self.batch_size + position
        draw = order.draw[here]
        index = self._index(draw)
        generated = (index >= self.num_images)[None] if self._mixes else None
        if order.stored is not None:
            stored = order.stored[:, here]
            generated = stored if generated is None else stored | generated
        rows = None if order.rows is None else order.rows[:, here]
        return Items(index=index, draw=draw, position=position, generated=generated, rows=rows)

    def _index(self, draw: Tensor) -> Tensor:
        return draw % (self.num_images + self.num_synthetic)

    @property
    def _mixes(self) -> bool:
        return self.num_synthetic > 0 and self.synthetic_ratio > 0
