"""A method that uses every contract of the engine.

Two groups, a gradient penalty between them, repeats, a queue and a momentum copy in buffers, noise
by `Batch.draw`. The real methods to come stand on the same contracts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.data.loaders.batch import Batch
from ssgear.methods.base import Embeddings, Group, LossTerms, Method, Needs, OptimizerSpec, Phase

QUEUE = 64
WIDTH = 8


class Toy(Method):
    """A critic under a gradient penalty, an encoder that it scores, and a queue."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        penalty: float = 1.0
        """Weight of the gradient penalty."""

    def __init__(self, config: Config, encoder: nn.Module) -> None:
        super().__init__(config, encoder)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(7)
        self.head = nn.Linear(encoder.num_features, WIDTH)  # type: ignore[arg-type]
        self.critic = nn.Sequential(nn.Linear(WIDTH, 16), nn.Tanh(), nn.Linear(16, 1))
        with torch.no_grad():
            for module in (self.head, self.critic):
                for weight in module.parameters():
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
        self.register_buffer("queue", F.normalize(torch.randn(QUEUE, WIDTH, generator=generator)))
        self.register_buffer("momentum", self.head.weight.detach().clone())
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))
        adam = OptimizerSpec(name="adam", lr=1e-2, betas=(0.0, 0.9), constant=True)
        self.groups = (
            Group("critic", {"critic": self.critic}, optimizer=adam),
            Group("encoder", {"encoder": encoder, "head": self.head}),
        )
        self.phases = (
            Phase(name="critic", group="critic", repeat=2),
            Phase(name="encoder", group="encoder", every=1, ema=0.9),
        )

    @classmethod
    def needs(cls, config: Config) -> Needs:
        return Needs(whole_batch=True, images=True, second_derivatives=True)

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        views = (F.normalize(self.head(self.encoder(view))) for view in batch.views)
        return Embeddings(tuple(views))

    def loss(self, phase: Phase, batch: Batch) -> LossTerms:
        if phase.name == "critic":
            return self._critic_loss(phase, batch)
        z = self.embed(phase, batch)
        score = -self.critic(z.online[0]).mean()
        return LossTerms(
            total=self.loss_of(phase, z, batch).total + 0.1 * score,
            parts={"score": score.detach()},
            carry={"keys": z.online[1].detach()},
        )

    def loss_of(self, phase: Phase, z: Embeddings, batch: Batch) -> LossTerms:
        positive = (z.online[0] * z.online[1]).sum(1)
        negative = z.online[0] @ self.queue.T
        return LossTerms(total=(torch.logsumexp(negative, 1) - positive).mean())

    def _critic_loss(self, phase: Phase, batch: Batch) -> LossTerms:
        assert batch.images is not None
        with torch.no_grad():
            real = self.embed(phase, batch).online[0]
        fake = F.normalize(batch.draw("fake", (WIDTH,), normal=True))
        eps = batch.draw("eps", (1,))
        mixed = (eps * real + (1 - eps) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(mixed).sum(), mixed, create_graph=True)
        penalty = ((slope.norm(dim=1) - 1) ** 2).mean()
        brightness = batch.images.mean(dim=(1, 2, 3))
        wasserstein = self.critic(fake).mean() - (self.critic(real)[:, 0] * (1 + brightness)).mean()
        return LossTerms(
            total=wasserstein + self.config.penalty * penalty, parts={"penalty": penalty.detach()}
        )

    @torch.no_grad()
    def after_step(self, phase: Phase, carry: Mapping[str, Tensor], progress: float) -> None:
        if phase.name != "encoder":
            return
        keys = carry["keys"].contiguous()
        if dist.is_initialized():
            gathered = [torch.empty_like(keys) for _ in range(dist.get_world_size())]
            dist.all_gather(gathered, keys)
            keys = torch.cat(gathered)
        self.queue.copy_(torch.cat([keys, self.queue])[:QUEUE])
        self.steps_taken += 1
