"""Label-free health of a representation: alignment, uniformity, effective rank, collapse.

Alignment and uniformity are Wang & Isola's (2020, arXiv 2005.10242) on normalised embeddings of two
views; effective rank is RankMe (Garrido et al. 2023, arXiv 2210.02885) of the features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.errors import ArgumentError
from ssgear.evaluation.features.rows import Rows

MAX_ROWS = 4096
"""Rows that pairwise distances and singular values are computed on, evenly spread."""
COLLAPSED_RANK = 2.0
COLLAPSED_PLANE = 1.02
"""The same of features of two numbers, whose rank is 2 at most."""
COLLAPSED_UNIFORMITY = -0.1
YOUNG_STEPS = 50
"""Steps after which 0.9^50, half a percent, of a batch norm's running statistics is still what they
began with. Until then a head in evaluation mode puts everything into one point."""


@dataclass(frozen=True, kw_only=True)
class Health:
    """How a representation is, without labels."""

    alignment: float
    """Mean squared distance of two views of an image, 0 (identical) to 4."""
    uniformity: float
    """log mean exp(-2 d^2) over pairs of images, 0 (all in one point) to about -4."""
    effective_rank: float
    """exp of the entropy of the normalised singular values: how many dimensions are used."""
    collapsed: bool
    """Whether images are hardly told apart: effective rank below 2, or uniformity above -0.1."""
    sign: str = ""
    """The figure that shows the collapse, in words; empty where there is none."""


def alignment(z1: Tensor, z2: Tensor) -> float:
    """Return the mean of ||z1 - z2||^2 over rows, both normalised."""
    if z1.shape != z2.shape or z1.ndim != 2:
        raise ArgumentError(f"alignment: {tuple(z1.shape)} and {tuple(z2.shape)}; give two [n, D]")
    z1, z2 = F.normalize(z1.float(), dim=1), F.normalize(z2.float(), dim=1)
    return float((z1 - z2).square().sum(1).mean())


def uniformity(z: Tensor) -> float:
    """Return log mean exp(-2 ||z_i - z_j||^2) over pairs of rows i < j, normalised."""
    z = F.normalize(_some(z).double(), dim=1)
    if len(z) < 2:
        raise ArgumentError("uniformity: needs at least two rows")
    # ||a - b||^2 = 2 - 2 <a, b> for unit rows
    exponents = (4 * (z @ z.T) - 4).fill_diagonal_(-torch.inf)
    pairs = len(z) * (len(z) - 1)
    return float(exponents.flatten().logsumexp(0) - torch.tensor(float(pairs)).log())


def centred(features: Rows) -> Tensor:
    """Return at most `MAX_ROWS` evenly spread rows [n, F] less their mean."""
    rows = torch.linspace(0, len(features) - 1, min(MAX_ROWS, len(features))).long()
    chosen = features[rows].float()
    return chosen - chosen.mean(0)


def effective_rank(features: Tensor) -> float:
    """Return RankMe: exp(-sum p log p), p the singular values divided by their sum."""
    values = torch.linalg.svdvals(_some(features).double())
    p = values / values.sum().clamp_min(1e-12) + 1e-12
    return float((-(p * p.log()).sum()).exp())


def health(z1: Tensor, z2: Tensor, features: Tensor, *, young: bool = False) -> Health:
    """Measure embeddings z1, z2 [n, D] of two views, and features [N, F] of images.

    Features are centred for the rank: a common offset of all images tells none of them apart.
    Embeddings after fewer than `YOUNG_STEPS` steps (`young`) are measured and not judged.
    """
    spread = uniformity(z1)
    rank = effective_rank(features.float() - features.float().mean(0))
    least = COLLAPSED_RANK if features.shape[1] > 2 else COLLAPSED_PLANE
    alike = not bool((features.float().std(0) > 1e-7).any())
    flat = alike or rank < least
    point = spread > COLLAPSED_UNIFORMITY and not young
    in_a_point = f"uniformity {spread:.3f}" if point else ""
    return Health(
        alignment=alignment(z1, z2),
        uniformity=spread,
        effective_rank=rank,
        collapsed=flat or point,
        sign=f"effective rank {rank:.1f}" if flat else in_a_point,
    )


def _some(rows: Tensor) -> Tensor:
    if rows.ndim != 2:
        raise ArgumentError(f"health: rows of shape {tuple(rows.shape)}; give [n, D]")
    if len(rows) <= MAX_ROWS:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, MAX_ROWS, device=rows.device).long()]
