"""k nearest neighbors of features: cosine, weights exp(s / T) (Wu et al. 2018, 1805.01978).

Features of two numbers are places on a map, whose directions mean nothing: their similarity is
1 - d^2 / 2, as cosine is for unit vectors, with d the distance in units of the map's radius.

The bank is read in blocks, once for every 256 MB of queries, so that it need not fit in memory.
Legend: Q queries, N rows of the bank, B rows of a block, F features, C classes, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.features.rows import Rows
from ssgear.evaluation.probes.checks import finite_blocks

QUERY_BYTES = 256 << 20
"""Features of queries that are held at a time."""
MOST_QUERIES = 16384
"""Queries that are held at a time."""
SIMILARITIES = 1 << 25
"""Similarities that are held at a time: 128 MB; a product of half as many is slower by a fifth."""
GROUP = 8
"""Columns whose maximum is compared first."""
VOTES = 1 << 24
"""Votes (queries x classes) that are held at a time: 64 MB."""
SMALLEST, TINY = 1e-16, 2.0**-126
"""Norm below which squares lose digits in float32, and what a row of zeros is divided by."""

Prepare = Callable[[Tensor], Tensor]
Similar = Callable[[Tensor, Tensor, Tensor], None]


def nearest(
    queries: Rows, bank: Rows, k: int, *, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return similarities and bank rows [Q, k] of the k nearest, the nearest first.

    Args:
        queries: Features [Q, F].
        bank: Features [N, F].
        k: Neighbors; at most N are returned.
        device: Where similarities are computed; by default where the bank is.

    Raises:
        ArgumentError: the shapes do not fit.
        DataError: a feature is NaN or infinite.
    """
    parts = list(_searches(queries, bank, min(k, len(bank)), device))
    return torch.cat([values for values, _ in parts]), torch.cat([rows for _, rows in parts])


def knn_predictions(
    train: Rows,
    train_labels: Tensor,
    test: Rows,
    *,
    ks: Sequence[int] = (20, 200),
    temperature: float = 0.07,
    device: torch.device | None = None,
) -> dict[int, Tensor]:
    """Return the predicted class of every test row [Q] int64 on the CPU, by k; one search for all.

    A neighbor with similarity s votes for its label with weight exp(s / temperature).

    Args:
        train: Features [N, F] of the bank.
        train_labels: int64 [N] from 0.
        test: Features [Q, F].
        ks: Numbers of neighbors.
        temperature: T, > 0.
        device: Where similarities are computed; by default where the bank is.

    Raises:
        ArgumentError: shapes do not fit, or k or the temperature is not positive.
        DataError: k exceeds the size of the bank, or a feature is NaN or infinite.
    """
    if not ks or min(ks) < 1 or temperature <= 0:
        raise ArgumentError(
            f"kNN: k and temperature must be positive (got k={', '.join(map(str, ks))}, "
            f"temperature={temperature})"
        )
    if len(train_labels) == 0 or len(train_labels) != len(train):
        raise ArgumentError(f"kNN: {len(train)} train features and {len(train_labels)} labels")
    for k in ks:
        check_k(k, len(train))
    predicted: dict[int, list[Tensor]] = {k: [] for k in ks}
    classes = int(train_labels.max()) + 1
    for similarity, rows in _searches(test, train, max(ks), device):
        labels = train_labels.to(rows.device)[rows]
        # s - 1 <= 0: the largest weight is 1, and the vote does not change
        weights = ((similarity - 1) / temperature).exp()
        for k, parts in predicted.items():
            parts.append(_voted(labels[:, :k], weights[:, :k], classes))
    return {k: torch.cat(parts) for k, parts in predicted.items()}


def knn_accuracy(
    train_features: Rows,
    train_labels: Tensor,
    test_features: Rows,
    test_labels: Tensor,
    *,
    k: int = 200,
    temperature: float = 0.07,
) -> float:
    """Return the share of test rows whose weighted vote of k neighbors is right, in [0, 1].

    The weighted kNN classifier of Wu et al. (2018, arXiv 1805.01978). Similarities are cosines; a
    neighbor with similarity s votes for its label with weight exp(s / temperature).

    Args:
        train_features: Bank [N, F] of any floating type; similarities are float32.
        train_labels: int64 [N] from 0.
        test_features: Queries [M, F].
        test_labels: int64 [M].
        k: Neighbors that vote; a k above N is reduced to N.
        temperature: T, > 0.

    Raises:
        ArgumentError: shapes do not fit, there are no labels, or k or the temperature is not
            positive.
        DataError: a feature is NaN or infinite.
    """
    if k < 1 or temperature <= 0:
        raise ArgumentError(f"knn_accuracy: k={k}, temperature={temperature}; both are positive")
    if len(test_labels) == 0 or len(train_labels) == 0:
        raise ArgumentError("knn_accuracy: there are no labelled rows")
    num_test = len(test_features)
    if len(test_labels) != num_test:
        raise ArgumentError(f"knn_accuracy: {num_test} test features and {len(test_labels)} labels")
    k = min(k, len(train_labels))
    predicted = knn_predictions(
        train_features, train_labels, test_features, ks=(k,), temperature=temperature
    )
    return float((predicted[k] == test_labels.cpu()).double().mean())


def check_k(k: int, num_train: int) -> None:
    """Raise DataError if there are fewer training images than neighbors."""
    if k > num_train:
        raise DataError(
            f"kNN with k = {k} needs at least {k} labelled training images (got {num_train}); "
            "use more images or a smaller k"
        )


