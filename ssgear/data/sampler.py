"""Which image stands in which row of which step.

A pure function of (seed, stream, epoch, position). The order is drawn once an epoch for the whole
world; a rank takes a contiguous part of every global batch, so that the ranks together see exactly
what one process would. A sampler's whole state is (epoch, position), which the trainer keeps.
`stream` names an order of its own for repeated phases (DESIGN.md, "Groups, phases, one loop").
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssgear.errors import ConfigError, DataError
from ssgear.kernels import philox


@dataclass(frozen=True, kw_only=True)
class Items:
    """What the rows of one rank's part of a global batch are made from."""

    index: Tensor
    """[n] int64: place in the data set."""
    position: Tensor
    """[n] int64: row of the global batch."""
    generated: Tensor | None = None
    """[V, n] bool: which views come from a stored generated image; None where none does."""


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
        """Return the number of whole batches in one pass."""
        return self.num_images // self.batch_size

    def order(self, epoch: int, stream: str = "") -> Tensor:
        """Return the order of all images in an epoch, [N] int64."""
        return philox.permutation(
            philox.derive_key(self.seed, "order", stream, epoch), self.num_images
        )

    def items(self, order: Tensor, step: int) -> Items:
        """Return this rank's rows of batch number `step` of an epoch in that order."""
        share = self.batch_size // self.world_size
        position = torch.arange(self.rank * share, (self.rank + 1) * share)
        return Items(index=order[step * self.batch_size + position], position=position)
