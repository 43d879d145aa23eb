"""Retrieval: every image is a query, the others of its set are ranked by cosine similarity.

    result = retrieve(features_NF, labels_N, ks=(1, 5, 10))
    result.mean_average_precision, result.recall_at[5], result.precision_at[5]
    low, high = bootstrap_mean(result.per_query, groups=result.class_of, mutual=True)

An image is relevant if it has the query's label. Figures are means over the queries of a class,
then over classes; a class of one image has nothing to retrieve: its query is left out and counted.

Equal similarities favor nobody. In the average precision, images of one similarity come in at once:
the precision at a relevant image counts all images that are at least as similar, as scikit-learn's
`average_precision_score` does. `precision_at`, `recall_at` and `hit_at` are means over all orders
of equal images. Similarities are computed in float64 and compared in float32, so that copies of an
image are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.evaluation.features.rows import Rows
from ssgear.evaluation.probes.checks import finite_blocks

_ELEMENTS = 1 << 23
"""Similarities that are held at a time."""
_MOST_QUERIES = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class Retrieval:
    """Figures of a set of images, each a query against the others."""

    mean_average_precision: float
    """Mean over classes of the mean average precision of their queries."""
    recall_at: dict[int, float]
    """By k: share of the relevant images that are among the k most similar."""
    precision_at: dict[int, float]
    """By k: share of the k most similar that are relevant."""
    hit_at: dict[int, float]
    """By k: share of queries with a relevant image among the k most similar; metric learning calls
    it Recall@k."""
    per_query: Tensor
    """Average precision [N] float64; NaN where no other image has the query's label."""
    class_of: Tensor
    """Label [N] int64 of each query."""
    num_alone: int
    """Queries whose class has no other image."""


def mean_average_precision(
    features: Rows, labels: Tensor, *, device: torch.device | None = None
) -> float:
    """Return the mean average precision of retrieval among one set of images, in [0, 1].

    Every image is a query; the others are ranked by cosine similarity. The average precision of the
    queries is averaged within a class, then over classes; a class of one image is left out. For
    images of one similarity it is scikit-learn's `average_precision_score` (Manning et al. 2008,
    Introduction to Information Retrieval, 8.4, defines the measure). `retrieve` returns more.

    Args:
        features: [N, F] of any floating type, N >= 2; similarities are computed in float64.
        labels: int64 [N], at least 0.
        device: Where it is computed; by default where the features are.

    Raises:
        ArgumentError: shapes do not fit, a label is negative, or no class has two images.
        DataError: a feature is NaN or infinite.
    """
    return retrieve(features, labels, ks=(), device=device).mean_average_precision


def retrieve(
    features: Rows,
    labels: Tensor,
    *,
    ks: Sequence[int] = (1, 5, 10),
    device: torch.device | None = None,
) -> Retrieval:
    """Rank the other images for each image.

    In memory are the features [N, F] float64 and `_ELEMENTS` similarities, a few times over.

    Args:
        features: [N, F].
        labels: [N] int64, at least 0.
        ks: Numbers of most similar images for recall, precision and hits, less than N.
        device: Where it is computed; by default where the features are.

    Raises:
        ArgumentError: shapes do not fit, a k is not possible, or no class has two images.
        DataError: features are not finite.
    """
    _check(features, labels, ks)
    order = labels.cpu().argsort(stable=True)
    gallery = unit_rows(features, device)
    order = order.to(gallery.device)
    gallery, sorted_labels = gallery[order], labels.to(gallery.device)[order]
    parts = [_rank(*block, ks) for block in _queries(gallery, sorted_labels)]
    by_class = torch.cat([precision for precision, _ in parts])
    at_k = torch.cat([figures for _, figures in parts])
    per_query = torch.empty_like(by_class).index_copy_(0, order, by_class).cpu()
    at_k = torch.empty_like(at_k).index_copy_(0, order, at_k).cpu()
    has_peer = ~per_query.isnan()
    if not bool(has_peer.any()):
        raise ArgumentError("retrieve: every class has one image only; nothing can be retrieved")
    class_of = labels.cpu()
    figures = _over_classes(
        torch.cat((per_query[:, None], at_k.flatten(1)), dim=1)[has_peer], class_of[has_peer]
    ).tolist()
    names = (
        figures[1 : 1 + len(ks)],
        figures[1 + len(ks) : 1 + 2 * len(ks)],
        figures[1 + 2 * len(ks) :],
    )
    precision, recall, hit = (dict(zip(ks, values, strict=True)) for values in names)
    return Retrieval(
        mean_average_precision=figures[0],
        recall_at=recall,
        precision_at=precision,
        hit_at=hit,
        per_query=per_query,
        class_of=class_of,
        num_alone=int((~has_peer).sum()),
    )


