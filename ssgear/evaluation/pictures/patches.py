"""Patches of a vision transformer of timm: how many tokens there are, and which are patches.

grid = patch_grid(encoder, images)
patches_NPC = tokens_NTC[:, grid.prefix :]      # without class token and registers
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssgear.errors import ArgumentError, ConfigError
from ssgear.models.encoders import Normalized

BATCH = 64
"""Images of a forward pass."""


@dataclass(frozen=True, kw_only=True)
class PatchGrid:
    """Tokens of an image: first a prefix, then the patches row by row."""

    prefix: int
    """Class token and registers."""
    has_class: bool
    """Whether token 0 is the class token."""
    height: int
    """Patches from top to bottom."""
    width: int
    """Patches from left to right."""

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens of an image."""
        return self.prefix + self.height * self.width


def patch_grid(encoder: Normalized, images_NCHW: Tensor) -> PatchGrid:
    """Return where the patches of these images are among a transformer's tokens.

    Raises:
        ArgumentError: there are no images, or they are not of the encoder's size.
        ConfigError: the network is no vision transformer of one resolution.
    """
    if tuple(images_NCHW.shape[1:]) != (3, encoder.size, encoder.size) or not len(images_NCHW):
        raise ArgumentError(
            f"images: shape {tuple(images_NCHW.shape)}, expected [N, 3, {encoder.size}, "
            f"{encoder.size}] with N at least 1"
        )
    network: Any = encoder.encoder.network
    side: Any = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    prefix = getattr(network, "num_prefix_tokens", None)
    if side is None or prefix is None or not hasattr(network, "blocks"):
        raise not_a_transformer(encoder)
    down, across = side if isinstance(side, tuple) else (side, side)
    return PatchGrid(
        prefix=int(prefix),
        has_class=getattr(network, "cls_token", None) is not None,
        height=encoder.size // int(down),
        width=encoder.size // int(across),
    )


def not_a_transformer(encoder: Normalized) -> ConfigError:
    """Return the refusal of a network without attention between patches."""
    return ConfigError(
        f"{encoder.config.name}: not a vision transformer with patches of one size; use a network "
        "such as vit_small_patch16_224"
    )


def batches(images_NCHW: Tensor, encoder: Normalized) -> Iterator[Tensor]:
    """Yield batches of images on the encoder's device."""
    for start in range(0, len(images_NCHW), BATCH):
        yield images_NCHW[start : start + BATCH].to(encoder.mean_3HW.device)
