"""Products of centred features, block by block: what linear CKA and OPD are computed from.

    layers = [centre(rows, name="a") for rows in a_layers]
    first, *others = cross_products(layers[0], [layers[0], layers[1]])

For features X [N, F] and Y [N, G] of the same images, both centred, that is X^T Y [F, G] and sums
over the squared norms of their rows. The mean is subtracted before anything is multiplied, so that
features far from 0 lose no digits. A block is multiplied in float32, the sum is float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.evaluation.features.rows import BLOCK_BYTES, Rows
from ssgear.evaluation.probes.checks import finite_blocks

LONGEST = 8192
"""Rows whose products are summed in float32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Centred:
    """Features and their mean."""

    rows: Rows
    """[N, F]."""
    mean_F: Tensor
    """Mean, float64."""
    unit: float
    """Power of two that features are divided by, so that squares in float32 are in its range."""
    name: str
    """Name of the features in messages."""
    device: torch.device | None = None
    """Where they are multiplied; by default where they are."""

    def block(self, start: int, size: int) -> Tensor:
        """Return some rows less the mean, in units of `unit`, float32."""
        block = self.rows[start : start + size].float()
        block = block if self.device is None else block.to(self.device)
        # as exact as a difference in float64, in a third of the time
        high_F = self.mean_F.float()
        return (block - high_F).sub_((self.mean_F - high_F).float()).mul_(1 / self.unit)


@dataclass(frozen=True, kw_only=True, eq=False)
class Products:
    """Of two sets of centred features X and Y, whose rows have squared norms r_N and s_N."""

    count: int
    """N."""
    product_FG: Tensor
    """X^T Y, float64."""
    sum_r: float
    """Sum of r, the squared Frobenius norm of X."""
    sum_s: float
    """Sum of s."""
    sum_rs: float
    """Sum of r times s."""


def centre(rows: Rows, *, name: str, device: torch.device | None = None) -> Centred:
    """Return features with their mean.

    Raises:
        ArgumentError: they are not [N, F], or all rows are the same.
        DataError: some are not finite.
    """
    if len(rows.shape) != 2 or not len(rows) or not rows.shape[1]:
        raise ArgumentError(f"{name}: features of shape {tuple(rows.shape)}; give [N, F]")
    is_same, largest = True, 0.0
    first_F, total_F = torch.zeros(()), torch.zeros(())
    for start, block in finite_blocks(rows, name, device=device):
        if start == 0:
            first_F = block[0].clone()
            total_F = torch.zeros_like(first_F, dtype=torch.float64)
        is_same = is_same and torch.equal(block, first_F.expand_as(block))
        # sums of differences from a row: those of features far from 0 would lose digits
        apart = block - first_F
        largest = max(largest, float(apart.abs().max()))
        total_F += apart.sum(0)
    if is_same:
        raise ArgumentError(f"{name}: all images have the same features")
    mean_F = first_F.double() + total_F / len(rows)
    unit = 2.0 ** min(126, max(-126, math.frexp(largest)[1]))
    return Centred(rows=rows, mean_F=mean_F, unit=unit, name=name, device=device)


def centre_layers(
    a_layers: Sequence[Rows],
    b_layers: Sequence[Rows],
    *,
    function: str,
    device: torch.device | None,
) -> tuple[list[Centred], list[Centred]]:
    """Return the features of two encoders, layer by layer; layers they share are read once.

    Raises:
        ArgumentError: there are none, or they are not of equally many images.
    """
    centred: dict[int, Centred] = {}
    for side, layers in (("a", a_layers), ("b", b_layers)):
        for number, rows in enumerate(layers):
            name = f"{function}: {side}" + (f", layer {number}" if len(layers) > 1 else "")
            if id(rows) not in centred:
                centred[id(rows)] = centre(rows, name=name, device=device)
    counts = {len(layer.rows) for layer in centred.values()}
    if not a_layers or not b_layers or len(counts) > 1:
        raise ArgumentError(
            f"{function}: features of {' and '.join(map(str, sorted(counts))) or 'no'} images; "
            "both sides need features of the same images"
        )
    return [centred[id(rows)] for rows in a_layers], [centred[id(rows)] for rows in b_layers]


def cross_products(a: Centred, others: Sequence[Centred]) -> list[Products]:
    """Return the products of one set of features with each of several; `a` is read once.

    In memory are [F, G] float64 for each and a block of all.
    """
    widths = [other.rows.shape[1] for other in others]
    width = a.rows.shape[1] + sum(widths)
    size = min(LONGEST, max(1, 2 * BLOCK_BYTES // (4 * width)))
    count, device = len(a.rows), a.mean_F.device
    products = [a.mean_F.new_zeros(a.rows.shape[1], G) for G in widths]
    sums = torch.zeros(len(others), 3, dtype=torch.float64, device=device)
    for start in range(0, count, size):
        x = a.block(start, size)
        r = x.square().sum(1).double()
        for number, other in enumerate(others):
            y = x if other is a else other.block(start, size)
            products[number] += x.T @ y
            s = r if other is a else y.square().sum(1).double()
            sums[number] += torch.stack((r.sum(), s.sum(), r @ s))
    return [
        Products(count=count, product_FG=product, sum_r=sum_r, sum_s=sum_s, sum_rs=sum_rs)
        for product, (sum_r, sum_s, sum_rs) in zip(products, sums.tolist(), strict=True)
    ]
