"""The encoder's phase of GAN + SSL: any SSL method, with synthetic images among its rows.

With a condition a synthetic image is one more view of the real image that it was made for; without
one it is an image of its own, with as many views as the real ones (docs/math.md 2).
"""

from __future__ import annotations

import dataclasses

import torch

from ssgear.data.loaders.batch import Batch
from ssgear.methods.base import Embeddings, LossTerms, Phase
from ssgear.methods.gan_ssl.shared import Joint


class EncoderPhase(Joint):
    """What the encoder minimises."""

    def _encoder_terms(self, phase: Phase, batch: Batch) -> LossTerms:
        """Return the loss of the encoder's method, with synthetic images among its rows."""
        if not self._sees_synthetic(batch):
            return self.ssl.loss(phase, batch)
        with torch.no_grad():
            fake = self.game.synthesise(batch, self._condition(batch)).images
            # a conditioned image is one more view of its row, a free one a row of its own
            count = 1 if self.game.condition else len(batch.views)
            made = [self._view(batch, fake, view) for view in range(count)]
        if self.game.condition:
            batch = dataclasses.replace(batch, views=[*batch.views, *made])
            return self.ssl.loss_of(phase, self.ssl.embed(phase, batch), batch)
        z_real = self.ssl.embed(phase, batch)
        z_made = self.ssl.embed(phase, dataclasses.replace(batch, views=made))
        return self.ssl.loss_of(phase, Embeddings.cat((z_real, z_made)), self._doubled(batch))

    def _sees_synthetic(self, batch: Batch) -> bool:
        config = self.config
        if not (config.synthetic_rows and config.has_gan):
            return False
        return batch.progress >= max(config.synthetic_after, self.phases[0].after)

    def _doubled(self, batch: Batch) -> Batch:
        """Return the rows of a batch and as many synthetic ones after them."""
        rows = len(batch) * self._num_ranks
        return dataclasses.replace(
            batch,
            index=torch.cat((batch.index, batch.index)),
            position=torch.cat((batch.position, batch.position + rows)),
            images=None,
            labels=None,
        )
