"""Generator against critic: the adversarial half of GAN + SSL (docs/math.md 2, phases 1 and 2).

`Game` holds the networks and computes losses; who is trained when is the method's. It is called
inside the group that is trained, with plain modules, so that penalties may differentiate the
critic. Shapes: n rows, R pixels of a synthetic image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ssgear.data.loaders.batch import Batch
from ssgear.losses import gradient_penalty
from ssgear.losses.adversarial import (
    adversarial_loss,
    critic_loss,
    generator_loss,
    zero_centred_penalty,
)
from ssgear.methods.base import LossTerms
from ssgear.methods.gan_ssl.config import GanSettings
from ssgear.methods.gan_ssl.parts import (
    Synthetic,
    build_augment,
    build_gan,
    build_heads,
    synthesise,
)
from ssgear.models.gan.conditions import Condition
from ssgear.models.gan.critic_augment import Ada
from ssgear.models.gan.generator_ema import GeneratorEma
from ssgear.models.gan.stylegan2 import StyleGAN2Generator
from ssgear.models.gan.stylegan2_styles import PathLength

PATH_LENGTH_EVERY = 4
"""Generator steps between two path-length penalties, which count as many times as much."""
EMA_RAMP = 0.05
"""The generator's average forgets at least all but this share of the images seen."""


class Game(nn.Module):
    """Generator, critic, what is done to the critic's images, and the generator's average."""

    last_r1: Tensor

    def __init__(
        self,
        config: GanSettings,
        condition: Condition,
        *,
        resolution: int,
        embedding_dim: int,
        seed: int,
    ) -> None:
        """Build the networks; `embedding_dim` is the width of the heads' last layer."""
        super().__init__()
        self.config, self.condition, self.resolution = config, condition, resolution
        self.paired = adversarial_loss(config.adversarial).paired
        self.generator, self.critic = build_gan(config, condition, resolution, seed)
        self.heads = build_heads(config, self.generator, embedding_dim, seed)
        self.augment = build_augment(config)
        self.average = GeneratorEma(
            self.generator, half_life=config.generator_half_life, ramp=EMA_RAMP
        )
        self.path_length = PathLength() if config.path_length else None
        if config.r1_gamma:
            self.register_buffer("last_r1", torch.zeros(()))

    def synthesise(
        self, batch: Batch, condition: Tensor | None, *, at: tuple[int, ...] = ()
    ) -> Synthetic:
        """Make one image for every row of a batch."""
        mixing = self.config.style_mixing
        return synthesise(self.generator, batch, condition, mixing=mixing, at=at)

    def critic_terms(self, batch: Batch, real: Tensor, condition: Tensor | None) -> LossTerms:
        """Return how badly the critic tells real from synthetic images, and its penalties."""
        with torch.no_grad():
            fake = self.synthesise(batch, condition).images.to(real.dtype)
        real_seen, fake_seen = self.augment.pair(real, fake, batch.draw, same=self.paired)
        d_real = self.critic(real_seen, condition)
        d_fake = self.critic(fake_seen, condition)
        loss = critic_loss(self.config.adversarial, d_real, d_fake)
        parts = {"d_real": d_real.detach().mean(), "d_fake": d_fake.detach().mean()}
        parts["critic_loss"] = loss.detach()
        terms = LossTerms(total=loss, parts=parts)
        self._add_penalty(terms, batch, real, fake, condition)
        if isinstance(self.augment, Ada):
            parts["ada_p"] = self.augment.p.detach().clone()
            terms.carry["signs"] = Ada.signs(d_real)
        return terms

    def _add_penalty(
        self, terms: LossTerms, batch: Batch, real: Tensor, fake: Tensor, condition: Tensor | None
    ) -> None:
        """Add the penalty on the critic's gradient, and log what it comes to in a step."""
        config = self.config
        if config.has_gp:
            penalty = self._norm_penalty(batch, real, fake, condition)
            terms.parts["penalty"] = penalty.detach()
        elif not config.r1_gamma:
            return
        elif self._critic_step(batch) % config.r1_interval:  # lazy: what it was when last due
            terms.parts["penalty"] = self.last_r1.clone()
            return
        else:
            penalty = self._r1(batch, real, fake, condition)
            terms.carry["r1"] = terms.parts["penalty"] = penalty.detach() / config.r1_interval
        terms.total = terms.total + penalty

    def _norm_penalty(
        self, batch: Batch, real: Tensor, fake: Tensor, condition: Tensor | None
    ) -> Tensor:
        """Return gp_weight (||grad D|| - 1)^2."""
        config = self.config
        eps = batch.draw("eps") if config.gp_at == "mixed" else None
        seen = self._seen(batch, f"critic_augment.{config.gp_at}")
        return config.gp_weight * gradient_penalty(
            seen, real, fake, condition=condition, at=config.gp_at, eps=eps
        )

    def _critic_step(self, batch: Batch) -> int:
        return batch.step * self.config.n_critic + batch.repeat

    def _r1(self, batch: Batch, real: Tensor, fake: Tensor, condition: Tensor | None) -> Tensor:
        """Return R1, and R2 for pairs, of a step in which it is due."""
        config = self.config
        seen = self._seen(batch, "critic_augment" if self.paired else "critic_augment.real")
        penalties = [
            zero_centred_penalty(
                seen,
                images,
                gamma=config.r1_gamma,
                condition=condition,
                interval=config.r1_interval,
                step=self._critic_step(batch),
            )
            for images in ((real, fake) if self.paired else (real,))
        ]
        return torch.stack(penalties).sum()

    def realism(self, batch: Batch, real: Tensor, fake: Tensor, condition: Tensor | None) -> Tensor:
        """Return the adversarial loss of synthetic images."""
        kind = self.config.adversarial
        if not self.paired:
            seen = self.augment(fake, batch.draw, name="critic_augment.fake")
            return generator_loss(kind, None, self.critic(seen, condition))
        real_seen, fake_seen = self.augment.pair(real, fake, batch.draw, same=True)
        with torch.no_grad():
            d_real = self.critic(real_seen, condition)
        return generator_loss(kind, d_real, self.critic(fake_seen, condition))

    def generator_penalty(self, batch: Batch, fake: Tensor, condition: Tensor | None) -> Tensor:
        """Return the critic's penalty at synthetic images, for the generator to make small."""
        seen = self._seen(batch, "critic_augment.fake")
        return self.config.gp_weight * gradient_penalty(
            seen, None, fake.float(), condition=condition, at="generated"
        )

    def path_penalty(self, batch: Batch, fake: Synthetic) -> tuple[Tensor, Tensor] | None:
        """Return the weighted path-length penalty and the length to track, where it is due."""
        if self.path_length is None or fake.styles is None or batch.step % PATH_LENGTH_EVERY:
            return None
        normal = batch.draw("path", fake.images.shape[1:], normal=True).to(fake.images.dtype)
        penalty, length = self.path_length(fake.images, fake.styles, normal)
        return self.config.path_length * PATH_LENGTH_EVERY * penalty, length

    def track_styles(self, mean_W: Tensor) -> None:
        """Move the mean style that truncation needs."""
        assert isinstance(self.generator, StyleGAN2Generator)
        self.generator.track(mean_W)

    def _seen(self, batch: Batch, name: str) -> Callable[..., Tensor]:
        """Return the critic behind its augmentation: a penalty differentiates both."""

        def scores(images: Tensor, condition: Tensor | None = None) -> Tensor:
            found: Tensor = self.critic(self.augment(images, batch.draw, name=name), condition)
            return found

        return scores
