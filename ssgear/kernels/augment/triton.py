"""The fused augmentation in Triton: uint8 images in, normalised views out.

Resampling and blur are products with banded matrices, whose weights are made where they are used:
they run on the matrix units in float16, of which two parts make a number. The resampling is exact
(weights of 16 bits, pixels of 8). A small view is made by one program from the image to the last
store; one of more than 64 pixels a side (32 on compute capability 8 and 12) in tiles, through its
crop in bytes: `crop_kernel`, sums for the mean luma that contrast needs, `view_kernel`. No atomics:
the same bits every time.
*Untested on hardware*: compiled ahead of time, and run in Triton's interpreter only.

Shapes: n views of SIZE x SIZE, parameters packed as in params.py; P, Q pixels of a piece of
the image, B pixels of a tile of the view.
"""

# kernels are typed by what they are called with
# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssgear.kernels.augment.params import AugmentSettings
from ssgear.kernels.augment.triton_parts import (
    CONTRAST,
    blur_weights,
    end_pixel,
    exact_product,
    exact_product_left,
    first_pixel,
    is_jittered,
    last_touch,
    luma,
    operate,
    pick,
    product,
    put,
    resize_weights,
    whole,
    widened,
)

SMALL = {8: 32, 12: 32}
"""Side of a view that one program holds, by the major compute capability; 64 for all others."""
TILE = 32
"""Side of a tile of larger views."""
PIECE = 32
"""Rows and columns of the image that are taken up at a time."""
CHANNELS = 3
"""Given to the kernels as a number that they do not know ahead: unrolled, the loops over channels
would hold three at a time, in more registers than there are."""


def make_views(
    images: Tensor, params: Tensor, settings: AugmentSettings, resize: bool, views: Tensor
) -> None:
    """Fill `views` [n, 3, SIZE, SIZE], in any order of memory; all tensors on one device."""
    count, size = len(views), views.shape[2]
    last = _last_arguments(settings, raw=views.dtype == torch.uint8)
    if not count:
        return
    kind: dict[str, Any] = {
        "BICUBIC": settings.interpolation == "bicubic",
        "ANTIALIAS": settings.antialias,
        "enable_fp_fusion": False,  # a weight is rounded as the reference's is
    }
    if size <= small(images.device):
        block = max(16, triton.next_power_of_2(size))
        whole_kernel[(count,)](
            images, params, views, CHANNELS, *images.stride(), *views.stride(),
            settings.blur_radius, *last,
            RESIZE=resize, **kind, SIZE=size, BLOCK=block, PIECE=min(PIECE, block),
            num_warps=4 if block <= 32 else 8,
        )  # fmt: skip
        return
    tiles = triton.cdiv(size, TILE)
    if resize:
        crops = torch.empty(count, 3, size, size, dtype=torch.uint8, device=images.device)
        crop_kernel[(count, tiles, tiles)](
            images, params, crops, CHANNELS, *images.stride(), **kind,
            SIZE=size, BLOCK=TILE, PIECE=PIECE, num_warps=4,
        )  # fmt: skip
        images = crops
    sums_nT = torch.empty(count, tiles * tiles, dtype=torch.float32, device=images.device)
    luma_kernel[(count, tiles, tiles)](
        images, params, sums_nT, *images.stride(), SIZE=size, BLOCK=TILE, num_warps=4
    )
    view_kernel[(count, tiles, tiles)](
        images, params, sums_nT, views, CHANNELS, *images.stride(), *views.stride(),
        settings.blur_radius, *last,
        SIZE=size, BLOCK=TILE, TILES=triton.next_power_of_2(tiles * tiles), num_warps=4,
    )  # fmt: skip


def small(device: torch.device) -> int:
    """Return the side up to which one program makes a view on a device."""
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 0
    return SMALL.get(major, 64)


def _last_arguments(settings: AugmentSettings, raw: bool) -> tuple[float, ...]:
    """Return threshold, means and factors of the last pass; raw bytes are not normalised."""
    threshold = 255 * settings.solarise_threshold
    if raw:
        return (threshold, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0)
    means, stds = (255 * each for each in settings.mean), (255 * each for each in settings.std)
    return (threshold, *means, *(1 / each for each in stds))


