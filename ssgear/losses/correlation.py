"""Barlow Twins' loss (Zbontar et al. 2021, arXiv 2103.03230), on the batch of all ranks.

    u = (z1 - mean) / sqrt(var + eps), v likewise of z2;  C = u^T v / N          statistics over N
    L = sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2                          (equations 1 and 2)

With G = dL/dC, the gradient through the statistics has a closed form, as u and v have mean zero:

    dL/dz1 = (v G^T - u * sum_j C_ij G_ij) / (N sqrt(var1 + eps))                and likewise z2

So one D x D matrix is kept, the ranks exchange it once with two vectors of statistics, and nothing
is sent in the backward pass. Shapes: R own rows, N rows of all ranks, D the width.
"""

from __future__ import annotations

from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import checks
from ssgear.kernels.checks import compute_dtype
from ssgear.kernels.transforms import Context

EPS = 1e-5
"""Added to variances, as batch norm does."""


def barlow_twins(
    z1: Tensor, z2: Tensor, *, lambd: float = 0.0051, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Return Barlow Twins' loss of two views, a float32 scalar.

    Computed in float32 (float64 where z1 is), under autocast too. Cannot be differentiated twice.
    NaN where something is not finite, or the squares of a column are too large.

    Args:
        z1: Embeddings [R, D] of the first view, before any normalisation.
        z2: Embeddings [R, D] of the second; row i belongs to the same image.
        lambd: Weight of the entries off the diagonal, 0 or more.
        group: Process group over whose rows together statistics and C are taken. Every rank gets
            the loss of the global batch, and its gradient times the number of ranks: what wraps the
            model takes the mean over ranks (as for `nt_xent`).
    """
    world_size = checks.world_size_of(group, "barlow_twins")
    _check(z1, z2, lambd, world_size)
    with torch.autocast(z1.device.type, enabled=False):
        ranks = group if world_size > 1 else None
        loss: Tensor = _BarlowTwins.apply(z1, z2, lambd, ranks)
    return loss.float()


Kept = Context[tuple[float, int]]


class _BarlowTwins(torch.autograd.Function):
    """The loss and its gradient in closed form."""

    @staticmethod
    def forward(
        ctx: Kept, z1_RD: Tensor, z2_RD: Tensor, lambd: float, group: dist.ProcessGroup | None
    ) -> Tensor:
        dtype = compute_dtype(z1_RD)
        both_2RD = torch.stack((z1_RD.to(dtype), z2_RD.to(dtype)))
        count = both_2RD.new_full((), z1_RD.shape[0])
        count, total_2D = _summed(group, count, both_2RD.sum(1))
        centred_2RD = both_2RD - total_2D[:, None] / count
        (squares_2D,) = _summed(group, centred_2RD.square().sum(1))
        squares_2D = squares_2D.masked_fill(squares_2D.isinf(), torch.nan)  # not a column of zeros
        std_2D = (squares_2D / count + EPS).sqrt()
        u_RD, v_RD = centred_2RD.div_(std_2D[:, None])
        (c_DD,) = _summed(group, u_RD.T @ v_RD)
        c_DD /= count
        ctx.save_for_backward(z1_RD, z2_RD, u_RD, v_RD, c_DD, std_2D, count)
        ctx.settings = (lambd, 1 if group is None else dist.get_world_size(group))
        diagonal_D = c_DD.diagonal()
        off_diagonal = c_DD.square().sum() - diagonal_D.square().sum()
        return (1 - diagonal_D).square().sum() + lambd * off_diagonal

    @staticmethod
    def backward(ctx: Kept, slope: Tensor) -> tuple[Tensor | None, ...]:
        z1_RD, z2_RD, u_RD, v_RD, c_DD, std_2D, count = ctx.saved_tensors
        lambd, world_size = ctx.settings
        with torch.no_grad(), torch.autocast(u_RD.device.type, enabled=False):
            g_DD = 2 * lambd * c_DD
            g_DD.diagonal().copy_(2 * (c_DD.diagonal() - 1))
            cg_DD = c_DD * g_DD
            scale_2D = slope * world_size / (count * std_2D)
            dz1_RD = scale_2D[0] * (v_RD @ g_DD.T - u_RD * cg_DD.sum(1))
            dz2_RD = scale_2D[1] * (u_RD @ g_DD - v_RD * cg_DD.sum(0))
        grads = (dz1_RD.to(z1_RD.dtype), dz2_RD.to(z2_RD.dtype))
        if torch.is_grad_enabled():  # create_graph: they depend on these, in a way not written out
            grads = tuple(_Last.apply(grad, z1_RD, z2_RD, slope) for grad in grads)
        return *grads, None, None


class _Last(torch.autograd.Function):
    """A gradient that has no derivative itself."""

    @staticmethod
    def forward(ctx: Context[None], grad: Tensor, *inputs: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def backward(ctx: Context[None], *slopes: Tensor) -> NoReturn:
        raise ArgumentError("barlow_twins: has no second derivative; take the gradient only")


def _summed(group: dist.ProcessGroup | None, *parts: Tensor) -> tuple[Tensor, ...]:
    """Return sums over ranks, by one all-reduce."""
    if group is None:
        return parts
    flat = torch.cat([part.reshape(-1) for part in parts])
    dist.all_reduce(flat, group=group)
    pieces = torch.split(flat, [part.numel() for part in parts])
    return tuple(piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True))


def _check(z1: Tensor, z2: Tensor, lambd: float, world_size: int) -> None:
    for number, z in enumerate((z1, z2), 1):
        if not checks.is_float_tensor(z) or z.ndim != 2 or z.shape[1] == 0:
            raise ArgumentError(
                f"barlow_twins: z{number} is {checks.shaped(z)}; use a floating-point tensor "
                "[rows, width]"
            )
    if z1.shape != z2.shape or z1.device != z2.device:
        raise ArgumentError(
            f"barlow_twins: z1 is {list(z1.shape)} on {z1.device} and z2 {list(z2.shape)} on "
            f"{z2.device}; row i of both must belong to image i"
        )
    if z1.shape[0] * world_size < 2:
        raise ArgumentError(
            f"barlow_twins: z1 has {z1.shape[0]} rows; statistics over a batch need at least 2"
        )
    if not checks.is_number(lambd, 0, checks.LARGEST):
        raise ArgumentError(f"barlow_twins: lambd={checks.shown(lambd)}; use 0 or more")