def _check(features: Rows, labels: Tensor, ks: Sequence[int]) -> None:
    count = len(features)
    if len(features.shape) != 2 or labels.shape != (count,) or labels.dtype != torch.int64:
        raise ArgumentError(
            f"retrieve: features of shape {tuple(features.shape)} and labels of shape "
            f"{tuple(labels.shape)} {labels.dtype}; give [N, F] and [N] int64"
        )
    if count and int(labels.min()) < 0:
        raise ArgumentError(f"retrieve: labels must be at least 0 (got {int(labels.min())})")
    if count < 2:
        raise ArgumentError(f"retrieve: needs at least 2 images (got {count})")
    for k in ks:
        if not 1 <= k < count:
            raise ArgumentError(
                f"retrieve: k must be between 1 and {count - 1}, the number of other images "
                f"(got {k})"
            )


def unit_rows(features: Rows, device: torch.device | None = None) -> Tensor:
    """Return rows of norm 1, float64; a row of zeros stays one."""
    parts = [
        torch.nn.functional.normalize(block.double(), dim=1, eps=1e-30)
        for _, block in finite_blocks(features, "retrieve:", device=device)
    ]
    return torch.cat(parts)


def _queries(gallery: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield similarities of some queries: to all other images sorted, and to the relevant ones.

    Rows of both are sorted upwards, float32. What fills them up is -inf: the query itself, and
    where a class has fewer images than another.
    """
    # rows are in the order of labels: the relevant images of a query are a range
    count = len(gallery)
    first, last = (torch.searchsorted(labels, labels, side=side) for side in ("left", "right"))
    size = min(_MOST_QUERIES, max(1, _ELEMENTS // count))
    for start in range(0, count, size):
        rows = torch.arange(start, min(start + size, count), device=gallery.device)
        similar = (gallery[rows] @ gallery.T).float()
        similar[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
        most = int((last - first)[rows].max())
        columns = first[rows, None] + torch.arange(most, device=rows.device)
        relevant = similar.gather(1, columns.clamp(max=count - 1))
        relevant = relevant.masked_fill(columns >= last[rows, None], -torch.inf)
        yield _sort(similar), _sort(relevant)


def _sort(rows: Tensor) -> Tensor:
    """Return each row sorted upwards."""
    if rows.device.type == "cpu":  # several times faster than torch, which sorts places too
        return torch.from_numpy(np.sort(rows.numpy(), axis=1))
    return rows.sort(dim=1).values


def _rank(every: Tensor, relevant: Tensor, ks: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return average precision [Q], and precision, recall, hits [Q, 3, K], of sorted similarities.

    NaN where nothing is relevant.
    """
    is_real = relevant > -torch.inf
    num_relevant = is_real.sum(1)
    better = relevant.shape[1] - torch.searchsorted(relevant, relevant)
    ranks = every.shape[1] - torch.searchsorted(every, relevant)
    precisions = (better.double() / ranks).masked_fill(~is_real, 0)
    average = precisions.sum(1) / num_relevant
    at_k = [_at(every, relevant, k) for k in ks]
    if not at_k:
        return average, average.new_zeros(len(average), 3, 0)
    among, hit = (torch.stack(values, dim=1) for values in zip(*at_k, strict=True))
    precision = among / torch.tensor(ks, dtype=torch.float64, device=among.device)
    return average, torch.stack((precision, among / num_relevant[:, None], hit), dim=1)


def _at(every: Tensor, relevant: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the mean number of relevant images among k, and how likely there is one, [Q] each.

    All images that are equal to the k-th share the places that are left for them.
    """
    kth = every[:, -k, None].contiguous()

    def count(rows: Tensor, *, equal: bool) -> Tensor:
        places = torch.searchsorted(rows, kth, right=not equal)
        return (rows.shape[1] - places)[:, 0].double()

    above, relevant_above = count(every, equal=False), count(relevant, equal=False)
    equal = count(every, equal=True) - above
    relevant_equal = count(relevant, equal=True) - relevant_above
    places = k - above
    among = relevant_above + places * relevant_equal / equal
    # none of the relevant ones: hypergeometric, C(equal - relevant, places) / C(equal, places)
    others = equal - relevant_equal
    log_none = (
        (others + 1).lgamma()
        + (equal - places + 1).lgamma()
        - (others - places + 1).clamp(min=1).lgamma()
        - (equal + 1).lgamma()
    )
    none = torch.where((relevant_above > 0) | (others < places), 0.0, log_none.exp())
    return among, 1 - none


def _over_classes(values_QM: Tensor, labels_Q: Tensor) -> Tensor:
    """Return the mean over classes of the means over their queries, [M]."""
    sums = values_QM.new_zeros(int(labels_Q.max()) + 1, values_QM.shape[1])
    sums.index_add_(0, labels_Q, values_QM)
    counts = labels_Q.bincount()
    return (sums[counts > 0] / counts[counts > 0, None]).mean(0)