@triton.jit
def image_of(images, stride):
    """Return where this program's image starts; places are 64 bits wide."""
    return images + tl.program_id(0).to(tl.int64) * stride


@triton.jit
def load_piece(image, row_P, column_Q, inside, row, column):
    """Return pixels [P, Q] of one channel as float32, 0 outside."""
    place = row_P[:, None].to(tl.int64) * row + column_Q[None, :].to(tl.int64) * column
    return tl.load(image + place, mask=inside, other=0).to(tl.float32)


@triton.jit
def load_pieces(image, row_P, column_Q, inside, channel, row, column):
    """Return pixels [P, Q] of the three channels."""
    r = load_piece(image, row_P, column_Q, inside, row, column)
    g = load_piece(image + channel, row_P, column_Q, inside, row, column)
    b = load_piece(image + 2 * channel, row_P, column_Q, inside, row, column)
    return r, g, b


@triton.jit
def resized(
    image, view, channels, i_B, j_B, low_i, high_i, low_j, high_j, in_channel, in_row, in_column,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, PIECE: tl.constexpr,
    BICUBIC: tl.constexpr, ANTIALIAS: tl.constexpr,
):  # fmt: skip
    """Return rows i_B and columns j_B [B, B] of the three channels of the resized box.

    They lie in low_i to high_i and low_j to high_j.
    """
    top, left = tl.load(view).to(tl.int32), tl.load(view + 1).to(tl.int32)
    height, width = tl.load(view + 2).to(tl.int32), tl.load(view + 3).to(tl.int32)
    tall, broad = widened(height, SIZE, ANTIALIAS), widened(width, SIZE, ANTIALIAS)
    first_i = first_pixel(low_i, height, tall, SIZE, BICUBIC)
    first_j = first_pixel(low_j, width, broad, SIZE, BICUBIC)
    last_i = end_pixel(high_i, height, tall, SIZE, BICUBIC)
    last_j = end_pixel(high_j, width, broad, SIZE, BICUBIC)
    piece = tl.arange(0, PIECE)
    r = tl.zeros((BLOCK, BLOCK), tl.float32)
    g, b = r, r
    for channel in range(channels):
        plane = image + channel * in_channel
        x = tl.zeros((BLOCK, BLOCK), tl.float32)
        for start_i in range(first_i, last_i, PIECE):
            p = start_i + piece
            lines = tl.zeros((PIECE, BLOCK), tl.float32)
            for start_j in range(first_j, last_j, PIECE):
                q = start_j + piece
                inside = (p[:, None] < last_i) & (q[None, :] < last_j)
                pixels = load_piece(plane, top + p, left + q, inside, in_row, in_column)
                across = resize_weights(j_B, q, width, broad, SIZE, BICUBIC)
                lines = exact_product(pixels, across, lines)
            down = resize_weights(i_B, p, height, tall, SIZE, BICUBIC)
            x = exact_product_left(tl.trans(down), whole(lines), x)
        r, g, b = put(channel, whole(x), r, g, b)
    return r, g, b


@triton.jit
def store_view(
    r, g, b, views, view, i_B, j_B, inside, out_view, out_channel, out_row, out_column,
    threshold, mean_r, mean_g, mean_b, scale_r, scale_g, scale_b,
):  # fmt: skip
    """Solarise, normalise, convert and store a tile."""
    place = i_B[:, None].to(tl.int64) * out_row + j_B[None, :].to(tl.int64) * out_column
    to = views + tl.program_id(0).to(tl.int64) * out_view + place
    store(last_touch(r, view, threshold, mean_r, scale_r), to, inside)
    store(last_touch(g, view, threshold, mean_g, scale_g), to + out_channel, inside)
    store(last_touch(b, view, threshold, mean_b, scale_b), to + 2 * out_channel, inside)


@triton.jit
def store(x, to, inside):
    """Store numbers in the type of the views; bytes are rounded."""
    if to.dtype.element_ty == tl.uint8:
        x = whole(x)
    tl.store(to, x.to(to.dtype.element_ty), mask=inside)


@triton.jit
def add_blurred(r, g, b, x, y, z, channels, down, across):
    """Return r, g, b with the channels x, y, z added, down^T x across."""
    for channel in range(channels):
        lines = product(pick(channel, x, y, z), across)
        more = pick(channel, r, g, b) + product(tl.trans(down), lines)
        r, g, b = put(channel, more, r, g, b)
    return r, g, b


