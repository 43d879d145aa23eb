"""InfoNCE between anchors and candidates of their own (van den Oord et al. 2018, arXiv 1807.03748).

    L = -1/n sum_i log( exp(s_i+) / sum_{c in C_i} exp(s_ic) ),      s_ic = <q_i, c> / tau

With a queue the candidates of row i are its positive k_i and the queue's rows (MoCo, He et al.
2020, 1911.05722, equation 1); without one they are the k of all rows of all ranks (MoCo v3, Chen et
al. 2021, 2104.02057, algorithm 1; NNCLR, Dwibedi et al. 2021, 2104.14548, equation 3). Anchors are
never candidates themselves; NT-Xent (loss.py) is the form in which all rows are both.
`reference` is the formula as it stands; `streaming` and `cpp` (info_nce_streaming.py) walk over
tiles of s by NT-Xent's own walks and never hold n x C numbers. A GPU takes `streaming`.
Shapes: n own rows, K rows of the queue, D the width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import checks
from ssgear.kernels.checks import compute_dtype
from ssgear.kernels.forms import Form, always_available, choose, cpp_unavailable_reason
from ssgear.kernels.nt_xent.info_nce_streaming import info_nce_forward
from ssgear.kernels.nt_xent.rows import (
    check_equal_rows,
    gather_with_gradient,
    on_all_ranks,
    unit_rows,
    zero_or_nan,
)
from ssgear.kernels.nt_xent.streaming import by_operator, checked, is_certainly_bounded

InfoNCEImplementation = Literal["auto", "reference", "streaming", "cpp"]
WHERE = "info_nce"


def info_nce(
    q: Tensor,
    k: Tensor,
    queue: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.2,
    normalize: bool = True,
    group: dist.ProcessGroup | None = None,
    impl: InfoNCEImplementation = "auto",
) -> Tensor:
    """Return the InfoNCE loss, a float32 scalar; gradients have the type of their input.

    Everything is computed in float32 (float64 where q is), under autocast too. NaN or an infinity
    in any row makes the loss NaN. Both q and k get gradients where they ask for them: detach what
    a momentum encoder made. The queue gets none.

    Args:
        q: Anchors [n, D].
        k: Positives [n, D]; row i belongs to row i of q.
        queue: Negatives [K, D]; without them, the other rows of k are the negatives.
        temperature: tau > 0, as in `nt_xent`: a number, or a 0-d tensor that gets its gradient.
        normalize: Bring all rows to length 1 first. A zero row stays zero, with a zero gradient.
        group: Process group whose ranks bring equally many rows: without a queue, k of all ranks
            are candidates. Gradients are the global loss's times the number of ranks, for a wrapper
            that takes their mean. With a queue no rank needs another, and it is not used.
        impl: reference, streaming, cpp (on a CPU, where it was built), or auto, the fastest that
            can work on q. Only reference can be differentiated twice, forward, or under torch.func.
    """
    world_size = checks.world_size_of(group, WHERE)
    ranks = group if world_size > 1 and queue is None else None

    def prepare() -> tuple[Callable[..., Tensor], Tensor, Tensor | None]:
        _check_rows(q, k, queue)
        checks.check_temperature(temperature, WHERE)
        checks.check_normalize(normalize, WHERE)
        tau = checks.tensor_temperature(temperature, q, WHERE)
        run = choose(WHERE, impl, FORMS, q, (q, k, queue, tau)).run
        return run, tau, None if queue is None else queue.detach().to(compute_dtype(q))

    run, tau, queue_KD = on_all_ranks(prepare, ranks, WHERE)
    bounded = normalize and is_certainly_bounded(temperature)
    return run(q, k, queue_KD, tau, normalize=normalize, bounded=bounded, group=ranks).float()


def _reference(
    q_nD: Tensor,
    k_nD: Tensor,
    queue_KD: Tensor | None,
    tau: Tensor,
    *,
    normalize: bool,
    bounded: bool,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """The equation line by line, in O(n C) memory; can be differentiated twice."""
    with torch.autocast(q_nD.device.type, enabled=False):
        wide = compute_dtype(q_nD)
        rows = [each.to(wide) for each in (q_nD, k_nD, queue_KD) if each is not None]
        q_nD, k_nD, *queued = [unit_rows(each)[0] if normalize else each for each in rows]
        tau = checked(tau)
        positive_n = (q_nD * k_nD).sum(1) / tau
        everything = [q_nD, k_nD, *queued]
        if queued:
            s_nC = torch.cat((positive_n[:, None], q_nD @ queued[0].T / tau), 1)
        else:
            if group is not None:
                check_equal_rows(q_nD, False, group, WHERE)
                everything = [gather_with_gradient(each, group) for each in (q_nD, k_nD)]
            s_nC = q_nD @ everything[1].T / tau
        visible = 1 + torch.stack([zero_or_nan(each) for each in everything]).sum()
        # a factor, so that gradients show it too
        return (visible + 0 * tau.detach()) * (s_nC.logsumexp(1) - positive_n).mean()


FORMS: tuple[Form[Tensor, Callable[..., Tensor]], ...] = (
    Form("cpp", cpp_unavailable_reason, by_operator(info_nce_forward, "cpp")),
    Form("streaming", always_available, by_operator(info_nce_forward, "torch")),
    Form("reference", always_available, _reference),
)
"""The fastest first."""


def _check_rows(q: Tensor, k: Tensor, queue: Tensor | None) -> None:
    given = {"q": q, "k": k} | ({} if queue is None else {"queue": queue})
    checks.check_floats(WHERE, **given)
    for name, rows in given.items():
        if rows.ndim != 2 or 0 in rows.shape:
            raise ArgumentError(
                f"{WHERE}: {name} has shape {list(rows.shape)}; use [rows, width], at least one row"
            )
    if q.shape != k.shape or compute_dtype(q) != compute_dtype(k):
        raise ArgumentError(
            f"{WHERE}: q is {q.dtype} {list(q.shape)} and k {k.dtype} {list(k.shape)}; "
            "row i of k must be the positive of row i of q, both float64 or neither"
        )
    if queue is not None and queue.shape[1] != q.shape[1]:
        raise ArgumentError(
            f"{WHERE}: queue has shape {list(queue.shape)}; use [rows, {q.shape[1]}], as wide as q"
        )
    for name, rows in given.items():
        checks.check_same_device(WHERE, name, rows, "q", q)
