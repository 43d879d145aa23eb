"""Pieces of the Triton augmentation: the weights of its products, and what is done to colours.

The formulas are those of the reference (reference.py). Weights are dense pieces [P, B] of
matrices that are zero but for a band: P pixels of a side before, B pixels of it after.
*Untested on hardware*: compiled ahead of time, and run in Triton's interpreter only.
"""

# kernels are typed by what they are called with
# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import triton
import triton.language as tl

FIXED_POINT = tl.constexpr(32768.0)
"""Weights are multiples of 1 / FIXED_POINT, so that every partial sum is exact in float32."""
TO_WHOLE = tl.constexpr(12582912.0)
"""1.5 * 2^23: added and taken away again, it rounds to whole numbers, halves to even."""
TINY = tl.constexpr(1e-6)
"""Chroma below this (of 255) has no hue."""
CONTRAST = tl.constexpr(1)
SATURATION = tl.constexpr(2)
HUE = tl.constexpr(3)


@triton.jit
def keys(distance, BICUBIC: tl.constexpr):
    """Return the resampling kernel at distances >= 0: Keys' cubic with a = -1/2, or a triangle."""
    near = tl.maximum(1.0 - distance, 0.0)
    if BICUBIC:
        far = tl.maximum(2.0 - distance, 0.0)
        return (far - 1.0) * (far * far) * 0.5 + (1.0 - 2.0 * near) * (near * near)
    else:
        return near


@triton.jit
def widened(length, SIZE: tl.constexpr, ANTIALIAS: tl.constexpr):
    """Return SIZE times the width of the kernel in pixels; a whole number, as all places are."""
    return tl.maximum(length, SIZE) if ANTIALIAS else length * 0 + SIZE


@triton.jit
def reach_of(wide, SIZE: tl.constexpr, BICUBIC: tl.constexpr):
    """Return the pixels on either side that an output pixel may be made from."""
    return (wide * 2 + SIZE - 1) // SIZE if BICUBIC else (wide + SIZE - 1) // SIZE


@triton.jit
def first_pixel(s, length, wide, SIZE: tl.constexpr, BICUBIC: tl.constexpr):
    """Return the first pixel of the box that output pixel s is made from.

    The centre of s lies at (2 s + 1) length / (2 SIZE).
    """
    reach = wide * 4 if BICUBIC else wide * 2
    return tl.maximum((2 * s + 1) * length - reach + SIZE, 0) // (2 * SIZE)


@triton.jit
def end_pixel(s, length, wide, SIZE: tl.constexpr, BICUBIC: tl.constexpr):
    """Return where the pixels end that output pixel s is made from."""
    first = first_pixel(s, length, wide, SIZE, BICUBIC)
    return tl.minimum(first + 2 * reach_of(wide, SIZE, BICUBIC) + 1, length)


@triton.jit
def resize_weights(s_B, p_P, length, wide, SIZE: tl.constexpr, BICUBIC: tl.constexpr):
    """Return [P, B]: the share of the box's pixel p in output pixel s."""
    first_B = first_pixel(s_B, length, wide, SIZE, BICUBIC)
    from_centre_B = (2 * first_B + 1) * SIZE - (2 * s_B + 1) * length
    offset_B = tl.div_rn(from_centre_B.to(tl.float32), (2 * wide).to(tl.float32))
    narrow = tl.div_rn(tl.full((), SIZE, tl.float32), wide.to(tl.float32))
    total_B = offset_B * 0.0
    for tap in range(0, 2 * reach_of(wide, SIZE, BICUBIC) + 1):
        weight_B = keys(tl.abs(tap * narrow + offset_B), BICUBIC)
        total_B += tl.where(first_B + tap < length, weight_B, 0.0)
    step = p_P[:, None] - first_B[None, :]
    weight = keys(tl.abs(step.to(tl.float32) * narrow + offset_B[None, :]), BICUBIC)
    weight = tl.div_rn(weight, total_B[None, :])
    weight = (weight * FIXED_POINT + TO_WHOLE) - TO_WHOLE
    there = (step >= 0) & (p_P[:, None] < length)
    return tl.where(there, weight * (1.0 / FIXED_POINT), 0.0)


@triton.jit
def halves(x):
    """Return float32 numbers as sums of two in float16: 22 bits, so 16 bits are kept exactly."""
    high = x.to(tl.float16)
    return high, (x - high.to(tl.float32)).to(tl.float16)


@triton.jit
def exact_product(x, weights, total):
    """Return total + x @ weights for whole numbers x up to 255 and weights of 16 bits."""
    high, low = halves(weights)
    x = x.to(tl.float16)
    return tl.dot(x, high, tl.dot(x, low, total))


