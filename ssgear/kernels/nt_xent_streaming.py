"""Streaming NT-Xent (MATH.md 1): O(M D) memory, an exact hand-written backward, as two operators.

Tiles of the similarity matrix s are made, used and overwritten; from forward to backward only the
vector lse is kept (with a group, the gathered rows too). Rows are worked on as u = z / sqrt(tau):
s is u u^T, symmetric to the last bit. In one process a tile above the diagonal serves its rows and
its columns, in both directions; with a group, own rows face all rows.
Shapes: R own rows, M rows of all W ranks (R = M in one process), D the width, I x J a tile of s.
Autocast and torch.compile do not look inside; the backward has no derivative of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ssgear.kernels.rows import check_equal_rows, compute_dtype, gather_rows, unit_rows

BOUNDED_ABOVE = 0.025
"""Temperature above which unit rows need no running maximum: |s| <= 40."""
GPU_BLOCK = 4096
"""Side of a tile on a GPU, enough work for one launch."""


class Positives(NamedTuple):
    """What the anchors are drawn to."""

    mean_RD: Tensor
    """Mean of the positives of each own row; zero where there is none."""
    anchor_R: Tensor
    """Whether an own row has a positive."""
    num_anchors: Tensor
    """Rows of all ranks that have one; at least 1."""


def streaming_nt_xent(
    z_RD: Tensor,
    tau: Tensor,
    *,
    bounded: bool,
    ids_R: Tensor | None,
    normalize: bool,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """Return the loss in the type that it is computed in.

    `bounded` promises |s| <= 1 / BOUNDED_ABOVE; where looking at tau costs nothing, we look.
    """
    world_size = 1 if group is None else dist.get_world_size(group)
    rank = 0 if group is None else dist.get_rank(group)
    name = "" if group is None else str(group.group_name)
    outputs: tuple[Tensor, ...] = nt_xent_forward(
        z_RD, tau, ids_R, normalize, bounded, name, world_size, rank
    )
    return outputs[0]


@torch.library.custom_op("ssgear::nt_xent_forward", mutates_args=())
def nt_xent_forward(
    z_RD: Tensor,
    tau: Tensor,
    ids_R: Tensor | None,
    normalize: bool,
    bounded: bool,
    group_name: str,
    world_size: int,
    rank: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, lse_M (infinite where a row is no anchor), and the gathered rows and ids."""
    with torch.autocast(z_RD.device.type, enabled=False):
        tau = _checked(tau)
        u_RD = z_RD.to(compute_dtype(z_RD))
        u_RD = (unit_rows(u_RD)[0] if normalize else u_RD) * tau.rsqrt()
        u_MD, ids_M, group = u_RD, ids_R, None
        if group_name:
            group = _group_named(group_name)
            check_equal_rows(z_RD, ids_R is not None, group)
            u_MD = gather_rows(u_RD, group)
            ids_M = None if ids_R is None else gather_rows(ids_R, group)
        first = rank * u_RD.shape[0]
        lse_R = _log_sum_exp(u_RD, u_MD, first, _is_bounded(tau, normalize, bounded))
        positives = _positives(u_RD, u_MD, ids_M, first)
        drawn_R = (u_RD * positives.mean_RD).sum(1, dtype=torch.float64)
        terms_R = torch.where(positives.anchor_R, lse_R - drawn_R, 0.0)
        loss = (world_size * terms_R.sum() / positives.num_anchors).to(u_RD.dtype)
        lse_R = lse_R.masked_fill(~positives.anchor_R, math.inf)
        if group is None:
            return loss, lse_R, u_RD.new_empty(0, u_RD.shape[1]), lse_R.new_empty(0).long()
        kept_M = lse_R.new_empty(0).long() if ids_M is None else ids_M
        return loss, gather_rows(lse_R, group), u_MD, kept_M


