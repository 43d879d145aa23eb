"""The resident engine.

The whole data set decoded once, kept as uint8 on the device, views made batch by batch.
"""

from __future__ import annotations

from collections.abc import Iterator

from ssgear.data.augment import augment
from torch import Tensor

from ssgear.data.batch import Batch
from ssgear.data.loading import Streams, ViewPlan
from ssgear.data.sampler import Sampler


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
        for step in range(first, self.sampler.steps_per_epoch):
            number = epoch * self.sampler.steps_per_epoch + step
            for stream in streams(number):
                if stream not in orders:
                    orders[stream] = self.sampler.order(epoch, stream)
                yield self._batch(orders[stream], stream, epoch, step, number)

    def _batch(self, order: Tensor, stream: str, epoch: int, step: int, number: int) -> Batch:
        plan = self.plan
        items = self.sampler.items(order, step)
        rows = self.images[items.index.to(self.images.device)]
        seed = plan.stream_seed(stream)
        views = [
            augment(
                rows,
                spec,
                size=plan.size,
                seed=seed,
                epoch=epoch,
                indices=items.index.to(rows.device),
                view=view,
            )
            for view, spec in enumerate(plan.specs)
        ]
        images = rows if plan.needs_images else None
        return plan.batch(views, items, self.labels, epoch, number, images)
