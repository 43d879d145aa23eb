"""The generator of GAN + SSL as the callbacks see it: the average that is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssgear.methods.base import CriticGame, GeneratorSide, PairedWith
from ssgear.methods.gan_ssl.shared import Joint
from ssgear.models.gan.generators import save_generator
from ssgear.models.gan.instances import save_instance_encoder
from ssgear.models.gan.sampling import sample_uint8


class AveragedGenerator(GeneratorSide):
    """The averaged generator, and what makes its condition."""

    def __init__(self, method: Joint) -> None:
        """Take the method once its networks are there."""
        config = method.config
        self._method = method
        self.condition = config.condition
        self.pairs_with: PairedWith = "nothing"
        if config.pairs_synthetic:
            self.pairs_with = "synthetic" if config.condition == "none" else "real"
        self.game: CriticGame | None = None
        if config.adversarial_weight:
            self.game = CriticGame(
                kind=config.adversarial,
                resolution=method.game.resolution,
                gp_weight=config.gp_weight,
            )

    @torch.no_grad()
    def samples(self, images: Tensor, labels: Tensor | None, *, seed: int) -> Tensor:
        """Return synthetic images, uint8 [N, 3, R, R]."""
        method = self._method
        device = next(method.game.generator.parameters()).device

        def condition(rows: slice) -> Tensor | None:
            if method.instances is not None:
                return method.instance_features(images[rows].to(device) / 127.5 - 1)
            return labels[rows] if self.condition == "label" and labels is not None else None

        with method.game.average.applied():
            return sample_uint8(method.game.generator, len(images), seed, condition=condition)

    def save(self, directory: Path, classes: Sequence[str] | None) -> None:
        """Write the generator, and the encoder that makes its condition."""
        method = self._method
        with method.game.average.applied():
            save_generator(
                method.game.generator,
                directory,
                classes=classes if self.condition == "label" else None,
            )
        if method.instances is not None:
            mean, std = method.specs[0].mean, method.specs[0].std
            with method.instances.applied(method.encoder):
                save_instance_encoder(method.encoder, directory, mean=mean, std=std)
