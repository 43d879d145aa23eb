"""What is done to the colours and the sharpness of a crop: jitter, grey, blur, solarise.

Images are float [n, 3, H, W] in [0, 255] and every row has its own parameters. The formulas are
torchvision's for float images (blending, ITU-R 601-2 luma, hue through HSV, reflecting Gaussian
blur). Nothing is changed in place that a caller can see, so gradients reach the images.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ssgear.kernels.augment.resample import dense, separable

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
IDENTITY = (1.0, 1.0, 1.0, 0.0)
"""Factors of the four jitter operations that change nothing."""
LUMA = (0.2989, 0.587, 0.114)
TINY = 1e-6
"""Chroma below this (of 255) has no hue."""
HUGE = 1e30


def jitter(images: Tensor, factors: Tensor, order: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of each row by `factors` [n, 4].

    Row i goes through the operations order[i, 0] to order[i, 3]. All rows turn their hue at the
    same step; the other three are one formula and come in any order.
    """
    for operation, factor in zip(order.T, factors.gather(1, order).T, strict=True):
        step = turn_hue if operation[0] == HUE else partial(blend, operation=operation)
        images = step(images, factor.to(images)[:, None, None, None])
    return images


def blend(images: Tensor, factor: Tensor, operation: Tensor) -> Tensor:
    """Mix each row with black, its mean luma or its luma, as its `operation` [n] says.

    `factor` [n, 1, 1, 1] is the share of the image itself, and may exceed 1.
    """
    operation = operation.to(images.device).reshape(factor.shape)
    rest = 1 - factor
    reference = _luma(images)
    mean = reference.mean((2, 3), keepdim=True)
    reference = reference * (rest * (operation == SATURATION))
    reference += mean * (rest * (operation == CONTRAST))
    return (images * factor).add_(reference).clamp_(0, 255)


def turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the hue of each row by `turn` [n, 1, 1, 1] of the colour circle, through HSV.

    A channel of value v and chroma c whose hue lies d sextants from the pixel's is
    v - c clamp(d - 1, 0, 1).
    """
    red, green, blue = images.chunk(3, dim=1)
    low = torch.minimum(red, green).minimum(blue)
    red, green, blue = red - low, green - low, blue - low
    chroma = torch.maximum(red, green).maximum(blue)
    circle = chroma * 6
    # the sextant's branches as weights 0 and 1, which is many times faster than `where`
    hue = (red - blue).add_(chroma, alpha=5)
    hue = hue.lerp((blue - green).add_(chroma, alpha=3), _is_zero(red))
    hue = hue.lerp((green - red).add_(chroma), _is_zero(blue))
    hue = (hue / circle.clamp(min=TINY)).add_(turn - turn.floor()).frac_()
    # red is measured from the opposite side, where the circle is not cut
    near_red, far_green, far_blue = (
        (hue - centre / 6).abs_().clamp_(1 / 6, 2 / 6) for centre in (3, 2, 4)
    )
    top = low + 2 * chroma
    return torch.cat(
        (
            torch.addcmul(low - chroma, near_red, circle),
            torch.addcmul(top, far_green, circle, value=-1),
            torch.addcmul(top, far_blue, circle, value=-1),
        ),
        dim=1,
    )


def _is_zero(least: Tensor) -> Tensor:
    """Return 1 where a number >= 0 is zero, else 0, without a branch and without a gradient."""
    return torch.rsub(least.detach(), 1, alpha=HUGE).clamp_(min=0)


def grey(images: Tensor) -> Tensor:
    """Return the luma of every pixel in all three channels."""
    return _luma(images).expand_as(images)


def gaussian_blur(images: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur each row with its own sigma [n] > 0 over 2 radius + 1 pixels, reflecting at the edge."""
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    distance = offsets / sigma.to(images.device).double()[:, None]
    weights = torch.softmax(distance.square_().mul_(-0.5), dim=1).to(images.dtype).T

    def matrix(side: int) -> Tensor:
        pixel = (torch.arange(side, device=images.device) + offsets[:, None]).abs_()
        pixel = (side - 1) - (side - 1 - pixel).abs_()
        shape = (len(offsets), len(images), side)
        return dense(pixel[:, None].expand(shape), weights[..., None].expand(shape), side)

    return separable(images, matrix(images.shape[2]), matrix(images.shape[3]))


def solarise(images: Tensor, threshold: float) -> Tensor:
    """Invert what is at or above `threshold` in [0, 1]."""
    return torch.where(images >= 255 * threshold, 255 - images, images)


def _luma(images: Tensor) -> Tensor:
    red, green, blue = images.chunk(3, dim=1)
    luma = (red * LUMA[0]).add_(green, alpha=LUMA[1])
    return luma.add_(blue, alpha=LUMA[2])