@nt_xent_forward.register_fake
def _(
    z_RD: Tensor,
    tau: Tensor,
    ids_R: Tensor | None,
    normalize: bool,
    bounded: bool,
    group_name: str,
    world_size: int,
    rank: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = compute_dtype(z_RD)
    num_kept = z_RD.shape[0] * world_size if group_name else 0
    return (
        z_RD.new_empty((), dtype=dtype),
        z_RD.new_empty(z_RD.shape[0] * world_size, dtype=torch.float64),
        z_RD.new_empty(num_kept, z_RD.shape[1], dtype=dtype),
        z_RD.new_empty(0 if ids_R is None else num_kept, dtype=torch.int64),
    )


@torch.library.custom_op("ssgear::nt_xent_backward", mutates_args=())
def nt_xent_backward(
    grad: Tensor,
    z_RD: Tensor,
    tau: Tensor,
    ids_M: Tensor | None,
    lse_M: Tensor,
    u_MD: Tensor | None,
    normalize: bool,
    bounded: bool,
    world_size: int,
    rank: int,
) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to z and tau, times `grad` and the number of ranks."""
    with torch.autocast(z_RD.device.type, enabled=False):
        tau = _checked(tau)
        unit_RD = z_RD.to(compute_dtype(z_RD))
        unit_RD, scale_R1, norm_R1 = unit_rows(unit_RD) if normalize else (unit_RD, None, None)
        u_RD = unit_RD * tau.rsqrt()
        u_MD = u_RD if u_MD is None else u_MD
        first = rank * u_RD.shape[0]
        is_bounded = _is_bounded(tau, normalize, bounded)
        grad_RD = _weighted_rows(u_RD, u_MD, lse_M, first, is_bounded)
        positives = _positives(u_RD, u_MD, ids_M, first)
        grad_RD.sub_(positives.mean_RD, alpha=2)
        # here, while entries are near 1: a scaled loss keeps float16 gradients from underflow
        grad_RD.mul_(grad * world_size / positives.num_anchors)
        grad_tau = -(u_RD * grad_RD).sum(dtype=torch.float64) / (2 * tau)
        grad_RD.mul_(tau.rsqrt())
        if scale_R1 is not None and norm_R1 is not None:
            grad_RD.sub_((grad_RD * unit_RD).sum(1, keepdim=True) * unit_RD)
            grad_RD.div_(norm_R1).div_(scale_R1)
        return grad_RD.to(z_RD.dtype), grad_tau.to(tau.dtype)


@nt_xent_backward.register_fake
def _(
    grad: Tensor,
    z_RD: Tensor,
    tau: Tensor,
    ids_M: Tensor | None,
    lse_M: Tensor,
    u_MD: Tensor | None,
    normalize: bool,
    bounded: bool,
    world_size: int,
    rank: int,
) -> tuple[Tensor, Tensor]:
    return z_RD.new_empty(z_RD.shape), tau.new_empty(())


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z_RD, tau, ids_R, normalize, bounded, group_name, world_size, rank = inputs
    _, lse_M, u_MD, gathered_M = output
    ids_M = gathered_M if group_name and ids_R is not None else ids_R
    ctx.save_for_backward(z_RD, tau, ids_M, lse_M, u_MD if group_name else None)
    ctx.settings = (normalize, bounded, world_size, rank)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    return (*nt_xent_backward(grad, *ctx.saved_tensors, *ctx.settings), *(None,) * 6)


nt_xent_forward.register_autograd(_differentiate, setup_context=_keep)


def _group_named(name: str) -> dist.ProcessGroup:
    """Return the group that an operator was called with; operators take no objects."""
    import torch.distributed.distributed_c10d as c10d

    group: dist.ProcessGroup = vars(c10d)["_resolve_process_group"](name)
    return group


def _checked(tau: Tensor) -> Tensor:
    """Make a temperature that is none into NaN, on the device."""
    return torch.where((tau > 0) & tau.isfinite(), tau, math.nan)


def _is_bounded(tau: Tensor, normalize: bool, promised: bool) -> bool:
    """Return whether |s| <= 1 / BOUNDED_ABOVE is certain; a value on a GPU is not looked at."""
    return promised or (normalize and tau.device.type == "cpu" and tau.item() > BOUNDED_ABOVE)


def _positives(u_RD: Tensor, u_MD: Tensor, ids_M: Tensor | None, first: int) -> Positives:
    """Return the mean positive of each own row (MATH.md 1, general positives), in O(M D)."""
    num_rows = u_RD.shape[0]
    if ids_M is None:  # two views stacked: the other view of the same image stands on this rank too
        everyone_R = torch.ones(num_rows, dtype=torch.bool, device=u_RD.device)
        num_anchors = torch.full((), u_MD.shape[0], device=u_RD.device)
        return Positives(u_RD.roll(num_rows // 2, 0), everyone_R, num_anchors)
    own = slice(first, first + num_rows)
    sorted_M = ids_M.sort().values
    class_M = torch.searchsorted(sorted_M, ids_M)
    others_M = torch.searchsorted(sorted_M, ids_M, right=True) - class_M - 1
    # in float64 a row's own part leaves no trace, however short its positives are
    sum_MD = torch.zeros_like(u_MD, dtype=torch.float64).index_add_(0, class_M, u_MD.double())
    mean_RD = (sum_MD[class_M[own]] - u_RD).div_(others_M[own, None].clamp_min(1)).to(u_RD.dtype)
    return Positives(mean_RD, others_M[own] > 0, (others_M > 0).sum().clamp_min(1))


def _tiles(
    u_RD: Tensor, u_MD: Tensor, first: int
) -> Iterator[tuple[slice, slice, Tensor, Tensor, bool]]:
    """Walk over s: yield rows, columns, s_IJ, a spare of its shape, and whether s_JI is left out.

    Self-similarities are -inf: row i of `u_RD` is row `first + i` of `u_MD`. Where both are one
    tensor only the upper triangle is walked. Both tiles are overwritten by the next step.
    """
    block = _block(u_RD.device)
    symmetric = u_RD is u_MD
    tile_shape = (2, min(block, u_RD.shape[0]) * min(block, u_MD.shape[0]))
    tile, spare = u_RD.new_empty(tile_shape).unbind()
    for top in range(0, u_RD.shape[0], block):
        rows = slice(top, min(top + block, u_RD.shape[0]))
        for left in range(top if symmetric else 0, u_MD.shape[0], block):
            columns = slice(left, min(left + block, u_MD.shape[0]))
            shape = (rows.stop - top, columns.stop - left)
            s_IJ, spare_IJ = (flat[: math.prod(shape)].view(shape) for flat in (tile, spare))
            torch.mm(u_RD[rows], u_MD[columns].T, out=s_IJ)
            s_IJ.diagonal(first + top - left).fill_(-math.inf)
            yield rows, columns, s_IJ, spare_IJ, symmetric and left > top


def _block(device: torch.device) -> int:
    """Return the side of a tile: on a CPU, about 1 MB for each thread's second-level cache."""
    if device.type != "cpu":
        return GPU_BLOCK
    return min(256 * math.ceil(2 * math.sqrt(torch.get_num_threads())), 2048)


def _log_sum_exp(u_RD: Tensor, u_MD: Tensor, first: int, bounded: bool) -> Tensor:
    """Return lse_R, over all columns but the row itself; in float64, which costs R numbers.

    MATH.md's constant maximum 1/tau cancels wherever it appears, and with |s| <= 40 the numbers are
    normal without it: it is left out.
    """
    empty = 0.0 if bounded else -math.inf
    total_R = torch.full(u_RD.shape[:1], empty, dtype=torch.float64, device=u_RD.device)
    for rows, columns, s_IJ, spare_IJ, mirrored in _tiles(u_RD, u_MD, first):
        if bounded:
            s_IJ.exp_()
        for part, dim in ((rows, 1), (columns, 0))[: 1 + mirrored]:
            if bounded:
                total_R[part] += s_IJ.sum(dim)
            else:
                total_R[part] = total_R[part].logaddexp(_tile_log_sum_exp(s_IJ, spare_IJ, dim))
    return total_R.log_() if bounded else total_R


def _tile_log_sum_exp(s_IJ: Tensor, spare_IJ: Tensor, dim: int) -> Tensor:
    # a row that sees only itself has the maximum -inf; -inf minus a finite number is not NaN
    largest = s_IJ.amax(dim, keepdim=True).clamp_min(torch.finfo(s_IJ.dtype).min)
    total = torch.sub(s_IJ, largest, out=spare_IJ).exp_().sum(dim)
    return largest.squeeze(dim).double() + total.double().log()


def _weighted_rows(u_RD: Tensor, u_MD: Tensor, lse_M: Tensor, first: int, bounded: bool) -> Tensor:
    """Return sum_j (P_ij + P_ji) u_j for own rows i; P_ij = exp(s_ij - lse_i), 0 if i is no anchor.

    Bounded: exp(s_ij) (a_i + a_j), a = exp(-lse). Otherwise exp(s_ij - c_i) a_i + exp(s_ij - c_j)
    a_j with c = lse rounded, a = exp(c - lse): rows of P sum to 1 even where lse is large.
    """
    own = slice(first, first + u_RD.shape[0])
    c_M = lse_M.to(u_RD.dtype)
    a_M = torch.exp(-lse_M if bounded else c_M - lse_M).to(u_RD.dtype)
    a_M.masked_fill_(lse_M == math.inf, 0.0)
    c_R1, a_R1 = c_M[own, None], a_M[own, None]
    sum_RD = torch.zeros_like(u_RD)
    for rows, columns, g_IJ, spare_IJ, mirrored in _tiles(u_RD, u_MD, first):
        if bounded:
            g_IJ.exp_().mul_(torch.add(a_R1[rows], a_M[columns], out=spare_IJ))
        else:
            torch.sub(g_IJ, c_M[columns], out=spare_IJ).exp_().mul_(a_M[columns])
            g_IJ.sub_(c_R1[rows]).exp_().mul_(a_R1[rows]).add_(spare_IJ)
        sum_RD[rows].addmm_(g_IJ, u_MD[columns])
        if mirrored:
            sum_RD[columns].addmm_(g_IJ.T, u_RD[rows])
    return sum_RD
