"""DCGAN (Radford et al. 2016, arXiv 1511.06434), conditional or not, 8 to 128 pixels.

    config = DCGANConfig(resolution=32, condition=Condition(kind="label", size=10))
    generator, critic = DCGANGenerator(config), DCGANCritic(config)
    scores_N = critic(generator(noise_NZ, labels_N), labels_N)

The generator takes the condition's embedding beside its noise (Mirza & Osindero 2014, 1411.1784);
the critic projects on it (Miyato & Koyama 2018, 1802.05637) and has no statistics over the batch,
so that the gradient of one sample's score is that sample's own (Gulrajani et al. 2017, 1704.00028).
Shapes: N rows, Z noise numbers, R pixels of a side, C channels.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from ssgear.errors import ConfigError
from ssgear.models.encoders.networks import groups_for
from ssgear.models.gan.activation import SLOPE, LeakyReLU
from ssgear.models.gan.conditions import (
    UNCONDITIONAL,
    Condition,
    check_choice,
    check_feature_sides,
    check_images,
    check_noise,
    check_resolution,
)

RESOLUTIONS = (8, 128)
START = 4
"""Side of the smallest feature map."""
INIT_STD = 0.02
"""Of weights that a norm follows, and of embeddings."""

GeneratorNorm = Literal["batch", "group", "none"]
CriticNorm = Literal["none", "layer"]


@dataclass(frozen=True, kw_only=True)
class DCGANConfig:
    """Settings that the generator and its critic share."""

    resolution: int = 32
    """Side of the images in pixels."""
    noise_dim: int = 100
    """Length Z of the noise."""
    condition: Condition = UNCONDITIONAL
    """What both networks are conditioned on."""
    embedding_dim: int = 64
    """Width of the condition's embedding in the generator."""
    generator_width: int = 64
    """Channels of the generator's last feature map; each smaller one has twice as many."""
    critic_width: int = 64
    """Channels of the critic's first feature map; each smaller one has twice as many."""
    max_width: int = 512
    """No feature map has more channels than this."""
    generator_norm: GeneratorNorm = "batch"
    """Normalisation in the generator: batch, group or none."""
    critic_norm: CriticNorm = "none"
    """Normalisation in the critic, of each sample by itself: none or layer."""

    def __post_init__(self) -> None:
        """Refuse sizes and names that cannot be built."""
        check_resolution("DCGAN", self.resolution, *RESOLUTIONS)
        check_choice("generator_norm", self.generator_norm, get_args(GeneratorNorm))
        check_choice("critic_norm", self.critic_norm, get_args(CriticNorm))
        widths = (self.noise_dim, self.embedding_dim, self.generator_width, self.critic_width)
        if min(*widths, self.max_width) < 1:
            raise ConfigError("DCGAN: noise_dim, embedding_dim and the widths must be at least 1")

    def widths(self, first: int) -> list[int]:
        """Return the channels at half the resolution, a quarter, ... down to 4 pixels."""
        halvings = (self.resolution // START).bit_length() - 1
        return [min(first * 2**level, self.max_width) for level in range(halvings)]


class DCGANGenerator(nn.Module):
    """Noise [N, Z] and a condition to images [N, 3, R, R] in [-1, 1]."""

    def __init__(self, config: DCGANConfig) -> None:
        """Build the network with weights drawn from torch's generator."""
        super().__init__()
        self.config = config
        self.noise_dim, self.resolution = config.noise_dim, config.resolution
        widths = config.widths(config.generator_width)[::-1]
        inputs = config.noise_dim + (config.embedding_dim if config.condition else 0)
        self.start = nn.Linear(inputs, widths[0] * START**2, bias=False)
        self.start_norm = _generator_norm(config.generator_norm, widths[0])
        self.blocks = nn.ModuleList(
            nn.Sequential(
                _up(width, next_width, bias=config.generator_norm == "none"),
                _generator_norm(config.generator_norm, next_width),
                nn.ReLU(),
            )
            for width, next_width in itertools.pairwise(widths)
        )
        self.to_image = _up(widths[-1], 3, bias=True)
        _init(self, normed=config.generator_norm != "none")
        self.embed = _embedding(config.condition, config.embedding_dim)

    @property
    def feature_channels(self) -> dict[int, int]:
        """Side -> channels of every intermediate feature map."""
        widths = self.config.widths(self.config.generator_width)[::-1]
        return {START * 2**level: width for level, width in enumerate(widths)}

    def forward(self, noise_NZ: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return images; labels are int64 [N], vectors floating-point [N, size]."""
        return self.with_features(noise_NZ, condition)[0]

    def with_features(
        self, noise_NZ: Tensor, condition: Tensor | None = None, *, at: tuple[int, ...] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Return images and the feature maps {r: [N, C, r, r]} at the sides `at`."""
        check_noise(noise_NZ, self.noise_dim)
        self.config.condition.check(condition, len(noise_NZ))
        check_feature_sides(at, tuple(self.feature_channels))
        inputs = noise_NZ
        if self.embed is not None and condition is not None:
            embedded = self.embed(self.config.condition.rows(condition, noise_NZ.dtype))
            inputs = torch.cat((noise_NZ, embedded.to(noise_NZ.dtype)), dim=1)
        x_NCHW = self.start(inputs).reshape(len(inputs), -1, START, START)
        x_NCHW = self.start_norm(x_NCHW).relu()
        features = {START: x_NCHW}
        for block in self.blocks:
            x_NCHW = block(x_NCHW)
            features[x_NCHW.shape[-1]] = x_NCHW
        return self.to_image(x_NCHW).tanh(), {side: features[side] for side in at}


class DCGANCritic(nn.Module):
    """Images [N, 3, R, R] in [-1, 1] and a condition to scores [N], sample by sample."""

    def __init__(self, config: DCGANConfig) -> None:
        """Build the network with weights drawn from torch's generator."""
        super().__init__()
        self.config = config
        self.resolution = config.resolution
        widths = [3, *config.widths(config.critic_width)]
        layers: list[nn.Module] = []
        for level, (width, next_width) in enumerate(itertools.pairwise(widths)):
            layers.append(nn.Conv2d(width, next_width, 4, stride=2, padding=1))
            if level and config.critic_norm == "layer":
                layers.append(nn.GroupNorm(1, next_width))
            layers.append(LeakyReLU())
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        features = widths[-1] * START**2
        self.score = nn.Linear(features, 1)
        _init(self, normed=config.critic_norm == "layer")
        self.embed = _embedding(config.condition, features)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return scores [N]; labels are int64 [N], vectors floating-point [N, size]."""
        check_images(images, 3, self.resolution)
        self.config.condition.check(condition, len(images))
        h_NF = self.trunk(images)
        scores_N = self.score(h_NF).squeeze(1)
        if self.embed is None or condition is None:
            return cast(Tensor, scores_N)
        embedded_NF = self.embed(self.config.condition.rows(condition, images.dtype))
        return cast(Tensor, scores_N + (embedded_NF * h_NF).sum(dim=1))


def _embedding(condition: Condition, width: int) -> nn.Linear | None:
    """Return the map of a condition's rows; of one-hot rows it is a table of embeddings."""
    if not condition:
        return None
    embed = nn.Linear(condition.size, width, bias=False)
    nn.init.normal_(embed.weight, 0.0, INIT_STD)
    return embed


def _up(width: int, next_width: int, *, bias: bool) -> nn.Module:
    return nn.ConvTranspose2d(width, next_width, 4, stride=2, padding=1, bias=bias)


def _generator_norm(norm: str, width: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(width)
    return nn.GroupNorm(groups_for(width), width) if norm == "group" else nn.Identity()


def _init(module: nn.Module, *, normed: bool) -> None:
    """Draw the weights of every layer: N(0, 0.02^2) as in the paper where norms follow.

    Without them that would shrink the signal at every layer, so the weights keep its scale instead.
    """
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.normal_(layer.weight, 1.0, INIT_STD)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, INIT_STD if normed else _he_std(layer))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _he_std(layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> float:
    """Return the standard deviation that keeps the second moment (He et al. 2015)."""
    taps = layer.weight[0, 0].numel() if layer.weight.ndim == 4 else 1
    inputs = layer.weight.shape[0 if isinstance(layer, nn.ConvTranspose2d) else 1]
    # at stride 2 a transposed convolution's output pixel sees a quarter of the taps
    fan_in = inputs * (taps // 4 if isinstance(layer, nn.ConvTranspose2d) else taps)
    return math.sqrt(2 / ((1 + SLOPE**2) * fan_in))
