"""The Frechet distance between two sets of features (Dowson & Landau 1982; Heusel et al. 2017).

    d^2 = ||mu_a - mu_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

With the features of Inception-v3 it is called FID (arXiv 1706.08500); with those of another encoder
it is not, and is never called that here. The fewer images, the larger it comes out: compare figures
of equal numbers only. `Moments` takes features block by block, so that many need no more memory
than few.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssgear.errors import ArgumentError


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared Frechet distance of two sets of features, each taken as Gaussian.

    It is FID (Heusel et al. 2017, arXiv 1706.08500) if the features are those of Inception-v3.
    Computed in float64 on the CPU; covariances have the factor 1 / (N - 1). With no more rows than
    features it comes out far too large (`frechet_caveat`).

    Args:
        a: Features [N, F] of any floating type, N >= 2.
        b: Features [M, F], M >= 2.

    Raises:
        ArgumentError: shapes differ, a set has fewer than two rows, or a value is not finite.
    """
    for name, features in (("a", a), ("b", b)):
        if features.ndim != 2 or len(features) < 2:
            raise ArgumentError(
                f"frechet_distance: {name} is {tuple(features.shape)}; give [N, F] with N >= 2"
            )
        if not bool(torch.isfinite(features).all()):
            raise ArgumentError(f"frechet_distance: {name} holds values that are not finite")
    if a.shape[1] != b.shape[1]:
        raise ArgumentError(f"frechet_distance: widths {a.shape[1]} and {b.shape[1]} differ")
    return Moments(a).distance(Moments(b))


def frechet_caveat(n_a: int, n_b: int, width: int) -> str:
    """Return what weakens a distance of sets of `n_a` and `n_b` images; empty if nothing does.

    With no more images than dimensions a covariance is singular, and the distance comes out far too
    large.
    """
    fewer = min(n_a, n_b)
    if fewer > width:
        return ""
    return (
        f"{fewer:,} images are too few for features of {width:,} numbers: the distance comes out "
        f"far too large; compare it with those of as many images only, or use more than {width:,}"
    )


class Moments:
    """Mean and scatter of features, in float64, from blocks of any size.

    The scatter X^T X of centred rows is kept as its triangular factor: nothing is squared, so that
    no digits are lost, and [F, F] is all that any number of rows needs.
    """

    def __init__(self, *blocks: Tensor) -> None:
        """Take some blocks [n, F]."""
        self.count = 0
        self.mean_F = torch.zeros(0, dtype=torch.float64)
        self.scatter_RF = torch.zeros(0, 0, dtype=torch.float64)
        for block in blocks:
            self.add(block)

    def add(self, block_nF: Tensor) -> None:
        """Take one more block."""
        rows = block_nF.detach().double().cpu()
        mean_F, count = rows.mean(0), self.count + len(rows)
        parts = [rows - mean_F]
        if self.count:
            # two means: the scatter about that of both is their own and this one row (Chan et al.)
            shift_F = mean_F - self.mean_F
            parts += [self.scatter_RF, shift_F[None] * (self.count * len(rows) / count) ** 0.5]
            mean_F = self.mean_F + shift_F * (len(rows) / count)
        stacked = torch.cat(parts)
        tall = len(stacked) > stacked.shape[1]
        self.scatter_RF = torch.linalg.qr(stacked, mode="r").R if tall else stacked
        self.count, self.mean_F = count, mean_F

    def distance(self, other: Moments) -> float:
        """Return d^2 to another set of the same width; both have two rows or more."""
        half_a, half_b = (each.scatter_RF / (each.count - 1) ** 0.5 for each in (self, other))
        # tr (S_a S_b)^(1/2) is the sum of the singular values of S_a^(1/2) S_b^(1/2); with
        # S = X^T X those are the singular values of X_a X_b^T: no matrix root is taken
        cross = torch.linalg.svdvals(half_a @ half_b.T).sum()
        total = (self.mean_F - other.mean_F).square().sum()
        total = total + half_a.square().sum() + half_b.square().sum()
        return max(0.0, float(total - 2 * cross))
