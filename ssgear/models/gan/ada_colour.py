"""ADA's colour transformations (Karras et al. 2020, arXiv 2006.06676, appendix B).

Brightness, contrast, luma flip, hue and saturation are affine in the three channels: they become
one matrix and one offset for every image. Each happens with probability p by itself.
Shapes: N images, three channels, draws uniform in [0, 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssgear.models.gan.ada_geometry import normal

COUNT = 10
"""Draws for each image: five whether, five how much."""
BRIGHTNESS_STD = 0.2
CONTRAST_STD = 0.5
"""Of the logarithm to base 2, as the next."""
SATURATION_STD = 1.0


def change_colours(images_N3HW: Tensor, draws: Tensor, p: Tensor) -> Tensor:
    """Return images in other colours; rows where nothing happens keep every bit.

    Args:
        images_N3HW: In [-1, 1].
        draws: [N, COUNT].
        p: Probability of each transformation, 0-d.
    """
    happens_N5 = draws[:, :5] < p
    matrix_N33, offset_N3 = colour_map(draws[:, 5:].to(images_N3HW.dtype), happens_N5)
    pixels = images_N3HW.flatten(2)
    changed = (matrix_N33 @ pixels + offset_N3[:, :, None]).reshape(images_N3HW.shape)
    return torch.where(happens_N5.any(dim=1)[:, None, None, None], changed, images_N3HW)


def colour_map(draws_N5: Tensor, happens_N5: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrices [N, 3, 3] and offsets [N, 3] of all five, one after the other."""
    brightness, contrast, luma, hue, saturation = draws_N5.unbind(1)
    one = torch.ones_like(brightness)
    offset_N = normal(brightness) * BRIGHTNESS_STD
    contrast = torch.exp2(normal(contrast) * CONTRAST_STD)
    flip = torch.where(luma < 0.5, -one, one)
    angle = (2 * hue - 1) * math.pi
    saturation = torch.exp2(normal(saturation) * SATURATION_STD)
    still = (0 * one, one, one, 0 * one, one)
    offset_N, contrast, flip, angle, saturation = (
        torch.where(happens, value, neutral)
        for happens, value, neutral in zip(
            happens_N5.unbind(1), (offset_N, contrast, flip, angle, saturation), still, strict=True
        )
    )
    # along the grey axis the luma flips; across it the colours turn and saturate
    along_33 = torch.full((3, 3), 1 / 3, dtype=one.dtype, device=one.device)
    across_N33 = _turn(angle) - along_33
    matrix_N33 = along_33 * flip[:, None, None] + across_N33 * saturation[:, None, None]
    matrix_N33 = matrix_N33 * contrast[:, None, None]
    return matrix_N33, (offset_N * contrast * flip)[:, None].expand(-1, 3)


def _turn(angle_N: Tensor) -> Tensor:
    """Return the rotations [N, 3, 3] about the grey axis (Rodrigues' formula)."""
    cos, sin = angle_N.cos()[:, None, None], angle_N.sin()[:, None, None]
    eye = torch.eye(3, dtype=angle_N.dtype, device=angle_N.device)
    cross = eye.roll(1, dims=0) - eye.roll(-1, dims=0)
    return cos * eye + sin * cross / math.sqrt(3) + (1 - cos) / 3
