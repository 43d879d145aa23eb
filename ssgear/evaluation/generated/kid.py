"""The kernel distance between two sets of features; with those of Inception-v3 it is called KID.

    distance = kernel_distance(generated, real)       # .value and .deviation over subsets
    value = kernel_distance_whole(generated, real)    # all pairs of all images at once

It is the unbiased squared maximum mean discrepancy with the kernel (x . y / F + 1)^3 (Binkowski et
al. 2018, arXiv 1801.01401): unlike the Frechet distance it does not fall with the number of images,
and it may come out below 0. The published figure is the mean over 100 subsets of 1000 images of
each set. Computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.features.rows import Rows, blocks

SUBSET = 1000
"""Images of a subset, as everybody takes them."""
SIDE = 2048
"""Rows and columns of the kernels that are held at a time."""


@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """A kernel distance over random subsets."""

    value: float
    """Mean over the subsets."""
    deviation: float
    """Standard deviation over the subsets (not of the mean)."""
    subset_size: int
    """Images of each set in a subset."""
    subsets: int
    """Number of subsets."""


def kernel_distance(
    a: Rows,
    b: Rows,
    *,
    subset_size: int = SUBSET,
    subsets: int = 100,
    seed: int = 0,
    device: torch.device | None = None,
) -> KernelDistance:
    """Return the kernel distance of two sets of features, its mean over random subsets.

    It is KID (Binkowski et al. 2018, arXiv 1801.01401) if the features are those of Inception-v3.
    Computed in float64; it may come out below 0, as the estimator is unbiased.

    Args:
        a: Features [N, F] of one set of images, of any floating type.
        b: Features [M, F] of the other.
        subset_size: Images of each set in a subset, drawn without repetition.
        subsets: Number of subsets.
        seed: Seed of the draws.
        device: Where it is computed; by default where the features are.

    Returns:
        Mean and standard deviation over the subsets.

    Raises:
        ArgumentError: widths differ, a set has fewer images than a subset, or `subset_size` is
            below 2 or `subsets` below 1.
        DataError: a feature is NaN or infinite.
    """
    _check(a, b)
    least = min(len(a), len(b))
    if not 2 <= subset_size <= least:
        raise ArgumentError(
            f"kernel_distance: subset_size must be between 2 and {least}, the number of images of "
            f"the smaller set (got {subset_size})"
        )
    if subsets < 1:
        raise ArgumentError(f"kernel_distance: subsets must be positive (got {subsets})")
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        x, y = (
            _finite(rows[torch.randperm(len(rows), generator=generator)[:subset_size]], device)
            for rows in (a, b)
        )
        within = (_off_diagonal(x) + _off_diagonal(y)) / (subset_size * (subset_size - 1))
        values.append(within - 2 * float(_kernel(x, y).mean()))
    result = torch.tensor(values, dtype=torch.float64)
    return KernelDistance(
        value=float(result.mean()),
        deviation=float(result.std(correction=0)),
        subset_size=subset_size,
        subsets=subsets,
    )


def usual_distance(a: Rows, b: Rows) -> tuple[KernelDistance, tuple[str, ...]]:
    """Return the kernel distance over subsets of the usual size, and notes.

    Of fewer images than that all are taken.
    """
    size = min(SUBSET, len(a), len(b))
    notes = (
        (f"kid: {size} images in place of subsets of {SUBSET:,}; the deviation says nothing",)
        if size < SUBSET
        else ()
    )
    return kernel_distance(a, b, subset_size=size), notes


def kernel_distance_whole(a: Rows, b: Rows, *, device: torch.device | None = None) -> float:
    """Return the kernel distance of features [N, F] and [M, F] over all pairs of images.

    Sets may be of any size; kernels are computed in blocks. Takes time with N M.

    Raises:
        ArgumentError: widths differ, or a set has fewer than two images.
        DataError: features are not finite.
    """
    _check(a, b)
    within = [_sum_of_pairs(rows, device) / (len(rows) * (len(rows) - 1)) for rows in (a, b)]
    between = [
        float(_kernel(_finite(x, device), _finite(y, device)).sum())
        for _, x in blocks(a, size=SIDE)
        for _, y in blocks(b, size=SIDE)
    ]
    return sum(within) - 2 * math.fsum(between) / (len(a) * len(b))


def _check(a: Rows, b: Rows) -> None:
    for name, rows in (("a", a), ("b", b)):
        if len(rows.shape) != 2 or len(rows) < 2:
            raise ArgumentError(
                f"kernel_distance: {name} is {tuple(rows.shape)}; give [N, F] with N >= 2"
            )
    if a.shape[1] != b.shape[1]:
        raise ArgumentError(f"kernel_distance: widths {a.shape[1]} and {b.shape[1]} differ")


def _finite(rows: Tensor, device: torch.device | None) -> Tensor:
    if not bool(rows.isfinite().all()):
        raise DataError("kernel_distance: features are not finite (NaN or infinity)")
    return rows.to(device=device, dtype=torch.float64)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _off_diagonal(x: Tensor) -> float:
    """Return the sum of the kernel over ordered pairs of two different rows."""
    kernel = _kernel(x, x)
    return float(kernel.sum() - kernel.diagonal().sum())


def _sum_of_pairs(rows: Rows, device: torch.device | None) -> float:
    """Return `_off_diagonal` of rows of any number."""
    sums = []
    for start, x in blocks(rows, size=SIDE):
        first = _finite(x, device)
        sums.append(_off_diagonal(first))
        for other in range(start + SIDE, len(rows), SIDE):
            second = _finite(rows[other : other + SIDE], device)
            sums.append(2 * float(_kernel(first, second).sum()))
    return math.fsum(sums)
