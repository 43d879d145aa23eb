"""A task that is made of the images themselves: which images, what is made of them, what is shown.

It is built before the method, from the method's settings alone, so that the images are there when
the method is built; `Facts` is what either may know of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from ssgear.data.augment.spec import AugmentSpec
from ssgear.data.loaders.batch import Batch

if TYPE_CHECKING:
    from ssgear.data.sources import Source


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a method and its pretext may know of the run before they are built."""

    augmentation: tuple[AugmentSpec, ...]
    """The set of views that `--data.augmentation` named."""
    num_images: int
    """Images to train on; a few fewer are left where some cannot be read."""
    num_classes: int | None = None
    """Classes of their labels, None where there are no labels."""
    size: int = 0
    """Side of the images that the encoder is built for."""
    seed: int = 0
    """Seed of the run."""
    epochs: int = 1
    """Passes over the images."""
    batch_size: int = 1
    """Images of one step over all ranks."""
    pretext: Pretext | None = None
    """The task that made the images, where there is one; set for the method."""


class Pretext:
    """A task made of the images themselves; every hook leaves things as they are by default."""

    reads_images: ClassVar[bool] = False
    """Whether `wrap_source` reads images: files that cannot be read are found before it does."""

    def select(self, source: Source) -> Source:
        """Return the images, of training or of test, that the task is about."""
        return source

    def wrap_source(self, source: Source, facts: Facts) -> Source:
        """Return the source to train on: pairs, patches, surrogate labels."""
        return source

    def seen(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the images that the encoder is shown of a batch: turns of the views, patches."""
        return tuple(batch.views)

    @property
    def changes_views(self) -> bool:
        """Whether the encoder is shown other images than the views."""
        return type(self).seen is not Pretext.seen
