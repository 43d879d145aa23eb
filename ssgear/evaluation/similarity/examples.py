"""Queries to show, chosen by rule: the best, the most typical and the worst, with their neighbours.

shown = examples(retrieve(features, labels), features, labels)
for row, kind in zip(shown.queries.tolist(), shown.kinds): ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.evaluation.features.rows import Rows
from ssgear.evaluation.similarity.retrieval import Retrieval, unit_rows

Kind = Literal["best", "typical", "worst"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalExamples:
    """Q queries, the best first, and their k most similar images, the most similar first."""

    queries: Tensor
    """Rows [Q] int64."""
    neighbours: Tensor
    """Rows [Q, k] int64."""
    similarities: Tensor
    """Cosine similarities [Q, k] float32."""
    is_relevant: Tensor
    """Whether a neighbour has the query's label, [Q, k] bool."""
    average_precision: Tensor
    """Of each query [Q], float64."""
    kinds: tuple[Kind, ...]
    """Why each query was chosen."""


def examples(
    retrieval: Retrieval, features: Rows, labels: Tensor, *, per_kind: int = 3, k: int = 8
) -> RetrievalExamples:
    """Return queries with the highest average precision, nearest to its median, and the lowest.

    Of equal queries the first is taken, and none twice; of equal neighbours the first comes first.
    Sets that are too small have fewer queries, and fewer neighbours than k.

    Args:
        retrieval: Figures of the same features.
        features: [N, F].
        labels: [N] int64.
        per_kind: Queries of each kind.
        k: Neighbours of a query.

    Raises:
        ArgumentError: the figures are those of other images, or a number is not positive.
    """
    if not torch.equal(retrieval.class_of, labels.cpu()) or len(features) != len(labels):
        raise ArgumentError("examples: features, labels and figures are of different images")
    if per_kind < 1 or k < 1:
        raise ArgumentError(f"examples: must be positive (got per_kind={per_kind}, k={k})")
    chosen = _choose(retrieval.per_query, per_kind)
    rows = torch.tensor([row for row, _ in chosen])
    gallery = unit_rows(features)
    rows_there = rows.to(gallery.device)
    similar = (gallery[rows_there] @ gallery.T).float()
    similar[torch.arange(len(rows)), rows_there] = -torch.inf
    count = min(k, len(labels) - 1)
    ranked = similar.sort(dim=1, descending=True, stable=True)
    neighbours = ranked.indices[:, :count].cpu()
    return RetrievalExamples(
        queries=rows,
        neighbours=neighbours,
        similarities=ranked.values[:, :count].cpu(),
        is_relevant=labels.cpu()[neighbours] == labels.cpu()[rows, None],
        average_precision=retrieval.per_query[rows],
        kinds=tuple(kind for _, kind in chosen),
    )


def _choose(per_query: Tensor, per_kind: int) -> list[tuple[int, Kind]]:
    """Return rows and why they are chosen."""
    rows = (~per_query.isnan()).nonzero()[:, 0]
    values = per_query[rows]
    from_median = (values - values.quantile(0.5)).abs()
    orders: tuple[tuple[Kind, Tensor], ...] = (
        ("best", values.argsort(descending=True, stable=True)),
        ("worst", values.argsort(stable=True)),
        ("typical", from_median.argsort(stable=True)),
    )
    chosen: dict[int, Kind] = {}
    for kind, order in orders:
        free = [row for row in rows[order].tolist() if row not in chosen]
        chosen |= dict.fromkeys(free[:per_kind], kind)
    ranks = {"best": 0, "typical": 1, "worst": 2}
    return sorted(chosen.items(), key=lambda item: ranks[item[1]])