@triton.jit
def whole_kernel(
    images, params_nC, views, channels,
    in_image, in_channel, in_row, in_column, out_view, out_channel, out_row, out_column,
    radius, threshold, mean_r, mean_g, mean_b, scale_r, scale_g, scale_b,
    RESIZE: tl.constexpr, BICUBIC: tl.constexpr, ANTIALIAS: tl.constexpr,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    """Make one view from its image to the end."""
    view = params_nC + tl.program_id(0).to(tl.int64) * 16
    image = image_of(images, in_image)
    at = tl.arange(0, BLOCK)
    i_B = tl.minimum(at, SIZE - 1)
    j_B = tl.where(tl.load(view + 4) != 0, SIZE - 1 - i_B, i_B)
    inside = (at[:, None] < SIZE) & (at[None, :] < SIZE)
    if RESIZE:
        r, g, b = resized(
            image, view, channels, i_B, j_B, 0, SIZE - 1, 0, SIZE - 1,
            in_channel, in_row, in_column, SIZE, BLOCK, PIECE, BICUBIC, ANTIALIAS,
        )  # fmt: skip
    else:
        r, g, b = load_pieces(image, i_B, j_B, inside, in_channel, in_row, in_column)
    if is_jittered(view):
        for step in range(4):
            operation = tl.load(view + 9 + step).to(tl.int32)
            mean = 0.0
            if operation == CONTRAST:
                mean = tl.sum(tl.where(inside, luma(r, g, b), 0.0)) / (SIZE * SIZE)
            r, g, b = operate(r, g, b, operation, tl.load(view + 5 + operation), mean)
    r, g, b = grey_too(r, g, b, view)
    sigma = tl.load(view + 14)
    if sigma > 0:
        weights = tl.where(inside, blur_weights(i_B, at, sigma, radius, SIZE), 0.0)
        none = tl.zeros((BLOCK, BLOCK), tl.float32)
        r, g, b = add_blurred(none, none, none, r, g, b, channels, weights, weights)
    store_view(
        r, g, b, views, view, at, at, inside, out_view, out_channel, out_row, out_column,
        threshold, mean_r, mean_g, mean_b, scale_r, scale_g, scale_b,
    )  # fmt: skip


@triton.jit
def crop_kernel(
    images, params_nC, crops_nHWB, channels, in_image, in_channel, in_row, in_column,
    BICUBIC: tl.constexpr, ANTIALIAS: tl.constexpr,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, PIECE: tl.constexpr,
):  # fmt: skip
    """Cut and resize one tile of a view, to bytes [n, 3, SIZE, SIZE]; not mirrored yet."""
    view = params_nC + tl.program_id(0).to(tl.int64) * 16
    at = tl.arange(0, BLOCK)
    i, j = tl.program_id(1) * BLOCK, tl.program_id(2) * BLOCK
    i_B, j_B = tl.minimum(i + at, SIZE - 1), tl.minimum(j + at, SIZE - 1)
    r, g, b = resized(
        image_of(images, in_image), view, channels, i_B, j_B,
        i, tl.minimum(i + BLOCK, SIZE) - 1, j, tl.minimum(j + BLOCK, SIZE) - 1,
        in_channel, in_row, in_column, SIZE, BLOCK, PIECE, BICUBIC, ANTIALIAS,
    )  # fmt: skip
    inside = (i + at[:, None] < SIZE) & (j + at[None, :] < SIZE)
    to = crops_nHWB + tl.program_id(0).to(tl.int64) * (3 * SIZE * SIZE)
    to += (i + at[:, None]) * SIZE + j + at[None, :]
    store(r, to, inside)
    store(g, to + SIZE * SIZE, inside)
    store(b, to + 2 * SIZE * SIZE, inside)


@triton.jit
def coloured(
    crop, view, sums_T, i_P, j_Q, inside, in_channel, in_row, in_column, steps,
    SIZE: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Return rows i_P and columns j_Q of a crop, mirrored, after `steps` steps of the jitter."""
    j_Q = tl.where(tl.load(view + 4) != 0, SIZE - 1 - j_Q, j_Q)
    r, g, b = load_pieces(crop, i_P, j_Q, inside, in_channel, in_row, in_column)
    for step in range(steps):
        operation = tl.load(view + 9 + step).to(tl.int32)
        mean = 0.0
        if TILES > 0 and operation == CONTRAST:
            tile_T = tl.arange(0, TILES)
            there = tile_T < tl.num_programs(1) * tl.num_programs(2)
            mean = tl.sum(tl.load(sums_T + tile_T, mask=there, other=0.0)) / (SIZE * SIZE)
        r, g, b = operate(r, g, b, operation, tl.load(view + 5 + operation), mean)
    return r, g, b


@triton.jit
def luma_kernel(
    crops, params_nC, sums_nT, in_image, in_channel, in_row, in_column,
    SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sum the luma of one tile as it is before contrast; nothing where no colour changes."""
    view = params_nC + tl.program_id(0).to(tl.int64) * 16
    if is_jittered(view):
        before = 0
        for step in range(4):
            before = tl.where(tl.load(view + 9 + step) == CONTRAST, step, before)
        at = tl.arange(0, BLOCK)
        i, j = tl.program_id(1) * BLOCK + at, tl.program_id(2) * BLOCK + at
        inside = (i[:, None] < SIZE) & (j[None, :] < SIZE)
        r, g, b = coloured(
            image_of(crops, in_image), view, sums_nT, i, j, inside,
            in_channel, in_row, in_column, before, SIZE, 0,
        )  # fmt: skip
        tile = tl.program_id(1) * tl.num_programs(2) + tl.program_id(2)
        tiles = tl.num_programs(1) * tl.num_programs(2)
        total = tl.sum(tl.where(inside, luma(r, g, b), 0.0))
        tl.store(sums_nT + tl.program_id(0).to(tl.int64) * tiles + tile, total)


@triton.jit
def grey_too(r, g, b, view):
    """Drop the colours where the parameters say so."""
    if tl.load(view + 13) != 0:
        y = luma(r, g, b)
        r, g, b = y, y, y
    return r, g, b


@triton.jit
def view_kernel(
    crops, params_nC, sums_nT, views, channels, in_image, in_channel, in_row, in_column,
    out_view, out_channel, out_row, out_column,
    radius, threshold, mean_r, mean_g, mean_b, scale_r, scale_g, scale_b,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Make one tile of a view from crops in bytes or floats."""
    view = params_nC + tl.program_id(0).to(tl.int64) * 16
    crop = image_of(crops, in_image)
    sums_T = sums_nT + tl.program_id(0).to(tl.int64) * (tl.num_programs(1) * tl.num_programs(2))
    at = tl.arange(0, BLOCK)
    i, j = tl.program_id(1) * BLOCK, tl.program_id(2) * BLOCK
    inside = (i + at[:, None] < SIZE) & (j + at[None, :] < SIZE)
    steps = tl.where(is_jittered(view), 4, 0)
    sigma = tl.load(view + 14)
    if sigma > 0:
        r = tl.zeros((BLOCK, BLOCK), tl.float32)
        g, b = r, r
        for start_i in range(
            tl.maximum(i - radius, 0), tl.minimum(i + BLOCK + radius, SIZE), BLOCK
        ):
            p = start_i + at
            down = blur_weights(i + at, p, sigma, radius, SIZE)
            for start_j in range(
                tl.maximum(j - radius, 0), tl.minimum(j + BLOCK + radius, SIZE), BLOCK
            ):
                q = start_j + at
                there = (p[:, None] < SIZE) & (q[None, :] < SIZE)
                x, y, z = coloured(
                    crop, view, sums_T, p, q, there, in_channel, in_row, in_column, steps,
                    SIZE, TILES,
                )  # fmt: skip
                x, y, z = grey_too(x, y, z, view)
                across = blur_weights(j + at, q, sigma, radius, SIZE)
                r, g, b = add_blurred(r, g, b, x, y, z, channels, down, across)
    else:
        r, g, b = coloured(
            crop, view, sums_T, i + at, j + at, inside, in_channel, in_row, in_column, steps,
            SIZE, TILES,
        )  # fmt: skip
        r, g, b = grey_too(r, g, b, view)
    store_view(
        r, g, b, views, view, i + at, j + at, inside, out_view, out_channel, out_row, out_column,
        threshold, mean_r, mean_g, mean_b, scale_r, scale_g, scale_b,
    )  # fmt: skip
