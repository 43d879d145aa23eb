"""The networks of GAN + SSL from its settings, and one synthetic batch from either generator.

Everything random is drawn from the batch, so that two ranks draw what one would.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError, refusing
from ssgear.methods.base import Facts
from ssgear.methods.gan_ssl.config import GanSettings
from ssgear.models.gan.conditions import Condition
from ssgear.models.gan.critic_augment import CriticAugment, build_critic_augment
from ssgear.models.gan.dcgan import DCGANConfig, DCGANCritic, DCGANGenerator
from ssgear.models.gan.sampling import Generator
from ssgear.models.gan.stylegan2 import StyleGAN2Generator
from ssgear.models.gan.stylegan2_config import StyleGAN2Config
from ssgear.models.gan.stylegan2_critic import StyleGAN2Critic
from ssgear.models.heads import mlp, seeded

STYLEGAN2_AT_32 = 64
"""`generator_width` that gives the 512 channels of StyleGAN2-ADA's configuration for CIFAR-10."""

Critic = DCGANCritic | StyleGAN2Critic


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """What a generator made of one batch's noise."""

    images: Tensor
    """[N, 3, R, R], about in [-1, 1]."""
    features: dict[int, Tensor]
    """Side -> feature map [N, C, r, r], where asked for."""
    styles: Tensor | None = None
    """[N, L, W] of a StyleGAN2."""


def condition_of(config: GanSettings, facts: Facts, num_features: int) -> Condition:
    """Return what generator and critic are conditioned on."""
    if config.condition == "none":
        return Condition()
    if config.condition == "instance":
        return Condition(kind="vector", size=num_features)
    if not facts.num_classes:
        raise ConfigError(
            "--method.condition: label needs labels and these images have none; use class folders "
            "or --data.labels, or the condition none or instance"
        )
    return Condition(kind="label", size=facts.num_classes)


def build_gan(
    config: GanSettings, condition: Condition, resolution: int, seed: int
) -> tuple[Generator, Critic]:
    """Build generator and critic with weights of (seed, part)."""
    from_views = "" if config.resolution else " (by default --data.size)"
    with _naming(f"--method.resolution{from_views}"):  # widths were checked before
        made, critic = _shapes(config, condition, resolution)
    if isinstance(made, DCGANConfig):
        with seeded(seed, "generator"):
            generator: Generator = DCGANGenerator(made)
        with seeded(seed, "critic"):
            return generator, DCGANCritic(made)
    assert isinstance(critic, StyleGAN2Config)
    with seeded(seed, "generator"):
        generator = StyleGAN2Generator(made)
    with seeded(seed, "critic"):
        return generator, StyleGAN2Critic(critic)


def _naming(option: str) -> AbstractContextManager[None]:
    """Say which option was wrong, where what is built from it only knows its own fields."""
    return refusing(ConfigError, lambda error: ConfigError(f"{option}: {error}"))


def _shapes(
    config: GanSettings, condition: Condition, resolution: int
) -> tuple[DCGANConfig, DCGANConfig] | tuple[StyleGAN2Config, StyleGAN2Config]:
    """Return the settings of generator and critic."""
    if config.generator == "stylegan2":
        return (
            _stylegan2(config, condition, resolution, "generator_width"),
            _stylegan2(config, condition, resolution, "critic_width"),
        )
    shape = DCGANConfig(
        resolution=resolution,
        condition=condition,
        noise_dim=config.noise_dim,
        generator_width=config.generator_width,
        critic_width=config.critic_width,
        generator_norm=config.generator_norm,
    )
    return shape, shape


def _stylegan2(
    config: GanSettings, condition: Condition, resolution: int, width: str
) -> StyleGAN2Config:
    """Return StyleGAN2-ADA's configuration for CIFAR-10 at any width and resolution."""
    channels: int = getattr(config, width) * 512 // STYLEGAN2_AT_32
    return StyleGAN2Config(
        resolution=resolution,
        condition=condition,
        noise_dim=config.noise_dim,
        style_dim=channels,
        mapping_layers=2,
        width_base=channels * 64,
        max_width=channels,
        critic_architecture="orig" if resolution <= 32 else "resnet",
        minibatch_group=32 if resolution <= 32 else 4,
        condition_layers=2,
        style_mixing=config.style_mixing,
        path_length=config.path_length,
    )


def build_heads(config: GanSettings, generator: Generator, width: int, seed: int) -> nn.ModuleDict:
    """Build a head for each feature map that is supervised: pooled, two layers, `width` numbers."""
    channels = generator.feature_channels
    unknown = [side for side in config.aux_sides if side not in channels]
    if unknown:
        known = ", ".join(map(str, channels))
        raise ConfigError(
            f"--method.aux-sides: the generator has no feature map of {unknown[0]} pixels; "
            f"it has {known}"
        )
    with seeded(seed, "generator heads"):
        return nn.ModuleDict(
            {
                str(side): mlp(channels[side], (channels[side], width), norm="none")
                for side in config.aux_sides
            }
        )


def build_augment(config: GanSettings) -> CriticAugment:
    """Build what is done to images before the critic sees them."""
    with _naming("--method.critic-policies"):
        return build_critic_augment(config.critic_augment, config.critic_policies or None)


def synthesise(
    generator: Generator,
    batch: Batch,
    condition: Tensor | None,
    *,
    mixing: float = 0.0,
    at: tuple[int, ...] = (),
) -> Synthetic:
    """Make one image for every row of a batch."""
    noise_NZ = batch.draw("noise", (generator.noise_dim,), normal=True)
    if isinstance(generator, DCGANGenerator):
        if not at:  # through __call__, which may be compiled
            return Synthetic(images=generator(noise_NZ, condition), features={})
        images, features = generator.with_features(noise_NZ, condition, at=at)
        return Synthetic(images=images, features=features)
    second = batch.draw("second noise", noise_NZ.shape[1:], normal=True) if mixing else None
    crossing = batch.draw("mixing", (2,)) if mixing else None
    styles = generator.styles(noise_NZ, condition, second_NZ=second, mixing_N2=crossing)
    pixel_noise = [
        batch.draw(f"pixel noise {layer}", (1, side, side), normal=True)
        for layer, side in enumerate(generator.synthesis.noise_sides)
    ]
    images, features = generator.synthesis(styles, pixel_noise=pixel_noise, at=at)
    return Synthetic(images=images, features=features, styles=styles)


def at_resolution(images: Tensor, side: int) -> Tensor:
    """Bring images [N, 3, H, W] to the generator's side."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)
