"""The resident engine.

The whole data set decoded once, kept as uint8 on the device, views made batch by batch.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ssgear.data.augment import augment
from ssgear.data.loaders.base import Streams, ViewPlan
from ssgear.data.loaders.batch import Batch
from ssgear.data.order.sampler import Order, Sampler
from ssgear.data.sources.square import centre_squares

PIXELS_AT_ONCE = 512 * 32 * 32
"""Pixels of one view that are made in one call."""


class ResidentLoader:
    """Batches from images [N, 3, H, W] uint8 in memory. Deterministic in (seed, epoch, step)."""

    name = "resident"
    lost = None

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
        order = functools.cache(functools.partial(self.sampler.order, epoch))
        steps = range(first, self.sampler.steps_per_epoch)
        for start in range(0, len(steps), self._steps_at_once):
            some = steps[start : start + self._steps_at_once]
            offset = epoch * self.sampler.steps_per_epoch
            asked = [(stream, step) for step in some for stream in streams(offset + step)]
            made: dict[str, Iterator[Batch]] = {}
            for stream in dict.fromkeys(stream for stream, _ in asked):
                wanted = [step for name, step in asked if name == stream]
                made[stream] = self._batches(order(stream), stream, epoch, wanted)
            for stream, _ in asked:
                yield next(made[stream])

    @property
    def _steps_at_once(self) -> int:
        """Steps whose views are made together: a small batch pays for the call, not its rows."""
        share = self.sampler.batch_size // self.sampler.world_size
        return max(1, PIXELS_AT_ONCE // (share * self.plan.size**2))

    def _batches(
        self, order: Order, stream: str, epoch: int, steps: Sequence[int]
    ) -> Iterator[Batch]:
        """Make the views of some steps at once and yield them step by step."""
        plan = self.plan
        items = [self.sampler.items(order, step) for step in steps]
        draw = torch.cat([each.draw for each in items]).to(self.images.device)
        whole = self._fetch(torch.cat([each.index for each in items]))
        shown = [whole for _ in plan.specs]
        if self.sampler.views is not None:
            shown = [
                self._fetch(torch.cat([each.rows_of(view) for each in items]))
                for view, _ in enumerate(shown)
            ]
        seed = plan.stream_seed(stream)
        views = [
            augment(
                shown[view],
                spec,
                size=side,
                seed=seed,
                epoch=epoch,
                indices=draw,
                view=view,
                channels_last=plan.channels_last,
            )
            for view, (spec, side) in enumerate(zip(plan.specs, plan.sides, strict=True))
        ]
        share = len(items[0].index)
        for place, (step, each) in enumerate(zip(steps, items, strict=True)):
            part = slice(place * share, (place + 1) * share)
            number = epoch * self.sampler.steps_per_epoch + step
            images = centre_squares(whole[part], plan.size) if plan.needs_images else None
            cut = [view[part] for view in views]
            fetch = self._squares if plan.needs_images else None
            yield plan.batch(cut, each, self.labels, epoch, number, images, fetch)

    def _squares(self, index: Tensor) -> Tensor:
        return centre_squares(self._fetch(index), self.plan.size)

    def _fetch(self, index: Tensor) -> Tensor:
        return self.images[index.to(self.images.device)]
