"""What of a run's images comes from stores: X union Z row by row, stored views view by view.

Pure functions of (seed, stream, epoch), called by the sampler before anything is decoded.

X union Z (`mixed_order`): which rows are real and which synthetic, and which image each one is. An
epoch has as many rows as X alone fills, whatever |Z|: the budget is images seen. Of the first t
rows of a run floor(t * ratio) are synthetic, so every batch has its share to within a row, at
random places. Real and synthetic images are each walked through in shuffled passes that go on
across epochs: no image comes again before its pass is over.

Stored views (`ViewMix`): a view of a sample is, with some probability, one of the generated views
that a store holds of its image (docs/math.md 3), each as likely as the others. What a draw says
does not depend on the probability: the views that are generated at 0.3 are so at 0.5, from the same
images.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from ssgear.kernels import philox


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Two sets of images and the share of the second."""

    num_real: int
    """Images of X; places 0 to num_real - 1."""
    num_synthetic: int
    """Images of Z; places num_real on."""
    ratio: float
    """Share of the rows that are synthetic, in [0, 1]; counted in millionths at the finest."""

    def synthetic_before(self, row: int) -> int:
        """Return how many of a run's first rows are synthetic."""
        # whole numbers: a float would miscount where row * ratio is whole
        ratio = Fraction(self.ratio).limit_denominator(10**6)
        return row * ratio.numerator // ratio.denominator


def mixed_order(
    mix: Mix, *, seed: int, stream: str, epoch: int, steps: int, batch_size: int
) -> Tensor:
    """Return the rows of an epoch, [steps * batch_size] int64.

    A row is place + (num_real + num_synthetic) * repeat, where repeat counts how often its set was
    begun anew within the epoch: no number is there twice, though an image may be.
    """
    start = epoch * steps * batch_size
    total = mix.num_real + mix.num_synthetic
    synthetic = _synthetic_rows(mix, seed, stream, epoch, steps, batch_size)
    drawn = mix.synthetic_before(start)
    order = torch.empty(steps * batch_size, dtype=torch.int64)
    # X alone has the same key: what is real comes in the order that it has there
    for chosen, first, size, offset, name in (
        (~synthetic, start - drawn, mix.num_real, 0, "order"),
        (synthetic, drawn, mix.num_synthetic, mix.num_real, "synthetic order"),
    ):
        place, repeat = _walk(first, int(chosen.sum()), size, seed, name, stream)
        order[chosen] = place + offset + total * repeat
    return order


def _synthetic_rows(
    mix: Mix, seed: int, stream: str, epoch: int, steps: int, batch_size: int
) -> Tensor:
    """Return which rows of an epoch are synthetic, [steps * batch_size] bool."""
    starts = [(epoch * steps + step) * batch_size for step in range(steps + 1)]
    before = torch.tensor([mix.synthetic_before(row) for row in starts])
    counts = before[1:] - before[:-1]
    key = philox.derive_key(seed, "mix", stream, epoch)
    places = philox.uniform(key, torch.arange(steps * batch_size), 1).reshape(steps, batch_size)
    ranks = places.argsort(dim=1, stable=True).argsort(dim=1)
    return (ranks < counts[:, None]).flatten()


def _walk(
    first: int, count: int, size: int, seed: int, name: str, stream: str
) -> tuple[Tensor, Tensor]:
    """Return images number `first`, `first` + 1, ... of endless shuffled passes over a set.

    Two of [count]: places in the set, and passes since that of the first.
    """
    if count == 0:
        return torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    begun, last = first // size, (first + count - 1) // size
    passes = [
        philox.permutation(philox.derive_key(seed, name, stream, number), size)
        for number in range(begun, last + 1)
    ]
    skipped = first - begun * size
    repeat = (torch.arange(count) + skipped) // size
    return torch.cat(passes)[skipped : skipped + count], repeat


Policy = Literal["second-only", "any", "pair"]
"""Which views may be stored ones (`--views.policy`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewMix:
    """The stored views of each image, and when they stand for it.

    Rows count all images that a loader has: real, synthetic, stored. The generated views of an
    image stand in rows of their own, one after the other.
    """

    policy: Policy
    """second-only: view 1; any: every view; pair: view 0 upscaled, view 1 generated, or neither."""
    probability: float
    """Probability of a stored view, or of a pair."""
    num_views: int
    """Views V of a sample."""
    first: Tensor
    """[N] int64: row of the first generated view of each real image."""
    count: Tensor
    """[N] int64: how many there are."""
    upscaled: Tensor
    """[N] int64: row of the image upscaled, -1 for none."""

    def has_views(self, place: Tensor | slice = slice(None)) -> Tensor:
        """Return which real images, of some or all, have what the policy asks for: bool."""
        generated = self.count[place] > 0
        return generated & (self.upscaled[place] >= 0) if self.policy == "pair" else generated

    def choose(
        self, index: Tensor, draw: Tensor, *, seed: int, stream: str, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Return the row that each view is made of, and whether that is a generated image.

        `index` and `draw` [n] as in `Items`; an index past the real images is of a synthetic one,
        which has no stored views. Both results are [V, n], int64 and bool.
        """
        place = index.clamp(max=len(self.count) - 1)
        mixed = self.has_views(place) & (index < len(self.count))
        rows = index.repeat(self.num_views, 1)
        generated = torch.zeros_like(rows, dtype=torch.bool)
        for view in range(self.num_views) if self.policy == "any" else (1,):
            key = philox.derive_key(seed, "stored views", stream, epoch, view)
            chance, which = philox.uniform(key, draw, 2).double().unbind(1)
            generated[view] = mixed & (chance < self.probability)
            stored = self.first[place] + (which * self.count[place]).long()
            rows[view] = torch.where(generated[view], stored, index)
        if self.policy == "pair":
            rows[0] = torch.where(generated[1], self.upscaled[place], index)
        return rows, generated
