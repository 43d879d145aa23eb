"""Rows of embeddings: brought to length 1, and gathered over the ranks of a process group.

All forms of NT-Xent and InfoNCE stand on this file.
Shapes: R own rows, M rows of all W ranks (M = W R), D the width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels.checks import compute_dtype

Checked = TypeVar("Checked")


def sized_rows(z_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows divided by their scale [R, 1], that scale, and their norm [R, 1] after it.

    The scale is a power of two near a row's largest entry: dividing by it is exact, and squares of
    1e-30 or 1e30 survive. The norm of a zero row is called infinite: dividing by it keeps the row
    zero, and its gradient too.
    """
    largest_R1 = z_RD.detach().abs().amax(1, keepdim=True)
    mantissa_R1, _ = torch.frexp(largest_R1)
    scale_R1 = (largest_R1 / (2 * mantissa_R1)).masked_fill(largest_R1 == 0, 1.0)
    scaled_RD = z_RD / scale_R1
    norm_R1 = torch.linalg.vector_norm(scaled_RD, dim=1, keepdim=True)
    return scaled_RD, scale_R1, norm_R1.masked_fill(norm_R1 == 0, math.inf)


def unit_rows(z_RD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows of length 1, and what they were divided by: scale and norm of `sized_rows`."""
    scaled_RD, scale_R1, norm_R1 = sized_rows(z_RD)
    return scaled_RD / norm_R1, scale_R1, norm_R1


def scaled_rows(z_RD: Tensor, tau: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return u = z / scale * factor with its factor and scale, which is None for z as it is.

    Inner products of u are similarities over tau. csrc/rows.cpp has this and the next two as well.
    """
    z_RD = z_RD.to(compute_dtype(z_RD))
    if not normalize:
        return z_RD * tau.rsqrt(), tau.rsqrt(), None
    scaled_RD, scale_R1, norm_R1 = sized_rows(z_RD)
    factor_R1 = tau.rsqrt() / norm_R1
    return scaled_RD.mul_(factor_R1), factor_R1, scale_R1


def gradient_of_rows(
    grad_RD: Tensor, u_RD: Tensor, tau: Tensor, factor: Tensor, scale_R1: Tensor | None
) -> Tensor:
    """Turn the gradient of u into that of z, in place; return <u, dL/du> of each row, [R, 1]."""
    slope_R1 = (u_RD * grad_RD).sum(1, keepdim=True)
    if scale_R1 is None:
        grad_RD.mul_(factor)
    else:  # a length that is normalised away has no gradient
        grad_RD.addcmul_(u_RD, slope_R1 * tau, value=-1).mul_(factor).div_(scale_R1)
    return slope_R1


def zero_or_nan(rows_MD: Tensor) -> Tensor:
    """Return 0, or NaN where something in the rows is not finite, without waiting for a device.

    A row that is no anchor may have no part in the loss: added to it, this shows all the same.
    """
    low, high = rows_MD.detach().aminmax()
    nothing = torch.zeros_like(low)
    return nothing.masked_fill(~(low.isfinite() & high.isfinite()), math.nan)


def gather_rows(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Return the rows of all ranks in their order; no gradient goes through."""
    gathered = rows.new_empty(dist.get_world_size(group) * rows.shape[0], *rows.shape[1:])
    dist.all_gather_into_tensor(gathered, rows.contiguous(), group=group)
    return gathered


def gather_with_gradient(rows_RD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Gather rows; the gradients that other ranks find for a row are sent back to it and summed."""
    from torch.distributed.nn import functional

    gathered: tuple[Tensor, ...] = functional.all_gather(rows_RD, group)  # type: ignore[no-untyped-call]
    return torch.cat(gathered)


def check_equal_rows(z_RD: Tensor, has_ids: bool, group: dist.ProcessGroup, where: str) -> None:
    """Refuse ranks that bring different shapes, or a problem; every rank raises the same error.

    A group that can talk between CPUs is checked at every call, and the device is left alone. In a
    group of NCCL only, a check stops the host, so it is made once for each shape.
    """
    mine = (z_RD.shape[0], z_RD.shape[1], compute_dtype(z_RD).itemsize, int(has_ids))
    if _talks_between_cpus(group):
        _compare(mine, group, "cpu", where=where)
    elif mine not in _checked(group, where):
        _compare(mine, group, str(z_RD.device), where=where)
        _checked(group, where).add(mine)


def on_all_ranks(
    check: Callable[[], Checked], group: dist.ProcessGroup | None, where: str
) -> Checked:
    """Return what a check of arguments returns; what it refuses here is raised on all ranks.

    The others meet it in their `check_equal_rows`. In a group of NCCL only they are sure to make
    that check at their first call, where an argument that is wrong from the start is met; at later
    ones they may be past it, and this rank alone raises.
    """
    try:
        return check()
    except ArgumentError as error:
        if group is None or torch.compiler.is_compiling():
            raise
        problem = str(error).encode()
        if _talks_between_cpus(group):
            _compare((0, 0, 0, 0), group, "cpu", problem)
        elif not _checked(group, where):
            _compare((0, 0, 0, 0), group, _own_device(), problem)
        raise


def _talks_between_cpus(group: dist.ProcessGroup) -> bool:
    return "cpu:" in dist.get_backend_config(group)


def _own_device() -> str:
    """Return where tensors for NCCL have to be, when none are given; untested on hardware."""
    return f"cuda:{torch.cuda.current_device()}"


@functools.cache
def _checked(group: dist.ProcessGroup, where: str) -> set[tuple[int, ...]]:
    """Return the shapes that all ranks of a group were found to bring to a loss; it is added to."""
    return set()


def _compare(
    mine: tuple[int, ...],
    group: dist.ProcessGroup,
    device: str,
    problem: bytes = b"",
    where: str = "nt_xent",
) -> None:
    gathered = gather_rows(torch.tensor([(*mine, len(problem))], device=device), group).tolist()
    shapes = [tuple(shape) for *shape, _ in gathered]
    lengths = [length for *_, length in gathered]
    if any(lengths):
        padded = problem.ljust(max(lengths), b"\0")
        texts = gather_rows(torch.tensor([list(padded)], dtype=torch.uint8, device=device), group)
        rank = next(rank for rank, length in enumerate(lengths) if length)
        text = bytes(texts[rank, : lengths[rank]].tolist()).decode()
        raise ArgumentError(f"{text} (on rank {rank})")
    if len(set(shapes)) > 1:
        listing = ", ".join(
            f"rank {rank} has {rows} x {width} in float{8 * itemsize}{' with ids' * has_ids}"
            for rank, (rows, width, itemsize, has_ids) in enumerate(shapes)
        )
        raise ArgumentError(f"{where}: all ranks of a group must bring the same shape; {listing}")