@triton.jit
def exact_product_left(weights, x, total):
    """Return total + weights @ x for the same."""
    high, low = halves(weights)
    x = x.to(tl.float16)
    return tl.dot(high, x, tl.dot(low, x, total))


@triton.jit
def product(x, y):
    """Return x @ y to some 20 bits."""
    x_high, x_low = halves(x)
    y_high, y_low = halves(y)
    return tl.dot(x_high, y_high, tl.dot(x_high, y_low, tl.dot(x_low, y_high)))


@triton.jit
def whole(x):
    """Round to whole numbers in [0, 255], halves up."""
    return tl.minimum(tl.maximum(tl.floor(x + 0.5), 0.0), 255.0)


@triton.jit
def blur_weights(s_B, p_P, sigma, radius, SIZE: tl.constexpr):
    """Return [P, B]: the share of pixel p in the blurred pixel s, reflecting at both edges."""
    sigma = tl.maximum(sigma, 1e-3)  # from there down it changes nothing; its square has to exist
    slope = -0.5 / (sigma * sigma)
    total = slope * 0.0
    for tap in range(-radius, radius + 1):
        total += tl.exp(slope * tap * tap)
    p, s = p_P[:, None], s_B[None, :]
    weight = _bell(p - s, slope, radius)
    weight += tl.where(p > 0, _bell(p + s, slope, radius), 0.0)
    weight += tl.where(p < SIZE - 1, _bell(2 * (SIZE - 1) - p - s, slope, radius), 0.0)
    return tl.where((p >= 0) & (p < SIZE), weight / total, 0.0)


@triton.jit
def _bell(distance, slope, radius):
    squared = (distance * distance).to(tl.float32)
    return tl.where(tl.abs(distance) <= radius, tl.exp(slope * squared), 0.0)


@triton.jit
def pick(channel, r, g, b):
    """Return one of the three."""
    return tl.where(channel == 0, r, tl.where(channel == 1, g, b))


@triton.jit
def put(channel, x, r, g, b):
    """Return the three with x in the place of one."""
    return (
        tl.where(channel == 0, x, r),
        tl.where(channel == 1, x, g),
        tl.where(channel == 2, x, b),
    )


@triton.jit
def luma(r, g, b):
    """Return ITU-R 601-2 luma."""
    return r * 0.2989 + g * 0.587 + b * 0.114


@triton.jit
def is_jittered(view):
    """Whether any factor of the colour jitter of a row of parameters changes something."""
    same = (tl.load(view + 5) == 1.0) & (tl.load(view + 6) == 1.0)
    return not (same & (tl.load(view + 7) == 1.0) & (tl.load(view + 8) == 0.0))


@triton.jit
def operate(r, g, b, operation, factor, mean):
    """Do one of the jitter's four operations; `mean` is the view's mean luma before it."""
    if operation == HUE:
        r, g, b = turn_hue(r, g, b, factor)
    else:
        other = tl.where(operation == SATURATION, luma(r, g, b), 0.0)
        other = tl.where(operation == CONTRAST, mean, other) * (1.0 - factor)
        r = tl.minimum(tl.maximum(r * factor + other, 0.0), 255.0)
        g = tl.minimum(tl.maximum(g * factor + other, 0.0), 255.0)
        b = tl.minimum(tl.maximum(b * factor + other, 0.0), 255.0)
    return r, g, b


@triton.jit
def turn_hue(r, g, b, turn):
    """Turn the hue by `turn` of the colour circle, through HSV."""
    low = tl.minimum(tl.minimum(r, g), b)
    r, g, b = r - low, g - low, b - low
    chroma = tl.maximum(tl.maximum(r, g), b)
    circle = chroma * 6.0
    hue = (r - b) + 5.0 * chroma
    hue = tl.where(r == 0, (b - g) + 3.0 * chroma, hue)
    hue = tl.where(b == 0, (g - r) + chroma, hue)
    hue = hue / tl.maximum(circle, TINY) + (turn + 1.0)
    hue = hue - tl.floor(hue)
    top = low + 2.0 * chroma
    return (
        (low - chroma) + _near(hue, 3.0) * circle,
        top - _near(hue, 2.0) * circle,
        top - _near(hue, 4.0) * circle,
    )


@triton.jit
def _near(hue, sextants):
    """Return the distance on the circle from a hue, between one and two sextants."""
    return tl.minimum(tl.maximum(tl.abs(hue - sextants / 6.0), 1.0 / 6.0), 2.0 / 6.0)


@triton.jit
def last_touch(x, view, threshold, mean, scale):
    """Solarise where the parameters say so, and normalise."""
    if tl.load(view + 15) != 0:
        x = tl.where(x >= threshold, 255.0 - x, x)
    return (x - mean) * scale
