"""Streaming NT-Xent (docs/math.md 1): O(M D) memory, an exact backward by hand, as two operators.

Tiles of the similarity matrix s are made, used and overwritten; from forward to backward only the
vector lse is kept (with a group, the gathered rows too). Rows are worked on as u = z / sqrt(tau):
s is u u^T, symmetric to the last bit. In one process a tile above the diagonal serves its rows and
its columns, in both directions; with a group, own rows face all rows. What takes the time is
written twice (`Parts`); `tiles` says which is taken: torch, or cpp (csrc/).
Shapes: R own rows, M rows of all W ranks (R = M in one process), D the width.
Autocast and torch.compile do not look inside; the backward has no derivative of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from ssgear.kernels import native, transforms
from ssgear.kernels.checks import compute_dtype
from ssgear.kernels.nt_xent.rows import (
    check_equal_rows,
    gather_rows,
    gradient_of_rows,
    scaled_rows,
    zero_or_nan,
)
from ssgear.kernels.nt_xent.tiles import log_sum_exp, weighted_rows
from ssgear.kernels.transforms import Context

BOUNDED_ABOVE = 0.025
"""Temperature above which unit rows need no running maximum: |s| <= 40."""


Settings = tuple[bool, bool, str, int, int, str]
"""Of an operator: normalize, bounded, the group's name, its ranks, own rank, tiles."""


class Positives(NamedTuple):
    """What the anchors are drawn to."""

    mean_RD: Tensor
    """Mean of the positives of each own row; zero where there is none."""
    anchor_R: Tensor
    """Whether an own row has a positive."""
    num_anchors: Tensor
    """Rows of all ranks that have one; at least 1."""


class Parts(NamedTuple):
    """What is written twice, for every device (tiles.py, rows.py) and in csrc/ for CPUs."""

    log_sum_exp: Callable[..., Tensor]
    weighted_rows: Callable[..., Tensor]
    scaled_rows: Callable[..., tuple[Tensor, Tensor, Tensor | None]]
    gradient_of_rows: Callable[..., Tensor]
    zero_or_nan: Callable[..., Tensor]


IN_TORCH = Parts(log_sum_exp, weighted_rows, scaled_rows, gradient_of_rows, zero_or_nan)


def by_operator(operator: Callable[..., tuple[Tensor, ...]], *more: str) -> Callable[..., Tensor]:
    """Return the form of a loss that an operator computes, whose last arguments are `more`.

    It returns the loss in the type that it is computed in. `bounded` promises |s| <= 1 /
    BOUNDED_ABOVE; where looking at tau costs nothing, the operator looks.
    """

    def run(
        *rows: Tensor | None, normalize: bool, bounded: bool, group: dist.ProcessGroup | None
    ) -> Tensor:
        return operator(*rows, normalize, bounded, *place_in(group), *more)[0]

    return run


def place_in(group: dist.ProcessGroup | None) -> tuple[str, int, int]:
    """Return a group's name, number of ranks and own rank; operators take no objects."""
    if group is None:
        return "", 1, 0
    return str(group.group_name), dist.get_world_size(group), dist.get_rank(group)


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
    tiles: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the loss, lse_M (infinite where a row is no anchor), and the gathered rows and ids.

    If anything in any row is not finite, loss and lse_M are NaN.
    """
    with torch.autocast(z_RD.device.type, enabled=False):
        tau, parts = checked(tau), parts_of(tiles)
        u_RD = parts.scaled_rows(z_RD, tau, normalize)[0]
        u_MD, ids_M, group = gather(z_RD, u_RD, ids_R, group_name)
        first = rank * u_RD.shape[0]
        lse_R = parts.log_sum_exp(u_RD, u_MD, first, is_bounded(tau, normalize, bounded))
        positives = _positives(u_RD, u_MD, ids_M, first)
        drawn_R = (u_RD * positives.mean_RD).sum(1).double()
        terms_R = torch.where(positives.anchor_R, lse_R - drawn_R, 0.0)
        visible = parts.zero_or_nan(u_MD)
        loss = (world_size * terms_R.sum() / positives.num_anchors).to(u_RD.dtype) + visible
        lse_R = lse_R.masked_fill(~positives.anchor_R, math.inf) + visible
        if group is None:
            return loss, lse_R, u_RD.new_empty(0, u_RD.shape[1]), lse_R.new_empty(0).long()
        kept_M = lse_R.new_empty(0).long() if ids_M is None else ids_M
        return loss, gather_rows(lse_R, group), u_MD, kept_M


@nt_xent_forward.register_fake
def _(
    z_RD: Tensor, tau: Tensor, ids_R: Tensor | None, *settings: *Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    group_name, world_size = settings[2:4]
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
    tiles: str,
) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to z and tau, times `grad` and the number of ranks."""
    with torch.autocast(z_RD.device.type, enabled=False):
        tau, parts = checked(tau), parts_of(tiles)
        u_RD, *scales = parts.scaled_rows(z_RD, tau, normalize)
        u_MD = u_RD if u_MD is None else u_MD
        first = rank * u_RD.shape[0]
        no_maximum = is_bounded(tau, normalize, bounded)
        grad_RD = parts.weighted_rows(u_RD, u_MD, lse_M, first, no_maximum)
        positives = _positives(u_RD, u_MD, ids_M, first)
        grad_RD.sub_(positives.mean_RD, alpha=2)
        # here, while entries are near 1: a scaled loss keeps float16 gradients from underflow
        grad_RD.mul_(grad * world_size / positives.num_anchors)
        del positives  # its memory serves the next product
        slope_R1 = parts.gradient_of_rows(grad_RD, u_RD, tau, *scales)
        grad_tau = -slope_R1.sum(dtype=torch.float64) / (2 * tau)
        # as the fake version says, whatever the memory order of z was
        return grad_RD.to(z_RD.dtype).contiguous(), grad_tau.to(tau.dtype)


