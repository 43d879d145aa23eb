"""k nearest neighbours of features: cosine, weights exp(s / T) (Wu et al. 2018, 1805.01978)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.errors import ArgumentError

CHUNK = 1024


def nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return cosine similarities and bank rows [Q, k] of the k nearest, the nearest first.

    `queries` [Q, F] and `bank` [N, F] are features; k is cut to N. At most 1024 x N similarities
    are held at a time.
    """
    if queries.ndim != 2 or bank.ndim != 2 or queries.shape[1] != bank.shape[1]:
        raise ArgumentError(
            f"nearest: features of shape {tuple(queries.shape)} and {tuple(bank.shape)}; both are "
            "[rows, width] with one width"
        )
    bank = F.normalize(bank.float(), dim=1)
    k = min(k, len(bank))
    found = [
        (F.normalize(queries[start : start + CHUNK].float(), dim=1) @ bank.T).topk(k, dim=1)
        for start in range(0, len(queries), CHUNK)
    ]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])


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

    A neighbour with cosine s votes for its label with weight exp(s / temperature).
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
