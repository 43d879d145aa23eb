"""How faithful and how varied one set of features is beside another: four shares of neighbours.

    found = prdc(real, made)          # .precision, .recall, .density, .coverage

Around each row is a ball that reaches to its k-th nearest neighbour in its own set. Precision is
the share of made rows in the ball of some real one, recall that of real rows in the ball of some
made one (Kynkaanniemi et al. 2019, arXiv 1904.06991, k = 3). Density counts the real balls that a
made row lies in, over k, and may pass 1; coverage is the share of real balls with a made row inside
(Naeem et al. 2020, arXiv 2002.09797, k = 5). Distances are taken block by block in float64, so that
memory does not grow with the product of the sets' sizes: as a product of matrices, but for rows so
near each other that it would lose digits, which are subtracted. A ball holds what lies on its rim,
to within rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgear.errors import ArgumentError

ROWS, COLUMNS = 512, 4096
"""Distances held at a time."""
_NEAR = 1e-3
"""Share of their norms' squares below which a squared distance is taken by subtraction."""
_RIM = 1 + 1e-11
"""What distances of a product of matrices may be off by, and more."""


@dataclass(frozen=True, kw_only=True)
class PRDC:
    """Shares in [0, 1]; density may be larger."""

    precision: float
    """Made rows among real ones."""
    recall: float
    """Real rows among made ones."""
    density: float
    """Real balls that a made row lies in, over k."""
    coverage: float
    """Real balls with a made row inside."""


def prdc(real: Tensor, made: Tensor, *, manifold_k: int = 3, density_k: int = 5) -> PRDC:
    """Compare features [N, F] of real images with those [M, F] of made ones.

    Args:
        real: Of real images.
        made: Of made images.
        manifold_k: Neighbour that balls of precision and recall reach to.
        density_k: Neighbour that balls of density and coverage reach to.

    Raises:
        ArgumentError: For other shapes, values that are not finite, and sets of no more rows than
            the k-th neighbour needs.
    """
    largest = max(manifold_k, density_k)
    for name, features in (("real", real), ("made", made)):
        if features.ndim != 2 or features.shape[1] != real.shape[1]:
            raise ArgumentError(f"prdc: {name} is {tuple(features.shape)}; both are [rows, width]")
        if len(features) <= largest or min(manifold_k, density_k) < 1:
            raise ArgumentError(
                f"prdc: {len(features)} {name} rows have no {largest}-th neighbour; give more than "
                f"{largest}, and k of at least 1"
            )
        if not bool(torch.isfinite(features).all()):
            raise ArgumentError(f"prdc: {name} holds values that are not finite")
    wide_real, wide_made = (each.detach().cpu() for each in (real, made))
    radii = _RIM * _radii(wide_real, largest)
    real_M, real_D = radii[:, manifold_k - 1], radii[:, density_k - 1]
    made_M = _RIM * _radii(wide_made, manifold_k)[:, manifold_k - 1]
    precise = torch.zeros(len(made), dtype=torch.bool)
    recalled, covered = torch.zeros(2, len(real), dtype=torch.bool)
    inside = 0
    for rows, columns, distances in _blocks(wide_made, wide_real):
        precise[rows] |= (distances <= real_M[columns]).any(1)
        recalled[columns] |= (distances <= made_M[rows, None]).any(0)
        dense = distances <= real_D[columns]
        covered[columns] |= dense.any(0)
        inside += int(dense.sum())
    return PRDC(
        precision=float(precise.double().mean()),
        recall=float(recalled.double().mean()),
        density=inside / (density_k * len(made)),
        coverage=float(covered.double().mean()),
    )


def _radii(features: Tensor, k: int) -> Tensor:
    """Return the distances of each row to its 1st to k-th nearest other row, [N, k] float64."""
    nearest = torch.full((len(features), k), torch.inf, dtype=torch.float64)
    for rows, columns, distances in _blocks(features, features):
        shift = rows.start - columns.start
        own = torch.arange(len(distances)) + shift
        here = (own >= 0) & (own < distances.shape[1])
        distances[here.nonzero()[:, 0], own[here]] = torch.inf
        both = torch.cat((nearest[rows], distances), dim=1)
        nearest[rows] = both.topk(k, dim=1, largest=False).values
    return nearest


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield rows of `a`, rows of `b`, and the distances between them, float64."""
    for first in range(0, len(a), ROWS):
        rows = slice(first, min(first + ROWS, len(a)))
        block = a[rows].double()
        for start in range(0, len(b), COLUMNS):
            columns = slice(start, min(start + COLUMNS, len(b)))
            yield rows, columns, _apart(block, b[columns].double())


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """Return the distances between rows, float64 like they."""
    distances = torch.cdist(a, b)
    norms = (a.square().sum(1)[:, None] + b.square().sum(1)) * _NEAR
    near = distances.square() < norms
    for row in near.any(1).nonzero()[:, 0].tolist():  # one at a time, as all may be near
        columns = near[row].nonzero()[:, 0]
        distances[row, columns] = (b[columns] - a[row]).norm(dim=1)
    return distances