@nt_xent_backward.register_fake
def _(grad: Tensor, z_RD: Tensor, tau: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return z_RD.new_empty(z_RD.shape), tau.new_empty(())


Kept = Context[tuple[bool, bool, int, int, str]]


def _keep(
    ctx: Kept,
    inputs: tuple[Tensor, Tensor, Tensor | None, *Settings],
    output: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    z_RD, tau, ids_R, normalize, bounded, group_name, world_size, rank, tiles = inputs
    _, lse_M, u_MD, gathered_M = output
    ids_M = gathered_M if group_name and ids_R is not None else ids_R
    ctx.save_for_backward(z_RD, tau, ids_M, lse_M, u_MD if group_name else None)
    ctx.settings = (normalize, bounded, world_size, rank, tiles)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Kept, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    return (*nt_xent_backward(grad, *ctx.saved_tensors, *ctx.settings), *(None,) * 7)


nt_xent_forward.register_autograd(_differentiate, setup_context=_keep)
nt_xent_backward.register_autograd(transforms.no_second_derivative("nt_xent"))


def parts_of(tiles: str) -> Parts:
    """Return what is written twice, in one of its forms."""
    if tiles != "cpp":
        return IN_TORCH
    if not native.available():  # a graph that another installation compiled
        raise RuntimeError(native.reason())
    return Parts(*(getattr(torch.ops.ssgear_native, name) for name in Parts._fields))


def group_named(name: str) -> dist.ProcessGroup:
    """Return the group that an operator was called with; operators take no objects."""
    import torch.distributed.distributed_c10d as c10d

    group: dist.ProcessGroup = vars(c10d)["_resolve_process_group"](name)
    return group


def gather(
    z_RD: Tensor, rows_RD: Tensor, ids_R: Tensor | None, group_name: str
) -> tuple[Tensor, Tensor | None, dist.ProcessGroup | None]:
    """Return the rows and ids of all ranks, and the group of that name ("": this process alone)."""
    if not group_name:
        return rows_RD, ids_R, None
    group = group_named(group_name)
    check_equal_rows(z_RD, ids_R is not None, group, "nt_xent")
    rows_MD = gather_rows(rows_RD, group)
    return rows_MD, None if ids_R is None else gather_rows(ids_R, group), group


def checked(tau: Tensor) -> Tensor:
    """Make a temperature that is none into NaN, on the device."""
    return torch.where((tau > 0) & tau.isfinite(), tau, math.nan)


def is_certainly_bounded(temperature: float | Tensor) -> bool:
    """Return whether |s| <= 1 / BOUNDED_ABOVE for unit rows; a tensor is not looked at."""
    return not isinstance(temperature, Tensor) and temperature > BOUNDED_ABOVE


def is_bounded(tau: Tensor, normalize: bool, promised: bool) -> bool:
    """Return whether |s| <= 1 / BOUNDED_ABOVE is certain; a value on a GPU is not looked at."""
    return promised or (normalize and tau.device.type == "cpu" and tau.item() > BOUNDED_ABOVE)


def _positives(u_RD: Tensor, u_MD: Tensor, ids_M: Tensor | None, first: int) -> Positives:
    """Return the mean positive of each own row (docs/math.md 1, general positives), in O(M D)."""
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
