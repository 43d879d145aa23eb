"""Settings of a StyleGAN2 generator and critic (Karras et al. 2020, arXiv 1912.04958)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ssgear.errors import ConfigError
from ssgear.models.gan.conditions import UNCONDITIONAL, Condition, check_choice, check_resolution

RESOLUTIONS = (8, 256)
START = 4
"""Side of the smallest feature map."""
Architecture = Literal["orig", "resnet"]


@dataclass(frozen=True, kw_only=True)
class StyleGAN2Config:
    """Settings that the generator and its critic share."""

    resolution: int = 32
    """Side of the images in pixels."""
    condition: Condition = UNCONDITIONAL
    """What both networks are conditioned on."""
    noise_dim: int = 512
    """Length Z of the noise."""
    style_dim: int = 512
    """Length W of the styles, and width of the mapping network."""
    mapping_layers: int = 8
    """Layers between noise and styles."""
    width_base: int = 32768
    """A feature map of side r has width_base / r channels,"""
    max_width: int = 512
    """but no more than this."""
    critic_architecture: Architecture = "resnet"
    """orig (plain) or resnet (with a linear path beside every two convolutions)."""
    minibatch_group: int = 4
    """Samples over which the critic sees a standard deviation; 0: none, each by itself."""
    condition_layers: int = 8
    """Layers of the critic's mapping of the condition."""
    style_mixing: float = 0.9
    """Share of synthetic images made of two styles in training."""
    path_length: float = 2.0
    """Weight of the path-length penalty; 0: none."""

    def __post_init__(self) -> None:
        """Refuse sizes and names that cannot be built."""
        check_resolution("StyleGAN2", self.resolution, *RESOLUTIONS)
        check_choice("critic_architecture", self.critic_architecture, get_args(Architecture))
        widths = (self.noise_dim, self.style_dim, self.max_width, self.mapping_layers)
        if min(widths) < 1 or self.condition_layers < 0 or self.minibatch_group < 0:
            raise ConfigError(
                "StyleGAN2: noise_dim, style_dim, max_width and mapping_layers must be at least 1, "
                "condition_layers and minibatch_group at least 0"
            )
        if self.width_base < self.resolution:
            raise ConfigError(
                f"StyleGAN2: width_base {self.width_base} leaves no channel at "
                f"{self.resolution} pixels; use {self.resolution} or more"
            )
        if not 0 <= self.style_mixing <= 1 or self.path_length < 0:
            raise ConfigError(
                f"StyleGAN2: style_mixing {self.style_mixing} must lie in [0, 1], "
                f"path_length {self.path_length} must be at least 0"
            )

    @staticmethod
    def cifar(condition: Condition = UNCONDITIONAL) -> StyleGAN2Config:
        """Return the settings of StyleGAN2-ADA for CIFAR-10 (Karras et al. 2020, 2006.06676).

        They go with batches of 64, Adam (0, 0.99) at 0.0025, R1 of gamma 0.01 every 16 steps, an
        average of the generator over 500k images with ramp 0.05, and ADA with target 0.6.
        """
        return StyleGAN2Config(
            resolution=32,
            condition=condition,
            mapping_layers=2,
            critic_architecture="orig",
            minibatch_group=32,
            style_mixing=0.0,
            path_length=0.0,
        )

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the feature maps: 4, 8, ..., resolution."""
        halvings = (self.resolution // START).bit_length() - 1
        return tuple(START * 2**level for level in range(halvings + 1))

    def width(self, side: int) -> int:
        """Return the channels of the feature maps of one side."""
        return min(self.width_base // side, self.max_width)
