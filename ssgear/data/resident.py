"""The resident engine.

The whole data set decoded once, kept as uint8 on the device, views made batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ssgear.data.augment import augment
from ssgear.data.batch import Batch
from ssgear.data.loading import Streams, ViewPlan
from ssgear.data.sampler import Sampler

PIXELS_AT_ONCE = 512 * 32 * 32
"""Pixels of one view that are made in one call."""


class ResidentLoader:
    """Batches from images [N, 3, H, W] uint8 in memory. Deterministic in (seed, epoch, step)."""

    name = "resident"

    def __init__(
        self, images: Tensor, labels: Tensor | None, sampler: Sampler, plan: ViewPlan
    ) -> None:
        """Move the images to the plan's device and keep them there."""
        self.images = images.to(plan.device)
        self.labels = labels
        self.sampler = sampler
        self.plan = plan

    def epoch(self, epoch: int, first: int, streams: Streams) -> Iterator[Batch]:
        """Yield the batches of an epoch from its step `first` on."""
        orders: dict[str, Tensor] = {}
        steps = range(first, self.sampler.steps_per_epoch)
        for start in range(0, len(steps), self._steps_at_once):
            some = steps[start : start + self._steps_at_once]
            offset = epoch * self.sampler.steps_per_epoch
            asked = [(stream, step) for step in some for stream in streams(offset + step)]
            made: dict[str, Iterator[Batch]] = {}
            for stream in dict.fromkeys(stream for stream, _ in asked):
                if stream not in orders:
                    orders[stream] = self.sampler.order(epoch, stream)
                wanted = [step for name, step in asked if name == stream]
                made[stream] = self._batches(orders[stream], stream, epoch, wanted)
            for stream, _ in asked:
                yield next(made[stream])

    @property
    def _steps_at_once(self) -> int:
        """Steps whose views are made together: a small batch pays for the call, not its rows."""
        share = self.sampler.batch_size // self.sampler.world_size
        return max(1, PIXELS_AT_ONCE // (share * self.plan.size**2))

    def _batches(
        self, order: Tensor, stream: str, epoch: int, steps: Sequence[int]
    ) -> Iterator[Batch]:
        """Make the views of some steps at once and yield them step by step."""
        plan = self.plan
        items = [self.sampler.items(order, step) for step in steps]
        index = torch.cat([each.index for each in items]).to(self.images.device)
        draw = torch.cat([each.draw for each in items]).to(self.images.device)
        rows = self.images[index]
        seed = plan.stream_seed(stream)
        views = [
            augment(rows, spec, size=side, seed=seed, epoch=epoch, indices=draw, view=view)
            for view, (spec, side) in enumerate(zip(plan.specs, plan.sides, strict=True))
        ]
        share = len(items[0].index)
        for place, (step, each) in enumerate(zip(steps, items, strict=True)):
            part = slice(place * share, (place + 1) * share)
            number = epoch * self.sampler.steps_per_epoch + step
            images = rows[part] if plan.needs_images else None
            cut = [view[part] for view in views]
            fetch = self._fetch if plan.needs_images else None
            yield plan.batch(cut, each, self.labels, epoch, number, images, fetch)

    def _fetch(self, index: Tensor) -> Tensor:
        return self.images[index.to(self.images.device)]
