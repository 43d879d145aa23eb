"""ADA's transformations of place (Karras et al. 2020, arXiv 2006.06676, appendix B).

`blit` moves whole pixels: mirror, quarter turns, shifts. `warp` scales, turns and shifts by any
amount: the images are made twice as large by an orthonormal wavelet's filter, sampled between
pixels, and made half as large by the same filter, so that little is smoothed or aliased. Both are
products with a matrix for each side. Outside, images are mirrored, the pixels at the border twice.
Shapes: N images of R x R pixels, draws uniform in [0, 1), T taps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssgear.models.gan.pixels import bilinear, gather, mirrored

BLIT_COUNT = 7
"""Draws for each image: three whether, then mirror, turn and two shifts."""
WARP_COUNT = 11
"""Draws for each image: five whether, then scale, turn, stretch, turn and two shifts."""
MOST_SHIFT = 0.125
"""Largest shift by whole pixels, and standard deviation of the other, as a share of the side."""
SCALE_STD = 0.2
"""Of the logarithm to base 2 of scale and stretch."""
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""Low-pass filter of Daubechies' least asymmetric wavelet with six vanishing moments."""
PAD = len(SYM6) // 2 - 1
"""Fine pixels beyond the border that a pixel of the result takes in."""
DELAY = PAD + 0.5 - sum(k * tap for k, tap in enumerate(SYM6)) / sum(SYM6)
"""Fine pixels by which the filter moves images, as it is not symmetric."""
LARGEST = 1 - 2.0**-23


def normal(uniform: Tensor) -> Tensor:
    """Return standard normal numbers; one half gives 0, and all are finite."""
    return math.sqrt(2) * torch.erfinv((2 * uniform - 1).clamp(-LARGEST, LARGEST))


def blit(images: Tensor, draws: Tensor, p: Tensor) -> Tensor:
    """Mirror, turn by quarters and shift by whole pixels, each with probability p; no resampling.

    Args:
        images: [N, 3, R, R].
        draws: [N, BLIT_COUNT].
        p: Probability of each transformation, 0-d.
    """
    side = images.shape[2]
    happens_N3 = draws[:, :3] < p
    mirror_N = happens_N3[:, 0] & (draws[:, 3] < 0.5)
    quarters_N = torch.where(happens_N3[:, 1], (draws[:, 4] * 4).long(), 0)
    shift_N2 = ((2 * draws[:, 5:7] - 1) * (MOST_SHIFT * side)).round().long()
    shift_N2 = torch.where(happens_N3[:, 2:], shift_N2, 0)
    place_R = torch.arange(side, device=images.device)
    # backwards from a pixel of the result to where it comes from
    rows = mirrored(place_R - shift_N2[:, :1], side)[:, :, None].expand(-1, -1, side)
    columns = mirrored(place_R - shift_N2[:, 1:], side)[:, None, :].expand(-1, side, -1)
    once, twice = (_per_image(quarters_N & bit) > 0 for bit in (1, 2))
    rows, columns = (
        torch.where(once, columns, rows),
        torch.where(once, side - 1 - rows, columns),
    )
    rows = torch.where(twice, side - 1 - rows, rows)
    columns = torch.where(twice ^ _per_image(mirror_N), side - 1 - columns, columns)
    return gather(images, rows, columns)


def warp(images: Tensor, draws: Tensor, p: Tensor) -> Tensor:
    """Scale, turn, stretch, turn and shift; rows where nothing happens keep every bit.

    Args:
        images: [N, 3, R, R].
        draws: [N, WARP_COUNT].
        p: Probability of each transformation, 0-d; the two turns share theirs.
    """
    # 1 - (1 - q)^2 = p: either turn happens with probability p
    turned = 1 - (1 - p).sqrt()
    limits_5 = torch.stack((p, turned, p, turned, p)).to(draws)
    happens_N5 = draws[:, :5] < limits_5
    linear_N22, shift_N2 = inverse_map(draws[:, 5:].to(images.dtype), happens_N5)
    moved = resample(images, linear_N22, shift_N2 * images.shape[2])
    return torch.where(_per_image(happens_N5.any(dim=1))[:, None], moved, images)


