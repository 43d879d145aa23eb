"""SwAV's online clustering (Caron et al. 2020, arXiv 2006.09882): codes, and their prediction.

    codes = sinkhorn(scores)     q maximises <q, scores> + epsilon H(q) with equally full prototypes
    L = -1/C sum_c 1/(V - 1) sum_{v != c} mean_n sum_k q_c[n, k] log softmax(scores_v / tau)[n, k]

the swapped prediction of its equations 1, 2 and (multi-crop, V > C) 4. Scores are inner products of
normalised embeddings with K normalised prototypes; only the C first views have codes. Shapes: n own
rows, K prototypes, W ranks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import checks
from ssgear.kernels.checks import compute_dtype
from ssgear.kernels.nt_xent.rows import gather_rows


@torch.no_grad()
def sinkhorn(
    scores: Tensor,
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Return the codes of rows, float32 [n, K] (float64 where scores are), without a gradient.

    Q = diag(1 / b) exp(scores / epsilon) diag(1 / a): each iteration brings the mass of every
    prototype over the rows of all ranks to 1 / K of the whole, then every row's to 1. So rows sum
    to 1 in the end, and prototypes are as equally full as the iterations made them. The first
    iteration is made of logarithms, so scores of any size neither overflow nor vanish; after it
    every row sums to 1 and every prototype to at least 1 / K, and the others need no exponentials.

    Args:
        scores: Inner products [n, K] of embeddings with prototypes.
        epsilon: Weight of the entropy, > 0; smaller makes codes harder.
        iterations: How many times both marginals are brought right.
        group: Process group whose rows belong together, any number on each rank; K numbers of every
            rank are exchanged in an iteration.
    """
    checks.check_matrix("sinkhorn", "scores are", scores, "[rows, prototypes]")
    checks.check_positive("sinkhorn", "epsilon", epsilon)
    if not isinstance(iterations, int) or iterations < 1:
        raise ArgumentError(f"sinkhorn: iterations={checks.shown(iterations)}; use at least 1")
    alone = checks.world_size_of(group, "sinkhorn") == 1
    with torch.autocast(scores.device.type, enabled=False):
        logits_nK = scores.to(compute_dtype(scores)) / epsilon
        a_1K = logits_nK.logsumexp(0, keepdim=True)
        if not alone and group is not None:
            a_1K = gather_rows(a_1K, group).logsumexp(0, keepdim=True)
        codes_nK = (logits_nK - a_1K).softmax(1)
        for _ in range(iterations - 1):
            full_1K = codes_nK.sum(0, keepdim=True)
            if not alone and group is not None:
                full_1K = gather_rows(full_1K, group).sum(0, keepdim=True)
            codes_nK /= full_1K
            codes_nK /= codes_nK.sum(1, keepdim=True)
        return codes_nK


def swav(scores: Sequence[Tensor], codes: Sequence[Tensor], *, temperature: float = 0.1) -> Tensor:
    """Return the loss of predicting each view's code from every other view, a float32 scalar.

    Computed in float32 (float64 where scores are), under autocast too. The mean over rows is over
    those given: the mean of values and gradients over ranks is that of the global batch.

    Args:
        scores: One [n, K] for each of V >= 2 views, those that have codes first.
        codes: One [n, K] for each of the C first views, rows that sum to 1 (`sinkhorn`).
        temperature: tau > 0.
    """
    _check_views(scores, codes)
    checks.check_positive("swav", "temperature", temperature)
    with torch.autocast(scores[0].device.type, enabled=False):
        dtype = compute_dtype(scores[0])
        fixed = [code_nK.detach().to(dtype) for code_nK in codes]
        whole_nK = torch.stack(fixed).sum(0)
        loss = torch.zeros((), dtype=dtype, device=scores[0].device)
        for view, scores_nK in enumerate(scores):
            # all codes but the view's own are predicted from it: one softmax a view
            wanted_nK = whole_nK - fixed[view] if view < len(fixed) else whole_nK
            logs_nK = (scores_nK.to(dtype) / temperature).log_softmax(1)
            loss = loss - (wanted_nK * logs_nK).sum(1).mean()
        return (loss / (len(codes) * (len(scores) - 1))).float()


def _check_views(scores: Sequence[Tensor], codes: Sequence[Tensor]) -> None:
    for what, given in (("scores", scores), ("codes", codes)):
        if isinstance(given, Tensor) or not isinstance(given, Sequence):
            raise ArgumentError(
                f"swav: {what} are {checks.shaped(given)}; give a list of one tensor for each view"
            )
    if len(scores) < 2:
        raise ArgumentError(
            f"swav: {len(scores)} view; a code is predicted from another view, so use 2 or more"
        )
    if not 1 <= len(codes) <= len(scores):
        raise ArgumentError(
            f"swav: {len(codes)} codes for {len(scores)} views; give those of the first views"
        )
    first = scores[0]
    checks.check_matrix("swav", "scores[0] is", first, "[rows, prototypes]")
    for what, tensors in (("scores", scores), ("codes", codes)):
        for number, tensor in enumerate(tensors):
            if not checks.is_float_tensor(tensor) or tensor.shape != first.shape:
                raise ArgumentError(
                    f"swav: {what}[{number}] is {checks.shaped(tensor)}; all are floating-point "
                    f"[rows, prototypes], as scores[0] {list(first.shape)}"
                )
            checks.check_same_device("swav", f"{what}[{number}]", tensor, "scores[0]", first)
