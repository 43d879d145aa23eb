"""The gradient penalty's passes in Triton; see pieces.py for the formulas.

A program works on one stretch of one sample. Sums of a sample's stretches are kept apart and added
in order by whoever needs them: no atomics, so the same bits every time. Sums and coefficients are
in float64, of which there is little beside the bytes that are moved.
*Untested on hardware*: compiled ahead of time, and run in Triton's interpreter only.
Shapes: N samples of `length` numbers each, dense; S stretches of a sample.
"""

# kernels are typed by what they are called with
# mypy: allow-untyped-decorators, allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssgear.kernels.checks import compute_dtype

BLOCK = 2048
"""Numbers that a program holds at once."""
MOST_STRETCHES = 64
"""S at most; 64 samples of 3 x 64 x 64 make 384 programs, three for each multiprocessor."""
ROWS = 64
"""Samples that the last program adds up at once."""
NUM_WARPS = 8


def interpolate(real: Tensor, fake: Tensor, eps_N: Tensor, key: int | None, mixed: Tensor) -> None:
    """Fill `mixed`; with a key, `eps_N` too."""
    length = _length(real)
    grid = (len(real), triton.cdiv(length, BLOCK))
    interpolate_kernel[grid](
        real, fake, eps_N, mixed, key or 0, length, key is not None, BLOCK, num_warps=NUM_WARPS
    )


def penalty(grad: Tensor, target: float) -> tuple[Tensor, Tensor]:
    """Return P, and n [N] in float64."""
    num_samples = len(grad)
    partial_NS = _sums(grad, grad)
    norm_N = torch.empty(num_samples, dtype=torch.float64, device=grad.device)
    value = torch.empty((), dtype=compute_dtype(grad), device=grad.device)
    stretches = partial_NS.shape[1]
    penalty_kernel[(1,)](
        partial_NS, norm_N, value, target, num_samples, stretches, ROWS, num_warps=NUM_WARPS
    )
    return value, norm_N


def penalty_backward(upstream: Tensor, grad: Tensor, norm_N: Tensor, target: float) -> Tensor:
    """Return upstream c_i g_i."""
    result, length = torch.empty_like(grad), _length(grad)
    grid = (len(grad), triton.cdiv(length, BLOCK))
    backward_kernel[grid](
        upstream, grad, norm_N, result, target, len(grad), length, BLOCK, num_warps=NUM_WARPS
    )
    return result


def penalty_double_backward(
    v: Tensor, upstream: Tensor, grad: Tensor, norm_N: Tensor, target: float
) -> tuple[Tensor, Tensor]:
    """Return sum_i c_i <v_i, g_i>, and upstream (c_i v_i + 2/N t / n_i^3 <v_i, g_i> g_i)."""
    result, length, num_samples = torch.empty_like(grad), _length(grad), len(grad)
    partial_NS = _sums(v, grad)
    grid = (num_samples, triton.cdiv(length, BLOCK))
    double_backward_kernel[grid](
        v, upstream, grad, norm_N, partial_NS, result, target, num_samples, length,
        partial_NS.shape[1], BLOCK, num_warps=NUM_WARPS,
    )  # fmt: skip
    dot_N = partial_NS.sum(1)
    c_N = torch.where(norm_N == 0, 1.0, 1 - target / norm_N) * (2 / num_samples)
    c_N = c_N.masked_fill(~norm_N.isfinite(), math.nan)
    return (c_N * dot_N).sum().to(upstream.dtype), result


def _sums(x: Tensor, y: Tensor) -> Tensor:
    """Return the parts [N, S] of <x_i, y_i>, S a power of two."""
    length = _length(x)
    stretches = min(triton.next_power_of_2(triton.cdiv(length, BLOCK)), MOST_STRETCHES)
    partial_NS = torch.empty(len(x), stretches, dtype=torch.float64, device=x.device)
    dot_kernel[(len(x), stretches)](x, y, partial_NS, length, x is y, BLOCK, num_warps=NUM_WARPS)
    return partial_NS


def _length(images: Tensor) -> int:
    return images.numel() // len(images)


@triton.jit
def wide(x):
    """Return numbers in the type that they are worked on in."""
    return x if x.dtype == tl.float64 else x.to(tl.float32)


