"""What is done to images before the critic sees them, so that it cannot learn few by heart.

    augment = build_critic_augment("ada")                      # none, diffaugment, ada
    d_real = critic(augment(real, batch.draw, name="real"))    # real and synthetic images alike
    d_fake = critic(augment(fake, batch.draw, name="fake"))

`DiffAugment` (Zhao et al. 2020, arXiv 2006.10738) changes every image; `Ada` (ada.py) each with a
probability that adapts. Both are differentiable in the images, any number of times, and all that is
random comes from `draw`. Shapes: N images [N, 3, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssgear.models.gan.ada import Ada
from ssgear.models.gan.augment_base import CriticAugment, Draw, draw_uniform
from ssgear.models.gan.conditions import check_choice
from ssgear.models.gan.pixels import gather

__all__ = ["Ada", "CriticAugment", "DiffAugment", "Draw", "NoAugment", "build_critic_augment"]

MOST_SHIFT = 1 / 8
"""Largest shift of DiffAugment's translation, as a share of the side."""
HOLE = 1 / 2
"""Side of its cutout, as a share of the side."""


class NoAugment(CriticAugment):
    """Images as they are."""

    known = ()

    def augment(self, images: Tensor, draw: Draw, name: str) -> Tensor:
        """Return the images."""
        return images


class DiffAugment(CriticAugment):
    """Colour, translation and cutout of Zhao et al. 2020, on every image."""

    known = ("color", "translation", "cutout")

    def augment(self, images: Tensor, draw: Draw, name: str) -> Tensor:
        """Return changed images [N, 3, H, W]; draws of one half change nothing but cutout's."""
        for policy in self.policies:
            function, count = POLICIES[policy]
            images = function(images, draw_uniform(draw, f"{name}.{policy}", (count,), images))
        return images


def color(images: Tensor, draws_N3: Tensor) -> Tensor:
    """Move brightness by up to 1/2, scale saturation by up to 2 and contrast by 1/2 to 3/2."""
    brightness, saturation, contrast = draws_N3.to(images.dtype)[..., None, None, None].unbind(1)
    images = images + (brightness - 0.5)
    # written as a change, so that a factor of 1 leaves every bit
    grey = images.mean(dim=1, keepdim=True)
    images = images + (images - grey) * (2 * saturation - 1)
    level = images.mean(dim=(1, 2, 3), keepdim=True)
    return images + (images - level) * (contrast - 0.5)


def translation(images: Tensor, draws_N2: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of the side; what comes in is 0."""
    height, width = images.shape[2:]
    down_N, right_N = (
        _whole(draws_N2[:, axis], _share(side, MOST_SHIFT))
        for axis, side in enumerate(images.shape[2:])
    )
    rows_NH1 = (torch.arange(height, device=images.device) - down_N[:, None])[:, :, None]
    columns_N1W = (torch.arange(width, device=images.device) - right_N[:, None])[:, None, :]
    inside = _within(rows_NH1, height) & _within(columns_N1W, width)
    moved = gather(images, rows_NH1.clamp(0, height - 1), columns_N1W.clamp(0, width - 1))
    return torch.where(inside[:, None], moved, 0.0)


def cutout(images: Tensor, draws_N2: Tensor) -> Tensor:
    """Set a square of half the side to 0; its centre may be any pixel, so it may stand over."""
    holes = []
    for axis, side in enumerate(images.shape[2:]):
        hole = _share(side, HOLE)
        first_N1 = (draws_N2[:, axis : axis + 1] * (side + 1 - hole % 2)).long() - hole // 2
        place = torch.arange(side, device=images.device)
        holes.append((place >= first_N1) & (place < first_N1 + hole))
    rows_NH, columns_NW = holes
    hidden = rows_NH[:, None, :, None] & columns_NW[:, None, None, :]
    return torch.where(hidden, 0.0, images)


POLICIES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int]] = {
    "color": (color, 3),
    "translation": (translation, 2),
    "cutout": (cutout, 2),
}
"""Policy of DiffAugment -> function of images and uniform draws, and how many an image needs."""
AUGMENTS: dict[str, type[CriticAugment]] = {
    "none": NoAugment,
    "diffaugment": DiffAugment,
    "ada": Ada,
}


def build_critic_augment(name: str, policies: Sequence[str] | None = None) -> CriticAugment:
    """Return the augmentation of that name: none, diffaugment or ada.

    Args:
        name: Which.
        policies: What it does, in this order; None: all that it can.

    Raises:
        ConfigError: For a name or a policy that there is not.
    """
    check_choice("critic augmentation", name, tuple(AUGMENTS))
    return AUGMENTS[name](policies)


def _share(side: int, share: float) -> int:
    """Return a share of a side in whole pixels, halves upwards (`round` takes them to even)."""
    return int(side * share + 0.5)


def _whole(draws_N: Tensor, most: int) -> Tensor:
    """Return whole numbers from -most to most, int64."""
    return (draws_N * (2 * most + 1)).long() - most


def _within(index: Tensor, side: int) -> Tensor:
    return (index >= 0) & (index < side)
