"""The contrastive loss of pairs with a margin (Hadsell, Chopra and LeCun 2006)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import checks

_SMALLEST = 1e-12
"""Squared distances below this count as it: the root has no derivative at 0."""


def contrastive_margin(
    first_ND: Tensor, second_ND: Tensor, dissimilar_N: Tensor, *, margin: float = 1.0
) -> Tensor:
    """Return the mean of (1 - Y) d^2 / 2 + Y max(0, margin - d)^2 / 2 over pairs of rows.

    d is the Euclidean distance of row i of `first_ND` to row i of `second_ND`, and Y is 1 where
    `dissimilar_N` (bool, or numbers in [0, 1]) says that the two do not belong together. Computed
    in float32 at least. Two dissimilar rows that coincide are pushed nowhere.
    """
    _check(first_ND, second_ND, dissimilar_N, margin)
    dtype = torch.promote_types(first_ND.dtype, torch.float32)
    squares = (first_ND.to(dtype) - second_ND.to(dtype)).square().sum(1)
    short = (margin - squares.clamp_min(_SMALLEST).sqrt()).clamp_min(0).square()
    dissimilar = dissimilar_N.to(dtype)
    # 0 times the square of a pair too far apart for its type would be NaN
    near = torch.where(dissimilar == 1, 0.0, (1 - dissimilar) * squares)
    return (near + dissimilar * short).mean() / 2


def _check(first_ND: Tensor, second_ND: Tensor, dissimilar_N: Tensor, margin: float) -> None:
    for name, rows in (("first", first_ND), ("second", second_ND)):
        if not checks.is_float_tensor(rows):
            raise ArgumentError(
                f"contrastive_margin: {name} is {checks.kind(rows)}; use a floating-point tensor "
                "[N, D]"
            )
    if first_ND.ndim != 2 or first_ND.shape != second_ND.shape or 0 in first_ND.shape:
        raise ArgumentError(
            f"contrastive_margin: rows of shape {tuple(first_ND.shape)} and "
            f"{tuple(second_ND.shape)}; give two [N, D] alike, N and D at least 1"
        )
    if not isinstance(dissimilar_N, Tensor) or dissimilar_N.shape != first_ND.shape[:1]:
        raise ArgumentError(
            f"contrastive_margin: dissimilar is {checks.shaped(dissimilar_N)} for "
            f"{len(first_ND)} pairs; give a tensor with one for each"
        )
    if not first_ND.device == second_ND.device == dissimilar_N.device:
        raise ArgumentError(
            f"contrastive_margin: first is on {first_ND.device}, second on {second_ND.device} and "
            f"dissimilar on {dissimilar_N.device}; bring them to one device"
        )
    if not checks.is_number(margin, checks.TINY, checks.LARGEST):
        raise ArgumentError(
            f"contrastive_margin: margin {checks.shown(margin)}; give a number above 0"
        )
