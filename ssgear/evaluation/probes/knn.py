"""k nearest neighbours of features: cosine, weights exp(s / T) (Wu et al. 2018, 1805.01978).

Features of two numbers are places on a map, whose directions mean nothing: their similarity is
1 - d^2 / 2, as cosine is for unit vectors, with d the distance in units of the map's radius.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.errors import ArgumentError

CHUNK = 1024


def nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return similarities and bank rows [Q, k] of the k nearest, the nearest first.

    `queries` [Q, F] and `bank` [N, F] are features; k is cut to N. At most 1024 x N similarities
    are held at a time.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ArgumentError(
            f"nearest: features of shape {tuple(queries.shape)} and {tuple(bank.shape)}; both are "
            "[rows, width] with one width"
        )
    k = min(k, len(bank))
    similar = _on_a_map(bank) if bank.shape[1] == 2 else _cosine(bank)
    found = [
        similar(queries[start : start + CHUNK].float()).topk(k, dim=1)
        for start in range(0, len(queries), CHUNK)
    ]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


def _cosine(bank: Tensor) -> Callable[[Tensor], Tensor]:
    bank = F.normalize(bank.float(), dim=1)
    return lambda queries: F.normalize(queries, dim=1) @ bank.T


def _on_a_map(bank: Tensor) -> Callable[[Tensor], Tensor]:
    bank = bank.float()
    middle = bank.mean(0)
    radius = (bank - middle).square().sum(1).mean().sqrt().clamp_min(1e-12)
    bank = (bank - middle) / radius

    def similar(queries: Tensor) -> Tensor:
        # exact differences: by products, points that lie close are apart by rounding
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist((queries - middle) / radius, bank, compute_mode=exact)
        return 1 - distances.square() / 2

    return similar


def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    k: int = 200,
    temperature: float = 0.07,
) -> float:
    """Return the share of test rows whose weighted vote of k neighbours is right, in [0, 1].

    A neighbour with similarity s votes for its label with weight exp(s / temperature).
    """
    if k < 1 or temperature <= 0:
        raise ArgumentError(f"knn_accuracy: k={k}, temperature={temperature}; both are positive")
    if len(test_labels) == 0 or len(train_labels) == 0:
        raise ArgumentError("knn_accuracy: there are no labelled rows")
    similarity, rows = nearest(test_features, train_features, k)
    labels = train_labels.to(rows.device)[rows]
    # s - 1 <= 0: the largest weight is 1, and the vote does not change
    weights = ((similarity - 1) / temperature).exp()
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    votes = torch.zeros(len(rows), classes, device=rows.device).scatter_add_(1, labels, weights)
    return float((votes.argmax(1) == test_labels.to(rows.device)).float().mean())