def _voted(labels_Qk: Tensor, weights_Qk: Tensor, classes: int) -> Tensor:
    parts = []
    size = max(1, VOTES // classes)
    for start in range(0, len(labels_Qk), size):
        rows = slice(start, start + size)
        votes = torch.zeros(len(labels_Qk[rows]), classes, device=labels_Qk.device)
        votes.scatter_add_(1, labels_Qk[rows], weights_Qk[rows])
        parts.append(votes.argmax(1).cpu())
    return torch.cat(parts)


def _searches(
    queries: Rows, bank: Rows, k: int, device: torch.device | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield similarities and rows [q, k] of groups of queries, the nearest first."""
    if len(queries.shape) != 2 or len(bank.shape) != 2 or queries.shape[1] != bank.shape[1]:
        raise ArgumentError(
            f"nearest: features of shape {tuple(queries.shape)} and {tuple(bank.shape)}; both are "
            "[rows, width] with one width"
        )
    device = device or (bank.device if isinstance(bank, Tensor) else torch.device("cpu"))
    prepare, similar = _map(bank, device) if bank.shape[1] == 2 else (_unit, _cosine)
    size = min(MOST_QUERIES, max(1, QUERY_BYTES // (4 * bank.shape[1])))
    for _, group in finite_blocks(queries, "test", size=size, device=device):
        yield _search(prepare(group), bank, k, device, prepare, similar)


def _search(
    queries_QF: Tensor,
    bank: Rows,
    k: int,
    device: torch.device,
    prepare: Prepare,
    similar: Similar,
) -> tuple[Tensor, Tensor]:
    values = queries_QF.new_empty(len(queries_QF), 0)
    rows = torch.empty(len(queries_QF), 0, dtype=torch.int64, device=device)
    for start, block in finite_blocks(bank, "train", device=device):
        block = prepare(block)
        num_groups = -(-len(block) // GROUP)
        size = max(1, SIMILARITIES // (num_groups * GROUP))
        # one buffer: pages that are new for every product cost more than the product of a row
        buffer = queries_QF.new_empty(min(size, len(queries_QF)), num_groups * GROUP)
        parts = []
        for first in range(0, len(queries_QF), size):
            chunk = queries_QF[first : first + size]
            similarity_qB = buffer[: len(chunk)]
            similar(chunk, block, similarity_qB[:, : len(block)])
            similarity_qB[:, len(block) :] = -torch.inf
            best = values[first : first + size], rows[first : first + size]
            parts.append(_merged(*best, similarity_qB, start, k))
        values = torch.cat([part[0] for part in parts])
        rows = torch.cat([part[1] for part in parts])
    values, order = values.sort(dim=1, descending=True, stable=True)
    return values, rows.gather(1, order)


def _merged(
    values_qk: Tensor, rows_qk: Tensor, similarity_qB: Tensor, start: int, k: int
) -> tuple[Tensor, Tensor]:
    """Return the k best of the best so far and a block, unsorted; the block starts at row `start`.

    The k best columns lie in the k groups of largest maximum, and of later blocks only groups above
    the k-th best so far matter: a sort of all columns costs twice as much.
    """
    num_groups = similarity_qB.shape[1] // GROUP
    maxima_qG = similarity_qB.view(-1, GROUP, num_groups).amax(1)
    count = min(k, num_groups)
    if values_qk.shape[1] == k:
        count = min(count, int((maxima_qG > values_qk.amin(1, True)).sum(1).max()))
        if count == 0:
            return values_qk, rows_qk
    groups = maxima_qG.topk(count, dim=1, sorted=False).indices
    steps = torch.arange(0, GROUP * num_groups, num_groups, device=groups.device)
    columns = (groups[:, None] + steps[:, None]).flatten(1)
    values = torch.cat([values_qk, similarity_qB.gather(1, columns)], 1)
    rows = torch.cat([rows_qk, columns + start], 1)
    values, order = values.topk(min(k, values.shape[1]), dim=1, sorted=False)
    return values, rows.gather(1, order)


def _unit(features: Tensor) -> Tensor:
    features = features.detach()
    norms = features.norm(dim=1, keepdim=True)
    if bool(((norms < SMALLEST) | norms.isinf()).any()):  # squares beyond the range of float32
        features = features / features.abs().amax(1, keepdim=True).clamp_min(TINY)
        norms = features.norm(dim=1, keepdim=True)
    unit: Tensor = features / norms.clamp_min(TINY)
    return unit


def _cosine(queries_qF: Tensor, bank_BF: Tensor, out_qB: Tensor) -> None:
    torch.mm(queries_qF, bank_BF.T, out=out_qB)


def _map(bank: Rows, device: torch.device) -> tuple[Prepare, Similar]:
    middle = torch.zeros(2, dtype=torch.float64, device=device)
    for _, block in finite_blocks(bank, "train", device=device):
        middle += block.double().sum(0) / len(bank)
    square = torch.zeros((), dtype=torch.float64, device=device)
    for _, block in finite_blocks(bank, "train", device=device):
        square += (block.double() - middle).square().sum() / len(bank)
    radius = square.sqrt().clamp_min(1e-300)

    def prepare(features: Tensor) -> Tensor:
        return ((features.detach().double() - middle) / radius).float()

    def similar(queries: Tensor, block: Tensor, out: Tensor) -> None:
        # exact differences: by products, points that lie close are apart by rounding
        exact = "donot_use_mm_for_euclid_dist"
        out.copy_(1 - torch.cdist(queries, block, compute_mode=exact).square() / 2)

    return prepare, similar
