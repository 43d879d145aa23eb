"""GAN + SSL: a generator that learns to make the images that help the encoder (MATH.md 2).

One step walks over three phases, each of which trains its own modules only: the critic tells real
from synthetic images, the generator is judged by the critic and by the encoder's SSL loss, and the
encoder is trained by any SSL method with synthetic images among its views. `--method gan-ssl`.
Shapes: n rows of this rank, R pixels of a synthetic image, D numbers of an embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssgear import registry
from ssgear.data.augment import AugmentSpec, augment
from ssgear.data.batch import Batch
from ssgear.errors import ConfigError
from ssgear.kernels import philox
from ssgear.losses import nt_xent
from ssgear.methods import _gan_phi as phi
from ssgear.methods._gan_config import GanSettings, inner_config
from ssgear.methods._gan_game import Game
from ssgear.methods._gan_instances import Instances
from ssgear.methods._gan_parts import Synthetic, at_resolution, condition_of
from ssgear.methods.base import Extract, Facts, Group, LossTerms, Method, OptimizerSpec, Phase
from ssgear.models.critic_augment import Ada
from ssgear.models.generators import save_generator
from ssgear.models.instances import save_instance_encoder
from ssgear.models.sampling import sample, to_uint8

if TYPE_CHECKING:
    from ssgear.data.sources import Source
    from ssgear.models.encoders import Encoder

PRESETS = {
    # minutes on two cores: what it measured is in README.md
    "gan-ssl-quick": {
        "data.size": 32,
        "data.min_scale": 0.3,
        "model.name": "resnet_tiny",
        "optim.name": "adamw",
        "optim.lr": 4e-3,
        "optim.batch_size": 64,
        "optim.epochs": 24,
        "optim.warmup_epochs": 2.0,
        "method.condition": "label",
        "method.adversarial": "hinge",
        "method.n_critic": 1,
        "method.critic_augment": "diffaugment",
        "method.generator_width": 32,
        "method.critic_width": 32,
        "method.generator_lr": 4e-4,
        "method.critic_lr": 4e-4,
        "method.temperature": 0.1,
        "method.ssl_options": ["temperature=0.1", "projector_dims=256,64"],
        "log.every": 20,
        "eval.every": 6,
    },
    # the same GAN alone
    "cdcgan-quick": {
        "data.size": 32,
        "model.name": "resnet_tiny",
        "optim.batch_size": 64,
        "optim.epochs": 24,
        "method.condition": "label",
        "method.adversarial": "hinge",
        "method.n_critic": 1,
        "method.critic_augment": "diffaugment",
        "method.generator_width": 32,
        "method.critic_width": 32,
        "method.generator_lr": 4e-4,
        "method.critic_lr": 4e-4,
        "method.phi": "constant",
        "method.generator_ssl_weight": 0,
        "method.synthetic_rows": False,
        "method.train_encoder": False,
        "log.every": 20,
    },
    # StyleGAN2-ADA's configuration for CIFAR-10 (Karras et al. 2020, arXiv 2006.06676); it trained
    # on 25 to 100 million images, which is 500 to 2000 epochs
    "stylegan2-cifar10": {
        "data.source": "cifar10",
        "data.size": 32,
        "optim.batch_size": 64,
        "optim.epochs": 500,
        "method.generator": "stylegan2",
        "method.noise_dim": 512,
        "method.adversarial": "logistic",
        "method.gp_weight": 0,
        "method.r1_gamma": 0.01,
        "method.n_critic": 1,
        "method.critic_augment": "ada",
        "method.generator_lr": 2.5e-3,
        "method.critic_lr": 2.5e-3,
        "method.betas": [0.0, 0.99],
        "method.generator_half_life": 500000,
        "method.phi": "constant",
        "method.generator_ssl_weight": 0,
        "method.synthetic_rows": False,
        "method.train_encoder": False,
        "eval.every": 0,
        "checkpoint.every": 5000,
    },
}

CRITIC, GENERATOR = "critic", "generator"


class GanSSL(Method):
    """Critic, generator and encoder, trained together."""

    smallest = (
        "--method.generator-width", "4", "--method.critic-width", "4", "--method.noise-dim", "8",
        "--method.generator-norm", "group", "--method.ssl-options", "projector_dims=16,8",
    )  # fmt: skip
    cacheable = False
    needs_images = True
    has_penalty = True

    @dataclass(frozen=True, kw_only=True)
    class Config(GanSettings, Method.Config):
        """Settings of GAN + SSL."""

    config: Config
    phi_mean: Tensor
    phi_steps: Tensor

    def __init__(self, config: Config, encoder: Encoder, facts: Facts) -> None:
        """Build generator and critic, and the method that trains the encoder."""
        super().__init__(config, encoder)
        self.max_skipped = config.max_skipped
        self.generates, self.trains_encoder = config.has_gan, config.train_encoder
        if config.pairs_synthetic:
            self.pairs_with = "synthetic" if config.condition == "none" else "real"
        self.ssl = _inner_method(config, encoder, facts)
        self.collapse_hint = self.ssl.collapse_hint
        self.specs = self.view_specs(facts.augmentation)
        self.game = Game(
            config,
            condition_of(config, facts, encoder.num_features),
            resolution=config.resolution or encoder.size,
            embedding_dim=_embedding_dim(self.ssl, encoder.size) if config.aux_sides else 1,
            seed=torch.initial_seed(),
        )
        self.instances: Instances | None = None
        if config.condition == "instance":
            self.instances = Instances(
                encoder,
                num_images=facts.num_images,
                neighbours=config.neighbours,
                momentum=config.momentum,
            )
        self.register_buffer("phi_mean", torch.zeros(()))
        self.register_buffer("phi_steps", torch.zeros((), dtype=torch.int64))
        self.groups, self.phases = self._walk(facts)

    @classmethod
    def build(cls, config: Any, encoder: Encoder, facts: Facts) -> Self:
        """Build the method for a run."""
        return cls(config, encoder, facts)

    def _walk(self, facts: Facts) -> tuple[tuple[Group, ...], tuple[Phase, ...]]:
        """Return the groups and phases: those of the GAN first, then the encoder's."""
        config, game = self.config, self.game
        groups: list[Group] = []
        phases: list[Phase] = []
        if config.has_gan:
            after = min(1.0, config.warmup_epochs / facts.epochs)
            makers: dict[str, nn.Module] = {"generator": game.generator, "heads": game.heads}
            if not config.aux_sides:
                del makers["heads"]
            groups += [
                Group(CRITIC, {"critic": game.critic}, optimizer=_adam(config, config.critic_lr)),
                Group(GENERATOR, makers, optimizer=_adam(config, config.generator_lr)),
            ]
            phases += [
                Phase(name=CRITIC, group=CRITIC, repeat=config.n_critic, after=after),
                Phase(name=GENERATOR, group=GENERATOR, after=after),
            ]
        else:
            game.requires_grad_(False)
        if config.train_encoder:
            groups += self.ssl.groups
            phases += self.ssl.phases
        else:
            self.ssl.requires_grad_(False)
        return tuple(groups), tuple(phases)

    # what the encoder's own method does, it does here too

    def compiled(self) -> tuple[nn.Module, ...]:
        """Return the encoder, and of the GAN what no penalty goes through."""
        return (*self.ssl.compiled(), *self.game.compiled())

    def train(self, mode: bool = True) -> Self:
        """Leave an encoder that is not trained in evaluation mode: nothing of it may change."""
        super().train(mode)
        if not self.config.train_encoder:
            self.ssl.eval()
        return self

    def view_specs(self, named: tuple[AugmentSpec, ...]) -> tuple[AugmentSpec, ...]:
        """Return the views that the encoder's method takes."""
        if any(spec.policy is not None for spec in named):
            raise ConfigError(
                "--data.augmentation: AutoAugment has no gradient for the images of a generator; "
                "use simclr, say"
            )
        return self.ssl.view_specs(named)

    def wrap_source(self, source: Source) -> Source:
        """Return the source that the encoder's method trains on."""
        return self.ssl.wrap_source(source)

    def before_epoch(self, progress: float, extract: Extract) -> None:
        """Rebuild the table of neighbours by the encoder as it is now."""
        self.ssl.before_epoch(progress, extract)
        if self.instances is not None:
            self.instances.rebuild(extract())

    def embed(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return what the encoder's method makes of a batch's views."""
        return self.ssl.embed(phase, batch)

    @torch.no_grad()
    def samples(self, images: Tensor, labels: Tensor | None, *, seed: int) -> Tensor | None:
        """Return synthetic images of the averaged generator, uint8 [N, 3, R, R]."""
        if not self.generates:
            return None
        game = self.game
        condition = labels if self.config.condition == "label" else None
        if self.instances is not None:
            parts = [part.to(self.phi_mean.device) for part in torch.split(images, 500)]
            condition = torch.cat([self._instance_features(part / 127.5 - 1) for part in parts])
        with game.average.applied():
            made = sample(game.generator, len(images), seed, condition=condition)
        return to_uint8(made).cpu()

    def save_generator(self, directory: Path, classes: Sequence[str] | None) -> None:
        """Write the averaged generator, and the encoder that makes its condition."""
        if not self.generates:
            return
        named = classes if self.config.condition == "label" else None
        with self.game.average.applied():
            save_generator(self.game.generator, directory, classes=named)
        if self.instances is not None:
            mean, std = self.specs[0].mean, self.specs[0].std
            with self.instances.applied(self.encoder):
                save_instance_encoder(self.encoder, directory, mean=mean, std=std)

    # after a step: every rank moves buffers by the numbers of all

    def after_step(self, phase: Phase, carry: Mapping[str, Tensor], progress: float) -> None:
        """Move p, phi and the averages."""
        if phase.name == CRITIC:
            if isinstance(self.game.augment, Ada):
                self.game.augment.update(self._over_ranks(carry["signs"]))
            if "r1" in carry:
                self.game.last_r1.copy_(self._over_ranks(carry["r1"], mean=True))
        elif phase.name == GENERATOR:
            self._after_generator(carry)
        else:
            self.ssl.after_step(phase, carry, progress)
            if self.instances is not None:
                self.instances.follow(self.encoder)

    def _after_generator(self, carry: Mapping[str, Tensor]) -> None:
        rows, seen = carry["rows_and_images_seen"].tolist()  # on the CPU: nothing waits
        self.game.average.update(rows, seen)
        if "phi_mean" in carry:
            self.phi_mean.copy_(carry["phi_mean"])
            self.phi_steps.add_(1)
        if "mean_style" in carry:
            self.game.track_styles(self._over_ranks(carry["mean_style"], mean=True))
        if "path_length" in carry and self.game.path_length is not None:
            self.game.path_length.track(self._over_ranks(carry["path_length"], mean=True))

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

    # losses

    def loss(self, phase: Phase, batch: Batch) -> LossTerms:
        """Return the loss of a phase."""
        if phase.name == CRITIC:
            return self.game.critic_terms(batch, *self._real(batch))
        if phase.name == GENERATOR:
            return self._generator_terms(batch)
        return self._encoder_terms(phase, batch)

    def _generator_terms(self, batch: Batch) -> LossTerms:
        """Return realism as the critic sees it, and the SSL losses through the encoder."""
        config, game = self.config, self.game
        real, condition = self._real(batch)
        fake = game.synthesise(batch, condition, at=config.aux_sides)
        ssl, anchor_nD = self._ssl_of(batch, fake.images)
        terms = LossTerms(total=real.new_zeros((), dtype=torch.float32))
        share = self._add_realism(terms, batch, real, fake.images, condition, ssl)
        if ssl is not None:
            terms.parts["generator_ssl"] = ssl.detach()
            if config.generator_ssl_weight and share:
                terms.total = terms.total + config.generator_ssl_weight * share * ssl
        if anchor_nD is not None and config.aux_sides:
            auxiliary = self._auxiliary(fake, anchor_nD)
            terms.parts["auxiliary"] = auxiliary.detach()
            terms.total = terms.total + config.aux_weight * auxiliary
        path = game.path_penalty(batch, fake)
        if path is not None:
            terms.parts["path_penalty"] = path[0].detach()
            terms.carry["path_length"] = path[1]
            terms.total = terms.total + path[0]
        if fake.styles is not None:
            terms.carry["mean_style"] = fake.styles.detach()[:, 0].float().mean(dim=0)
        rows = len(batch) * self._num_ranks
        counted = torch.tensor([rows, batch.step * rows], dtype=torch.float64)
        terms.carry["rows_and_images_seen"] = counted
        return terms

    def _add_realism(
        self,
        terms: LossTerms,
        batch: Batch,
        real: Tensor,
        fake: Tensor,
        condition: Tensor | None,
        ssl: Tensor | None,
    ) -> float:
        """Add the adversarial loss times phi; return the share of the SSL weight that holds."""
        config = self.config
        weight, share = self._phi(terms, batch, ssl)
        terms.parts["phi"] = torch.as_tensor(weight, dtype=torch.float32, device=fake.device)
        if config.adversarial_weight:
            realism = self.game.realism(batch, real, fake, condition)
            terms.parts["realism"] = realism.detach()
            terms.total = terms.total + config.adversarial_weight * weight * realism
        if config.gp_phase == "both":
            terms.total = terms.total + self.game.generator_penalty(batch, fake, condition)
        return share

    def _phi(
        self, terms: LossTerms, batch: Batch, ssl: Tensor | None
    ) -> tuple[Tensor | float, float]:
        """Return phi and the share of the SSL weight; carry phi's running mean."""
        if self.config.phi_kind != "loss":
            return phi.of_curriculum(self.config, batch.progress)
        assert ssl is not None
        value = self._over_ranks(ssl.detach(), mean=True)  # every rank weighs alike
        mean = phi.moved(self.phi_mean, self.phi_steps, value)
        terms.carry["phi_mean"] = mean
        return phi.of_loss(self.config, mean, 2 * len(batch) * self._num_ranks), 1.0

    def _ssl_of(self, batch: Batch, fake: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return L_SSL(G) and, detached, what inner feature maps are compared with [n, D].

        With a condition that is the real image of the row, else the synthetic image itself.
        """
        config = self.config
        learned, measured = config.generator_ssl_weight > 0, config.phi_kind == "loss"
        if not (learned or measured or config.aux_sides):
            return None, None
        with torch.set_grad_enabled(learned):
            z_fake = self._project(batch, self._view(batch, fake, 0))
            if self.game.condition:
                with torch.no_grad():
                    z_other = self._project(batch, batch.views[0])
            elif learned:
                z_other = self._project(batch, self._view(batch, fake, 1))
            else:
                return None, z_fake.detach()
            loss = nt_xent(
                z_fake, z_other, temperature=config.temperature, group=self.process_group
            )
        return loss, (z_other if self.game.condition else z_fake).detach()

    def _auxiliary(self, fake: Synthetic, anchor_nD: Tensor) -> Tensor:
        """Return the NT-Xent losses of the heads, added up."""
        losses = []
        for side, head in self.game.heads.items():
            z_nD = head(fake.features[int(side)].mean(dim=(2, 3)))
            rows = torch.cat((z_nD.float(), anchor_nD.float()))
            tau, group = self.config.temperature, self.process_group
            losses.append(nt_xent(rows, temperature=tau, group=group))
        return torch.stack(losses).sum()

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
        zs_real = self.ssl.embed(phase, batch)
        zs_made = self.ssl.embed(phase, dataclasses.replace(batch, views=made))
        zs = tuple(torch.cat(pair) for pair in zip(zs_real, zs_made, strict=True))
        return self.ssl.loss_of(phase, zs, self._doubled(batch))

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

    # images

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
        return self._instance_features(batch.images)

    def _instance_features(self, images: Tensor) -> Tensor:
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
        return self.ssl.embed(self.ssl.phases[0], alone)[0]


def _adam(config: GanSettings, lr: float) -> OptimizerSpec:
    return OptimizerSpec(name="adam", lr=lr, betas=config.betas, constant=True)


def _inner_method(config: GanSettings, encoder: Encoder, facts: Facts) -> Method:
    """Build the method that trains the encoder."""
    loaded = registry.load("methods", config.ssl, "--method.ssl")
    if issubclass(loaded, GanSSL):
        raise ConfigError("--method.ssl: gan-ssl cannot train its own encoder; use simclr, say")
    settings = inner_config(loaded.Config, config.ssl_options, config.ssl)
    method: Method = loaded.build(settings, encoder, facts)
    return method


@torch.no_grad()
def _embedding_dim(method: Method, size: int) -> int:
    """Return D, by embedding two blank images."""
    method.eval()
    rows = torch.arange(2)
    blank = Batch(views=[torch.zeros(2, 3, size, size)], index=rows, position=rows)
    width = method.embed(method.phases[0], blank)[0].shape[1]
    method.train()
    return width
