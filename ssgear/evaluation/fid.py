"""The Frechet distance between two sets of features (Dowson & Landau 1982; Heusel et al. 2017).

    d^2 = ||mu_a - mu_b||^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

With the features of Inception-v3 it is called FID (arXiv 1706.08500); with those of another encoder
it is not, and is never called that here. The fewer images, the larger it comes out: compare figures
of equal numbers only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssgear.errors import ArgumentError


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return d^2 between features [N, F] and [M, F], as if each set were Gaussian.

    Computed in float64; covariances have the factor 1 / (N - 1).

    Raises:
        ArgumentError: For other shapes, fewer than two rows, and values that are not finite.
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
    (mean_a, half_a), (mean_b, half_b) = _moments(a), _moments(b)
    # tr (S_a S_b)^(1/2) is the sum of the singular values of S_a^(1/2) S_b^(1/2); with S = X^T X
    # those are the singular values of X_a X_b^T, so that no matrix root is taken
    cross = torch.linalg.svdvals(half_a @ half_b.T).sum()
    total = (mean_a - mean_b).square().sum() + half_a.square().sum() + half_b.square().sum()
    return max(0.0, float(total - 2 * cross))


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean [F], and X [min(N, F), F] with X^T X the covariance."""
    wide = features.detach().double().cpu()
    centred = (wide - wide.mean(0)) / (len(wide) - 1) ** 0.5
    if len(centred) > centred.shape[1]:
        centred = torch.linalg.qr(centred, mode="r").R
    return wide.mean(0), centred