def inverse_map(draws_N6: Tensor, happens_N5: Tensor) -> tuple[Tensor, Tensor]:
    """Return the inverse linear parts [N, 2, 2] of the maps of (x, y), and their shifts [N, 2].

    An image's point v goes to turn2 stretch turn1 scale v + shift, in shares of the side.
    """
    scale, turn1, stretch, turn2 = draws_N6[:, :4].unbind(1)
    scale = torch.exp2(normal(scale) * SCALE_STD)
    stretch = torch.exp2(normal(stretch) * SCALE_STD)
    angle1, angle2 = ((2 * turn - 1) * math.pi for turn in (turn1, turn2))
    shift_N2 = normal(draws_N6[:, 4:]) * MOST_SHIFT
    did = happens_N5.unbind(1)
    scale, stretch = torch.where(did[0], scale, 1.0), torch.where(did[2], stretch, 1.0)
    angle1, angle2 = torch.where(did[1], angle1, 0.0), torch.where(did[3], angle2, 0.0)
    stretched = torch.diag_embed(torch.stack((1 / stretch, stretch), dim=1))
    linear_N22 = _rotation(-angle1) @ stretched @ _rotation(-angle2) / scale[:, None, None]
    return linear_N22, torch.where(happens_N5[:, 4:], shift_N2, 0.0)


def resample(images: Tensor, linear_N22: Tensor, shift_N2: Tensor) -> Tensor:
    """Return images whose pixel at v = (x, y), from the centre, is that at linear (v - shift)."""
    side = images.shape[2]
    up_PR = _upsampling(side, images)
    fine = up_PR @ (images @ up_PR.T)
    # fine pixels of the result, with those at the border that the filter takes in
    place_Q = torch.arange(-PAD, 2 * side + PAD, device=images.device) + (0.5 - side)
    x_N1Q, y_NQ1 = (place_Q - 2 * shift_N2[..., None]).unbind(1)
    x_N1Q, y_NQ1 = x_N1Q[:, None, :], y_NQ1[:, :, None]
    # the delay stands apart, so that whole places stay whole where nothing turns
    centre_N2 = (linear_N22.sum(dim=2) - 1) * DELAY + (side - 0.5)
    x_NQQ, y_NQQ = (
        (
            _per_image(linear_N22[:, axis, 0]) * x_N1Q
            + _per_image(linear_N22[:, axis, 1]) * y_NQ1
            + _per_image(centre_N2[:, axis])
        ).remainder(4 * side)
        for axis in (0, 1)
    )
    down_RQ = _downsampling(side, images)
    return down_RQ @ (bilinear(fine, y_NQQ, x_NQQ) @ down_RQ.T)


def _upsampling(side: int, like: Tensor) -> Tensor:
    """Return [4 side + 2, side]: a side to one period of its mirror images, twice as fine.

    Two more rows begin the next period: neighbours for what lies between pixels.
    """
    device = like.device
    pixel_M = torch.arange(-PAD // 2, 2 * side + PAD // 2 + 2, device=device)
    taps_PM = _taps(torch.arange(4 * side + 2, device=device)[:, None] + PAD - 2 * pixel_M, like)
    return taps_PM @ (mirrored(pixel_M, side)[:, None] == torch.arange(side, device=device)).to(
        like
    )


def _downsampling(side: int, like: Tensor) -> Tensor:
    """Return [side, 2 side + 2 PAD]: the same filter backwards, which undoes the upsampling."""
    fine_Q = torch.arange(2 * side + 2 * PAD, device=like.device)
    return _taps(fine_Q - 2 * torch.arange(side, device=like.device)[:, None], like)


def _taps(place: Tensor, like: Tensor) -> Tensor:
    """Return the filter's taps at these whole places, 0 beyond its ends."""
    # not waiting for the device: twelve numbers are copied on the way
    taps_T = torch.tensor(SYM6, dtype=like.dtype).to(like.device, non_blocking=True)
    inside = (place >= 0) & (place < len(SYM6))
    return torch.where(inside, taps_T[place.clamp(0, len(SYM6) - 1)], 0.0)


def _rotation(angle_N: Tensor) -> Tensor:
    cos, sin = angle_N.cos(), angle_N.sin()
    return torch.stack((cos, -sin, sin, cos), dim=1).reshape(-1, 2, 2)


def _per_image(values_N: Tensor) -> Tensor:
    return values_N[:, None, None]
