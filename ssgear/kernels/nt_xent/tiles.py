"""Streaming NT-Xent's two walks over tiles of the similarity matrix, written in PyTorch.

    log_sum_exp     lse_i = log sum_{k != i} exp(s_ik)
    weighted_rows   sum_j (P_ij + P_ji) u_j,   P_ij = exp(s_ij - lse_i)          (docs/math.md 1)

They work on every device; csrc/nt_xent.cpp has the same two for CPUs. What is around them stands in
streaming.py. `first` is the place of the first own row among all rows.
Shapes: R own rows, M rows of all ranks, D the width, I x J a tile of s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

GPU_BLOCK = 4096
"""Side of a tile on a GPU, enough work for one launch."""


def log_sum_exp(u_RD: Tensor, u_MD: Tensor, first: int, bounded: bool) -> Tensor:
    """Return lse_R, over all columns but the row itself; in float64, which costs R numbers.

    docs/math.md's constant maximum 1/tau cancels wherever it appears, and with |s| <= 40 the
    numbers are normal without it: it is left out.
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


def weighted_rows(u_RD: Tensor, u_MD: Tensor, lse_M: Tensor, first: int, bounded: bool) -> Tensor:
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
