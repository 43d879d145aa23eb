"""Streaming InfoNCE: O((n + M) D) memory and an exact backward, by the walks of NT-Xent.

    lse_i = log sum_j exp(s_ij)        s_ij = <q_i, c_j> / tau,  c the candidates of row i
    dL/dq_i = 1/(M tau) (sum_j P_ij c_j - k_i)        P_ij = exp(s_ij - lse_i)
    dL/dk_j = 1/(M tau) (sum_i P_ij q_i - q_j)

`log_sum_exp` and `weighted_rows` (tiles.py, csrc/nt_xent.cpp) make tiles of s between own
rows and columns, leave out a row's similarity with itself, and weigh a tile by P_ij + P_ji. Here
rows and columns are different things: with `first` past the last column nothing is left out, and
with the lse of one side infinite its half of the weights is zero.
Shapes: n own rows, M rows of all W ranks, K rows of a queue, C candidates (K or M), D the width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssgear.kernels import transforms
from ssgear.kernels.checks import compute_dtype
from ssgear.kernels.nt_xent.rows import check_equal_rows, gather_rows
from ssgear.kernels.nt_xent.streaming import Settings, checked, group_named, is_bounded, parts_of
from ssgear.kernels.transforms import Context


@torch.library.custom_op("ssgear::info_nce_forward", mutates_args=())
def info_nce_forward(
    q_nD: Tensor,
    k_nD: Tensor,
    queue_KD: Tensor | None,
    tau: Tensor,
    normalize: bool,
    bounded: bool,
    group_name: str,
    world_size: int,
    rank: int,
    tiles: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, lse of all ranks' rows, and with a group their q and k [2, M, D], scaled.

    If anything in any row is not finite, loss and lse are NaN.
    """
    with torch.autocast(q_nD.device.type, enabled=False):
        tau, parts = checked(tau), parts_of(tiles)
        u_nD, v_nD = (parts.scaled_rows(rows, tau, normalize)[0] for rows in (q_nD, k_nD))
        gathered = u_nD.new_empty(2, 0, u_nD.shape[1])
        candidates = [u_nD, v_nD]
        if queue_KD is not None:
            candidates.append(parts.scaled_rows(queue_KD, tau, normalize)[0])
        elif group_name:
            group = group_named(group_name)
            check_equal_rows(q_nD, False, group, "info_nce")
            both_M2D = gather_rows(torch.stack((u_nD, v_nD), 1), group)
            gathered = both_M2D.transpose(0, 1).contiguous()
            candidates = [gathered[0], gathered[1]]
        c_CD = candidates[-1]
        lse_n = parts.log_sum_exp(u_nD, c_CD, len(c_CD), is_bounded(tau, normalize, bounded))
        positive_n = (u_nD * v_nD).sum(1).double()
        if queue_KD is not None:  # the positive is none of the queue's rows
            lse_n = lse_n.logaddexp(positive_n)
        visible = torch.stack([parts.zero_or_nan(rows) for rows in candidates]).sum()
        loss = (lse_n - positive_n).mean().to(u_nD.dtype) + visible
        lse_n = lse_n + visible
        if gathered.numel():
            lse_n = gather_rows(lse_n, group_named(group_name))
        return loss, lse_n, gathered


@info_nce_forward.register_fake
def _(
    q_nD: Tensor, _: Tensor, queue_KD: Tensor | None, __: Tensor, *settings: *Settings
) -> tuple[Tensor, Tensor, Tensor]:
    group_name, world_size = settings[2:4]
    dtype, gathers = compute_dtype(q_nD), bool(group_name) and queue_KD is None
    rows = q_nD.shape[0] * (world_size if gathers else 1)
    return (
        q_nD.new_empty((), dtype=dtype),
        q_nD.new_empty(rows, dtype=torch.float64),
        q_nD.new_empty(2, rows if gathers else 0, q_nD.shape[1], dtype=dtype),
    )


