"""OPD, the orthogonal Procrustes distance: what is left of a difference after the best rotation.

    distance = opd(features_a, features_b)            # 0: the same up to rotation; at most 2

With A, B the features of the same images, centred and of unit Frobenius norm, it is the least
squared distance ||A - B Q||^2 over orthogonal Q: 2 - 2 ||A^T B||_nuclear (Schonemann 1966; Ding et
al. 2021, arXiv 2108.01661). Features of different widths are compared as if the narrower ones had
further numbers that are 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssgear.evaluation.features.rows import Rows
from ssgear.evaluation.similarity.products import Products, centre_layers, cross_products


def opd(a: Rows, b: Rows, *, device: torch.device | None = None) -> float:
    """Return how far the features of two encoders are apart after the best rotation, in [0, 2].

    The orthogonal Procrustes distance (Ding et al. 2021, arXiv 2108.01661). To rotate, scale or
    move one set of features changes nothing; 0 means that nothing else differs.

    Args:
        a: Features [N, F] of one encoder, of any floating type.
        b: Features [N, G] of the other, row by row of the same images; G may differ from F.
        device: Where it is computed; by default where the features are.

    Raises:
        ArgumentError: the numbers of images differ, or all images have the same features.
        DataError: a feature is NaN or infinite.
    """
    return float(opd_matrix([a], [b], device=device))


def opd_matrix(
    a_layers: Sequence[Rows], b_layers: Sequence[Rows], *, device: torch.device | None = None
) -> Tensor:
    """Return the distance of every layer of one encoder from every layer of another, [La, Lb].

    float64. See `opd`; the layers [N, F] of one encoder may differ in width.
    """
    a, b = centre_layers(a_layers, b_layers, function="opd", device=device)
    rows = [[_distance(products) for products in cross_products(layer, b)] for layer in a]
    return torch.tensor(rows, dtype=torch.float64)


def _distance(products: Products) -> float:
    nuclear = float(torch.linalg.svdvals(products.product_FG).sum())
    return max(0.0, 2 - 2 * nuclear / math.sqrt(products.sum_r * products.sum_s))
