"""Crop and resize as two matrix products, a weight matrix for every row and column of the output.

The kernels are Pillow's and torchvision's antialiased ones: a triangle (bilinear) or Keys' cubic
with a = -1/2 (bicubic), as wide as the output pixel when shrinking, cut at the crop's edge and
normalised. All crops of a batch are done at once, each with its own box; an image's result does not
depend on its neighbours. The same products carry the Gaussian blur of `colour.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ssgear.errors import ArgumentError

Interpolation = Literal["bilinear", "bicubic"]
RADIUS = {"bilinear": 1.0, "bicubic": 2.0}
FIXED_POINT = 2.0**15
"""Weights of uint8 images are multiples of 1 / FIXED_POINT, so that every partial sum is exact in
float32: the result has the same bits at every batch size and on every device."""


def crop_resize(
    images: Tensor,
    boxes: Tensor,
    size: int,
    *,
    interpolation: Interpolation = "bicubic",
    antialias: bool = True,
) -> Tensor:
    """Cut `boxes` [N, 4] (top, left, height, width) from images [N, 3, H, W] and resize them.

    Returns [N, 3, size, size] in [0, 255]: whole numbers in float32 for uint8 images; for float
    images (also in [0, 255]) the unrounded values, with a gradient to the images. Without
    `antialias` the kernel stays one input pixel wide when shrinking.
    """
    check(images, boxes, interpolation)
    exact = not images.is_floating_point()
    if exact and len(images) == 1:  # of a large photograph only the box is touched
        top, left, height, width = (int(side) for side in boxes[0].tolist())
        images = images[:, :, top : top + height, left : left + width]
        boxes = boxes - boxes.new_tensor([top, left, 0, 0])
    height, width = images.shape[2:]
    full = max(height, width)
    pixel, weights = resize_taps(boxes.T[:2], boxes.T[2:], full, size, interpolation, antialias)
    if exact:
        weights = weights.mul_(FIXED_POINT).round_().div_(FIXED_POINT)
    pixels = images.float() if exact else images
    matrices = dense(pixel, weights, full).to(pixels.dtype)
    rows_NSH, columns_NSW = matrices[0, :, :, :height], matrices[1, :, :, :width]
    if exact:
        return _round_(separable(pixels, rows_NSH, columns_NSW, between=_round_))
    return separable(pixels, rows_NSH, columns_NSW).clamp(0, 255)


def resize_taps(
    start: Tensor,
    length: Tensor,
    full: int,
    size: int,
    interpolation: Interpolation,
    antialias: bool,
) -> tuple[Tensor, Tensor]:
    """Return the pixels [taps, ..., size] of a side that make an output pixel, and their weights.

    The output covers [start, start + length) of a side of `full` pixels; both are of one shape.
    The same box gives the same weights to the bit, whatever `full` is.
    """
    start, length = start.double()[..., None], length.double()[..., None]
    scale = length / size
    widen = scale.clamp(min=1) if antialias else torch.ones_like(scale)
    radius = RADIUS[interpolation]
    reach = radius * max(full / size, 1) if antialias else radius
    centre = (torch.arange(size, device=start.device) + 0.5) * scale
    first = (centre - radius * widen + 0.5).floor_().clamp_(min=0)
    # places are found in float64; the taps (the new first dimension) are many: float32
    shape = (2 * math.ceil(reach) + 1, *[1] * first.ndim)
    taps = torch.arange(shape[0], device=start.device).reshape(shape)
    steps = taps.float()
    distance = steps * (1 / widen).float() + ((first + 0.5 - centre) / widen).float()
    weights = kernel(distance.abs_(), interpolation)
    weights *= ((length - first).float() - steps).clamp_(0, 1)  # 0 past the crop's edge, else 1
    weights /= sum(weights.unbind())  # tap by tap: zeros at the end change no bit
    pixel = torch.minimum((first + start).long() + taps, (start + length).long() - 1)
    return pixel, weights


def dense(pixel: Tensor, weights: Tensor, full: int) -> Tensor:
    """Return [..., S, full] with weights[k, ..., s] added at column pixel[k, ..., s]."""
    lines = weights.shape[1:]
    start = torch.arange(lines.numel(), device=pixel.device).reshape(lines) * full
    matrix = torch.zeros(lines.numel() * full, dtype=weights.dtype, device=weights.device)
    matrix.scatter_add_(0, (pixel + start).reshape(-1), weights.reshape(-1))
    return matrix.reshape(*lines, full)


def separable(
    images: Tensor,
    rows: Tensor,
    columns: Tensor,
    between: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return rows[n] @ between(images[n, c] @ columns[n]^T): [N, C, H, W] to [N, C, S, T]."""
    count, channels, height, width = images.shape
    with torch.autocast(images.device.type, enabled=False):  # bfloat16 would lose half the bits
        lines = images.reshape(count, channels * height, width).bmm(columns.transpose(1, 2))
        if between is not None:
            lines = between(lines)
        rows = rows.repeat_interleave(channels, dim=0)
        pixels = rows.bmm(lines.reshape(count * channels, height, columns.shape[1]))
    return pixels.reshape(count, channels, *pixels.shape[1:])


def _round_(pixels: Tensor) -> Tensor:
    """Round in place to whole numbers in [0, 255], halves up, after each pass."""
    return pixels.add_(0.5).floor_().clamp_(0, 255)


def kernel(distance: Tensor, interpolation: Interpolation) -> Tensor:
    """Return the kernel at distances >= 0, without branches.

    Keys' cubic with a = -1/2 is t^2 (t - 1) / 2 + s^2 (1 - 2 s) with the truncated powers of
    t = max(2 - distance, 0) and s = max(1 - distance, 0).
    """
    near = (1 - distance).clamp_(min=0)
    if interpolation == "bilinear":
        return near
    far = (2 - distance).clamp_(min=0)
    return (far - 1).mul_(far.square_()).mul_(0.5).add_((1 - 2 * near).mul_(near.square_()))


def check(images: Tensor, boxes: Tensor, interpolation: str) -> None:
    """Refuse images and boxes that do not fit together."""
    if interpolation not in RADIUS:
        raise ArgumentError(f"interpolation: {interpolation!r} is unknown; use bilinear or bicubic")
    if boxes.shape != (len(images), 4) or boxes.dtype == torch.bool or boxes.is_complex():
        raise ArgumentError(
            f"crop_resize: images {tuple(images.shape)} with boxes {tuple(boxes.shape)} "
            f"{boxes.dtype}; give images [N, 3, H, W] and boxes [N, 4] of numbers"
        )


def check_inside(images: Tensor, boxes: Tensor) -> None:
    """Refuse boxes that do not lie inside their images; nothing is read from a GPU."""
    if boxes.device.type != "cpu" or torch.compiler.is_compiling():
        return
    corner, side = boxes.double().chunk(2, dim=1)
    inside = (corner >= 0) & (side > 0) & (corner + side <= corner.new_tensor(images.shape[2:]))
    if not images.is_floating_point():
        inside &= (corner == corner.round()) & (side == side.round())
    if not bool(inside.all()):
        row = int((~inside).any(1).int().argmax())
        height, width = images.shape[2:]
        raise ArgumentError(
            f"crop_resize: box {row} is {boxes[row].tolist()} of an image of {height} x {width}; "
            "give top, left, height and width inside it, of uint8 images in whole pixels"
        )
