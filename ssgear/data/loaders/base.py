"""What the engines share: the plan of the views, and what the trainer needs of a loader.

A loader is asked for an epoch from some step on; it has no state of its own, so a resumed run asks
for the same. Engines differ in who decodes: `resident` (once, before the run), `dali` (NVIDIA's
DALI, every epoch) or `torch` (worker processes, likewise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ssgear.data.augment import AugmentSpec
from ssgear.data.loaders.batch import Batch
from ssgear.data.order.missing import LostImages
from ssgear.data.order.sampler import Items, Sampler
from ssgear.kernels import philox

SMALL_SIDE = 96
"""Images up to this side count as small: kept resident, trained at their own size."""

Streams = Callable[[int], Sequence[str]]
"""The streams that a step, counted from the start of the run, draws a batch from, in order."""


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """What is made of an image: the views' augmentations, their side, and where they go."""

    specs: tuple[AugmentSpec, ...]
    """One augmentation per view."""
    size: int
    """Side of the views in pixels; a specification may take a share of it."""
    seed: int
    """Seed of the run."""
    device: torch.device
    """Device of the views."""
    channels_last: bool = False
    """Memory order of the views."""
    needs_images: bool = False
    """Whether batches carry the un-augmented images too."""

    @property
    def sides(self) -> tuple[int, ...]:
        """Return each view's side in pixels."""
        return tuple(spec.side(self.size) for spec in self.specs)

    def centred(self, images: Tensor) -> Tensor:
        """Return uint8 images as float32 in [-1, 1] on the plan's device."""
        return images.to(self.device, torch.float32) / 127.5 - 1

    def stream_seed(self, stream: str) -> int:
        """Return the seed of a stream's views: the run's own for the main stream."""
        return self.seed if not stream else philox.derive_key(self.seed, stream) % 2**32

    def batch(
        self,
        views: Sequence[Tensor],
        items: Items,
        labels: Tensor | None,
        epoch: int,
        step: int,
        images: Tensor | None = None,
        fetch: Callable[[Tensor], Tensor] | None = None,
    ) -> Batch:
        """Gather what was made into a batch.

        `images` uint8 [n, 3, H, W] become floats in [-1, 1]; so does what `fetch` returns.
        """
        generated = items.generated
        if generated is not None:
            generated = generated.expand(len(views), -1).to(self.device)
        if self.channels_last:
            views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        return Batch(
            views=views,
            index=items.index,
            position=items.position,
            images=None if images is None else self.centred(images),
            fetch=None if fetch is None else lambda index: self.centred(fetch(index)),
            labels=None if labels is None else labels[items.index].to(self.device),
            generated=generated,
            epoch=epoch,
            step=step,
            seed=self.seed,
            device=self.device,
        )


class Loader(Protocol):
    """What the trainer needs of an engine."""

    name: str
    sampler: Sampler

    @property
    def lost(self) -> LostImages | None:
        """What could be read before the run and cannot any more; None where all is in memory."""
        ...

    def epoch(self, epoch: int, first: int, streams: Streams) -> Iterator[Batch]:
        """Yield the batches of an epoch from its step `first` on.

        For each step, one per stream, in order.
        """
        ...