@torch.library.custom_op("ssgear::info_nce_backward", mutates_args=())
def info_nce_backward(
    grad: Tensor,
    q_nD: Tensor,
    k_nD: Tensor,
    queue_KD: Tensor | None,
    tau: Tensor,
    lse_M: Tensor,
    gathered_2MD: Tensor,
    for_k: bool,
    normalize: bool,
    bounded: bool,
    rank: int,
    tiles: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of q, k and tau, times `grad` and the number of ranks.

    The gradient of k is empty unless it is asked for.
    """
    with torch.autocast(q_nD.device.type, enabled=False):
        tau, parts = checked(tau), parts_of(tiles)
        no_maximum = is_bounded(tau, normalize, bounded)
        u_nD, *u_scales = parts.scaled_rows(q_nD, tau, normalize)
        v_nD, *v_scales = parts.scaled_rows(k_nD, tau, normalize)
        own = slice(rank * len(u_nD), (rank + 1) * len(u_nD)) if len(gathered_2MD[0]) else ...
        lse_n, scale = lse_M[own], grad / len(u_nD)
        u_MD, v_MD = (u_nD, v_nD) if own is ... else gathered_2MD
        c_CD = v_MD if queue_KD is None else parts.scaled_rows(queue_KD, tau, normalize)[0]
        lse = torch.cat((lse_M.new_full(c_CD.shape[:1], math.inf), lse_n))
        grad_u = parts.weighted_rows(u_nD, c_CD, lse, len(c_CD), no_maximum)
        # P_ii - 1 where the positive stands beside the queue, else only the - 1 is missing
        positive_n = (u_nD * v_nD).sum(1).double()
        drawn_n1 = torch.expm1(positive_n - lse_n).to(u_nD.dtype)[:, None]
        drawn_n1 = -torch.ones_like(drawn_n1) if queue_KD is None else drawn_n1
        grad_u.addcmul_(drawn_n1, v_nD).mul_(scale)
        slope_n1 = parts.gradient_of_rows(grad_u, u_nD, tau, *u_scales)
        grad_tau = -slope_n1.sum(dtype=torch.float64) / tau
        grad_k = q_nD.new_empty(0, q_nD.shape[1])
        if for_k:
            grad_v = torch.zeros_like(v_nD)
            if queue_KD is None:
                nothing_n = lse_n.new_full(lse_n.shape, math.inf)
                lse = torch.cat((lse_M, nothing_n))
                grad_v = parts.weighted_rows(v_nD, u_MD, lse, len(u_MD), no_maximum)
            grad_v.addcmul_(drawn_n1, u_nD).mul_(scale)
            parts.gradient_of_rows(grad_v, v_nD, tau, *v_scales)
            grad_k = grad_v.to(k_nD.dtype).contiguous()
        return grad_u.to(q_nD.dtype).contiguous(), grad_k, grad_tau.to(tau.dtype)


@info_nce_backward.register_fake
def _(
    _: Tensor, q_nD: Tensor, k_nD: Tensor, __: Tensor | None, tau: Tensor, *others: Tensor | bool
) -> tuple[Tensor, Tensor, Tensor]:
    for_k = others[2]
    shape_of_k = k_nD.shape if for_k else (0, q_nD.shape[1])
    return q_nD.new_empty(q_nD.shape), k_nD.new_empty(shape_of_k), tau.new_empty(())


Kept = Context[tuple[bool, bool, int, str]]


def _keep(
    ctx: Kept,
    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor, *Settings],
    output: tuple[Tensor, Tensor, Tensor],
) -> None:
    q_nD, k_nD, queue_KD, tau, normalize, bounded, _, _, rank, tiles = inputs
    _, lse_M, gathered_2MD = output
    ctx.save_for_backward(q_nD, k_nD, queue_KD, tau, lse_M, gathered_2MD)
    ctx.settings = (normalize, bounded, rank, tiles)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Kept, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 10
    for_k = bool(ctx.needs_input_grad[1])
    grads = info_nce_backward(grad, *ctx.saved_tensors, for_k, *ctx.settings)
    return grads[0], grads[1] if for_k else None, None, grads[2], *(None,) * 6


info_nce_forward.register_autograd(_differentiate, setup_context=_keep)
info_nce_backward.register_autograd(transforms.no_second_derivative("info_nce"))