@triton.jit
def coefficient(norm, target, num_samples):
    """Return c_i; 1 / n_i counts as 0 where n_i is 0, and what is not finite makes it NaN."""
    one = tl.where(norm == 0, 1.0, 1.0 - target / tl.where(norm == 0, 1.0, norm))
    one = tl.where(norm < float("inf"), one, float("nan"))
    return one * 2.0 / num_samples


# a random number is no property of a launch: without this, keys that 16 divides compile once more
@triton.jit(do_not_specialize=["key"])
def interpolate_kernel(
    real, fake, eps, mixed, key, length,
    DRAW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write eps real + (1 - eps) fake, eps drawn as by philox.uniform(key, [sample], 1)."""
    sample = tl.program_id(0)
    if DRAW:
        word, _, _, _ = tl.philox(key, sample.to(tl.uint32), 0, 0, 0)
        weight = (word >> 8).to(tl.float32) * 5.9604644775390625e-08
        if tl.program_id(1) == 0:
            tl.store(eps + sample, weight)
    else:
        weight = tl.load(eps + sample)
    offset = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < length
    start = sample.to(tl.int64) * length
    x = wide(tl.load(real + start + offset, mask=inside))
    y = wide(tl.load(fake + start + offset, mask=inside))
    blend = weight * x + (1.0 - weight) * y
    tl.store(mixed + start + offset, blend.to(mixed.dtype.element_ty), mask=inside)


@triton.jit
def dot_kernel(
    x, y, partial, length,
    SAME: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One stretch's part of <x_i, y_i>: every S-th block of the sample."""
    sample, stretch, stretches = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    start = sample.to(tl.int64) * length
    total = tl.zeros((BLOCK,), tl.float64)
    for block in range(stretch, tl.cdiv(length, BLOCK), stretches):
        offset = block * BLOCK + tl.arange(0, BLOCK)
        inside = offset < length
        one = tl.load(x + start + offset, mask=inside, other=0.0).to(tl.float64)
        if SAME:
            total += one * one
        else:
            total += one * tl.load(y + start + offset, mask=inside, other=0.0).to(tl.float64)
    tl.store(partial + sample * stretches + stretch, tl.sum(total))


@triton.jit
def penalty_kernel(
    partial, norm, value, target, num_samples,
    STRETCHES: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Norms and their penalty, by a single program."""
    total = tl.zeros((ROWS,), tl.float64)
    for first in range(0, num_samples, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = row < num_samples
        place = row[:, None] * STRETCHES + tl.arange(0, STRETCHES)[None, :]
        squared = tl.sum(tl.load(partial + place, mask=inside[:, None], other=0.0), 1)
        n = tl.sqrt(squared)
        tl.store(norm + row, n, mask=inside)
        total += tl.where(inside, (n - target) * (n - target), 0.0)
    tl.store(value, (tl.sum(total) / num_samples).to(value.dtype.element_ty))


@triton.jit
def backward_kernel(
    upstream, grad, norm, result, target, num_samples, length,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Upstream times c_i g_i."""
    sample = tl.program_id(0)
    factor = tl.load(upstream).to(tl.float64)
    c = factor * coefficient(tl.load(norm + sample), target, num_samples)
    offset = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < length
    start = sample.to(tl.int64) * length
    g = wide(tl.load(grad + start + offset, mask=inside))
    scaled = g * c.to(g.dtype)
    tl.store(result + start + offset, scaled.to(result.dtype.element_ty), mask=inside)


@triton.jit
def double_backward_kernel(
    v, upstream, grad, norm, partial, result, target, num_samples, length,
    STRETCHES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Upstream times (c_i v_i + 2/N t / n_i^3 <v_i, g_i> g_i)."""
    sample = tl.program_id(0)
    factor, n = tl.load(upstream).to(tl.float64), tl.load(norm + sample)
    dot = tl.sum(tl.load(partial + sample * STRETCHES + tl.arange(0, STRETCHES)))
    divisor = tl.where(n == 0, 1.0, n)
    along = (dot / divisor / divisor) * (target / divisor) * 2.0 / num_samples
    along = factor * tl.where(n == 0, 0.0, along)
    c = factor * coefficient(n, target, num_samples)
    offset = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offset < length
    start = sample.to(tl.int64) * length
    g = wide(tl.load(grad + start + offset, mask=inside))
    direction = wide(tl.load(v + start + offset, mask=inside))
    blend = c.to(g.dtype) * direction + along.to(g.dtype) * g
    tl.store(result + start + offset, blend.to(result.dtype.element_ty), mask=inside)
