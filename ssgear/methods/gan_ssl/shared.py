"""What the phases of GAN + SSL share: ranks, real images and conditions, views and embeddings.

Shapes: n rows of this rank, R pixels of a synthetic image, D numbers of an embedding.
"""

from __future__ import annotations

import dataclasses

import torch.distributed as dist
from torch import Tensor

from ssgear.data.augment import AugmentSpec, augment
from ssgear.data.loaders.batch import Batch
from ssgear.kernels import philox
from ssgear.methods.base import Method
from ssgear.methods.gan_ssl.config import GanSettings
from ssgear.methods.gan_ssl.game import Game
from ssgear.methods.gan_ssl.instances import Instances
from ssgear.methods.gan_ssl.parts import at_resolution


class Joint(Method):
    """Generator and critic beside the method that trains the encoder."""

    config: GanSettings
    specs: tuple[AugmentSpec, ...]
    """Augmentation of each view."""
    ssl: Method
    """What trains the encoder."""
    game: Game
    instances: Instances | None
    """What makes the condition of real images, where they are one."""

    def _over_ranks(self, value: Tensor, *, mean: bool = False) -> Tensor:
        """Return the sum, or the mean, over ranks."""
        if self.process_group is None:
            return value
        total = value.clone()
        dist.all_reduce(total, group=self.process_group)
        return total / self._num_ranks if mean else total

    @property
    def _num_ranks(self) -> int:
        return 1 if self.process_group is None else dist.get_world_size(self.process_group)

    def _real(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the critic's real images at the generator's side, and their condition."""
        condition, images = self._condition(batch), batch.images
        if self.instances is not None and batch.fetch is not None:
            images = batch.fetch(self.instances.neighbours_of(batch))
        assert images is not None  # `needs_images`
        return at_resolution(images, self.game.resolution), condition

    def _condition(self, batch: Batch) -> Tensor | None:
        if self.instances is None:
            return batch.labels if self.config.condition == "label" else None
        assert batch.images is not None
        return self.instance_features(batch.images)

    def instance_features(self, images: Tensor) -> Tensor:
        """Return the condition of images in [-1, 1]."""
        assert self.instances is not None
        mean = images.new_tensor(self.specs[0].mean).view(3, 1, 1)
        std = images.new_tensor(self.specs[0].std).view(3, 1, 1)
        views = at_resolution(((images + 1) / 2 - mean) / std, self.encoder.size)
        return self.instances.features(self.encoder, views)

    def _view(self, batch: Batch, fake: Tensor, view: int) -> Tensor:
        """Return one augmented view of synthetic images, differentiable in them."""
        key = philox.derive_key(batch.seed, "synthetic", batch.phase, batch.step, batch.repeat)
        spec = self.specs[view % len(self.specs)]
        return augment(
            (fake.float().clamp(-1, 1) + 1) / 2,
            spec,
            size=spec.side(self.encoder.size),
            seed=key % 2**32,
            epoch=batch.epoch,
            indices=batch.position,
            view=view,
        )

    def _project(self, batch: Batch, view: Tensor) -> Tensor:
        """Return the embedding [n, D] of one view."""
        alone = dataclasses.replace(batch, views=[view])
        return self.ssl.embed(self.ssl.phases[0], alone).online[0]
