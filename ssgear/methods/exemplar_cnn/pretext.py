"""The task of Exemplar-CNN: seed patches that are classes of their own, and transforming them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ssgear.data.augment.spec import spread
from ssgear.data.loaders.batch import Batch
from ssgear.data.sources import Source
from ssgear.errors import ConfigError
from ssgear.methods.base import Facts, Pretext
from ssgear.methods.exemplar_cnn.patches import Places, draw_patches, patch_source
from ssgear.methods.exemplar_cnn.transforms import PatchSpec, augment_patches

PUBLISHED_CLASSES = 8000


@dataclass(kw_only=True)
class Patches(Pretext):
    """Patches of the images; those below are there once `wrap_source` has drawn them."""

    reads_images = True

    classes: int | None
    """Patches that are asked for; by default 8000, or one an image where fewer are."""
    num_classes: int = field(init=False)
    """Classes of the classifier, some of which have no patch where there are too few."""
    size: int = field(init=False)
    """Side of a patch."""
    spec: PatchSpec = field(init=False)
    """Transformations of a patch."""
    places: Places = field(init=False)
    """Patches that were drawn."""

    @property
    def window(self) -> int:
        """Side of what is kept of an image: a patch, and all that can move into it."""
        turn = math.radians(self.spec.rotation)
        reach = self.spec.scale[1] / 2 * (math.cos(turn) + math.sin(turn)) + self.spec.translation
        return self.size + 2 * math.ceil((reach - 0.5) * self.size)

    def wrap_source(self, source: Source, facts: Facts) -> Source:
        """Return the seed patches of the images, with labels of their own."""
        (first,) = spread(facts.augmentation, 1)
        self.spec = PatchSpec(mean=first.mean, std=first.std)
        side = self.size = facts.size
        self.num_classes = self.classes or max(2, min(PUBLISHED_CLASSES, facts.num_images))
        self.places = draw_patches(source, self.num_classes, side=side, seed=facts.seed)
        least = self.num_classes if self.classes else 2
        if len(self.places.rows) < least:
            raise ConfigError(
                f"--method.classes: {least} patches of {side} x {side} pixels are wanted, and "
                f"these {len(source)} images hold {self.places.available} that share half of their "
                "pixels at most; use fewer, more images or a smaller --data.size"
            )
        return patch_source(source, self.places, side=side, window=self.window)

    def seen(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return transformed patches [n, 3, side, side], one of each view."""
        mean, std = (
            torch.tensor(row, device=batch.device).view(3, 1, 1)
            for row in (self.spec.mean, self.spec.std)
        )
        return tuple(
            augment_patches(
                window * std + mean,
                self.spec,
                size=self.size,
                seed=batch.seed,
                epoch=batch.epoch,
                indices=batch.index.to(batch.device),
                view=view,
            )
            for view, window in enumerate(batch.views)
        )
