"""GAN + SSL: a generator that learns to make the images that help the encoder.

One step walks over three phases, each of which trains its own modules only: the critic tells real
from synthetic images, the generator is judged by the critic and by the encoder's SSL loss, and the
encoder is trained by any SSL method with synthetic images among its views. `--method gan-ssl`.
Shapes: n rows of this rank, R pixels of a synthetic image, D numbers of an embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from ssgear import registry
from ssgear.data.augment import AugmentSpec
from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError
from ssgear.methods.base import (
    Card,
    Embeddings,
    Extract,
    Facts,
    Group,
    LossTerms,
    Method,
    Needs,
    OptimizerSpec,
    Phase,
    Pretext,
)
from ssgear.methods.gan_ssl.config import GanSettings, inner_config, named_inside
from ssgear.methods.gan_ssl.encoder_phase import EncoderPhase
from ssgear.methods.gan_ssl.game import Game
from ssgear.methods.gan_ssl.generator_phase import GeneratorPhase
from ssgear.methods.gan_ssl.instances import Instances
from ssgear.methods.gan_ssl.parts import condition_of
from ssgear.methods.gan_ssl.side import AveragedGenerator
from ssgear.models.gan.critic_augment import Ada

if TYPE_CHECKING:
    from ssgear.models.encoders import Encoder

PRESETS = {
    # minutes on two cores: what it measured is in README.md
    "gan-ssl-quick": {
        "extends": "quick",
        "optim.epochs": 24,
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
    "gan-ssl-tiny": {
        "extends": "gan-ssl-quick",
        "method.generator_width": 4,
        "method.critic_width": 4,
        "method.noise_dim": 8,
        "method.generator_norm": "group",
        "method.ssl_options": ["projector_dims=16,8"],
    },
}

CRITIC, GENERATOR = "critic", "generator"


class GanSSL(GeneratorPhase, EncoderPhase):
    """Critic, generator and encoder, trained together."""

    card = Card(title="GAN + SSL")

    @dataclass(frozen=True, kw_only=True)
    class Config(GanSettings, Method.Config):
        """Settings of GAN + SSL."""

    config: Config

    def __init__(self, config: Config, encoder: Encoder, facts: Facts) -> None:
        """Build generator and critic, and the method that trains the encoder."""
        super().__init__(config, encoder)
        self.pretext = facts.pretext
        kind, settings = _inner_of(config)
        with named_inside():
            self.ssl = kind.build(settings, encoder, facts)
        inner = self.ssl.card
        self.card = dataclasses.replace(
            self.card,
            collapse_hint=inner.collapse_hint,
            sees_labels=inner.sees_labels or config.condition == "label",
        )
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
        self.generator = AveragedGenerator(self) if config.has_gan else None

    @classmethod
    def needs(cls, config: Config) -> Needs:
        """Return what the encoder's method needs, and the GAN beside it."""
        kind, settings = _inner_of(config)
        inner = kind.needs(settings)
        penalised = config.has_gp or config.r1_gamma > 0 or config.path_length > 0
        averaged = "averaged encoder" if config.condition == "instance" else inner.whole_weights
        return Needs(
            whole_batch=True,
            second_derivatives=inner.second_derivatives or (config.has_gan and penalised),
            whole_weights="averaged generator" if config.has_gan else averaged,
            images=True,
        )

    @classmethod
    def build_pretext(cls, config: Config) -> Pretext | None:
        """Return the task of the encoder's method."""
        kind, settings = _inner_of(config)
        with named_inside():
            return kind.build_pretext(settings)

    @classmethod
    def build(cls, config: Config, encoder: Encoder, facts: Facts) -> Self:
        """Build the method for a run."""
        return cls(config, encoder, facts)

    def _walk(self, facts: Facts) -> tuple[tuple[Group, ...], tuple[Phase, ...]]:
        """Return the groups and phases: those of the GAN first, then the encoder's."""
        config, game = self.config, self.game
        groups: list[Group] = []
        phases: list[Phase] = []
        if config.has_gan:
            if config.warmup_epochs >= facts.epochs:
                raise ConfigError(
                    f"--method.warmup-epochs: {config.warmup_epochs:g} of {facts.epochs} epochs "
                    "leave none for the GAN; use fewer"
                )
            after = config.warmup_epochs / facts.epochs
            makers: dict[str, nn.Module] = {"generator": game.generator, "heads": game.heads}
            if not config.aux_sides:
                del makers["heads"]
            # no penalty goes through compiled code
            penalised = config.r1_gamma > 0 or config.has_gp
            synthesis = getattr(game.generator, "synthesis", game.generator)
            frozen = () if config.train_encoder else self.ssl.groups
            judges = [module for group in frozen for module in group.compiled]
            groups += [
                Group(
                    CRITIC,
                    {"critic": game.critic},
                    optimizer=_adam(config, config.critic_lr),
                    compiled=() if penalised else (game.critic,),
                ),
                Group(
                    GENERATOR,
                    makers,
                    optimizer=_adam(config, config.generator_lr),
                    compiled=judges if config.path_length else (*judges, synthesis),
                ),
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
        skipping = (dataclasses.replace(each, max_skipped=config.max_skipped) for each in phases)
        return tuple(groups), tuple(skipping)

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
        with named_inside():
            return self.ssl.view_specs(named)

    def before_epoch(self, progress: float, extract: Extract) -> None:
        """Rebuild the table of neighbours by the encoder as it is now."""
        self.ssl.before_epoch(progress, extract)
        if self.instances is not None:
            self.instances.rebuild(extract())

    def embed(self, phase: Phase, batch: Batch) -> Embeddings:
        """Return what the encoder's method makes of a batch's views."""
        return self.ssl.embed(phase, batch)

    def health_embeddings(self, phase: Phase, batch: Batch) -> tuple[Tensor, ...]:
        """Return those of the encoder's method."""
        return self.ssl.health_embeddings(phase, batch)

    def after_load(self) -> None:
        """Let the encoder's method look at what was loaded."""
        self.ssl.after_load()

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

    def loss(self, phase: Phase, batch: Batch) -> LossTerms:
        """Return the loss of a phase."""
        if phase.name == CRITIC:
            return self.game.critic_terms(batch, *self._real(batch))
        if phase.name == GENERATOR:
            return self._generator_terms(batch)
        return self._encoder_terms(phase, batch)


def _adam(config: GanSettings, lr: float) -> OptimizerSpec:
    return OptimizerSpec(name="adam", lr=lr, betas=config.betas, constant=True)


def _inner_of(config: GanSettings) -> tuple[type[Method], Method.Config]:
    """Return the method that trains the encoder, and its settings."""
    kind: type[Method] = registry.load("methods", config.ssl, "--method.ssl")
    if issubclass(kind, GanSSL):
        raise ConfigError("--method.ssl: gan-ssl cannot train its own encoder; use simclr, say")
    if _changes_views(kind):
        raise ConfigError(
            f"--method.ssl: {config.ssl} shows its encoder images of its own making, among which "
            "synthetic ones have no place; use simclr or another method that compares views"
        )
    return kind, inner_config(kind.Config, config.ssl_options, config.ssl)


def _changes_views(kind: type[Method]) -> bool:
    """Whether a method shows its encoder other images than the views, whatever its settings are."""
    if kind.build_pretext.__func__ is Method.build_pretext.__func__:  # type: ignore[attr-defined]
        return False  # its settings may have no defaults
    pretext = kind.build_pretext(kind.Config())
    return pretext is not None and pretext.changes_views


@torch.no_grad()
def _embedding_dim(method: Method, size: int) -> int:
    """Return D, by embedding two blank images."""
    method.eval()
    rows = torch.arange(2)
    blank = Batch(views=[torch.zeros(2, 3, size, size)], index=rows, position=rows)
    width = method.embed(method.phases[0], blank).online[0].shape[1]
    method.train()
    return width
