"""NT-Xent, the loss of SimCLR (Chen et al. 2020, arXiv 2002.05709), with global negatives.

    s_ij = <z_i, z_j> / tau        lse_i = log sum_{k != i} exp(s_ik)
    L = 1/M sum_i (lse_i - s_i,pos(i))                             (docs/math.md 1)

General positives are SupCon's "out" form (Khosla et al. 2020, arXiv 2004.11362). `reference` is the
formula as it stands, dense and by autograd. The others need O(M D) memory: `streaming`
(streaming.py), `cpp`, the same with C++ inside (csrc/nt_xent.cpp), and `triton`
(triton/operator.py), whose tiles never leave the chip; `FORMS` lists them.
tests/kernels/nt_xent/test_loss.py holds all to `CASES`; benchmarks/kernels.py checks and times
them. Shapes: R own rows, M rows of all ranks, D the width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import checks
from ssgear.kernels.checks import compute_dtype
from ssgear.kernels.forms import (
    Form,
    always_available,
    choose,
    cpp_unavailable_reason,
    triton_unavailable_reason,
    type_unavailable_reason,
)
from ssgear.kernels.nt_xent.rows import (
    check_equal_rows,
    gather_rows,
    gather_with_gradient,
    on_all_ranks,
    unit_rows,
    zero_or_nan,
)
from ssgear.kernels.nt_xent.streaming import (
    by_operator,
    checked,
    is_certainly_bounded,
    nt_xent_forward,
    place_in,
)
from ssgear.kernels.nt_xent.triton.operator import nt_xent_triton_forward

Implementation = Literal["auto", "reference", "streaming", "cpp", "triton"]
WHERE = "nt_xent"


def nt_xent(
    z: Tensor,
    *more_views: Tensor,
    temperature: float | Tensor = 0.1,
    ids: Tensor | None = None,
    normalize: bool = True,
    group: dist.ProcessGroup | None = None,
    impl: Implementation = "auto",
) -> Tensor:
    """Return the NT-Xent loss, a float32 scalar; gradients have the type of their input.

    Everything is computed in float32 (float64 where z is), under autocast too. NaN or an infinity
    in any row makes the loss NaN, on all ranks.

    Args:
        z: Embeddings [V * N, D] with views stacked, or the first view [N, D] of several arguments.
        *more_views: `nt_xent(z1, z2)` is `nt_xent(torch.cat((z1, z2)))`; three or more need `ids`.
        temperature: tau > 0: a number, or a 0-d tensor that gets its gradient. A tensor is checked
            on its device: a value that is no temperature makes the loss NaN.
        ids: [V * N] int64. Rows with equal ids are positives of each other; a row that is alone
            with its id is a negative only, and the mean is over the others (0 if there are none).
            Without ids two views are stacked: the positive of row i is (i + N) mod 2N.
        normalize: Bring rows to length 1 first. A zero row stays zero and gets a zero gradient.
        group: Process group. Its ranks bring equally many rows each; all are negatives, and
            positives too where ids are equal (without ids, both views of an image are on one rank).
            Gradients are those of the global loss times the number of ranks, because what wraps
            the model (DDP, DeepSpeed) takes the *mean* over ranks. The mean of the returned values
            over ranks is the global loss. A wrong argument, or another number of rows, on one rank
            is an error on all. The limit of that are groups of NCCL alone (init_process_group with
            "nccl" instead of "cpu:gloo,cuda:nccl"), where it would cost a wait for the GPU at every
            call: there it is so at the first call, and later only that rank raises, while the
            others wait in NCCL until its process ends or the group's timeout is over.
        impl: reference, streaming, cpp (on a CPU, where it was built), triton (on a GPU from
            compute capability 8.0 on), or auto, the fastest that can work on z. Only reference can
            be differentiated twice, forward, or under torch.func (where auto takes it).
    """
    world_size = checks.world_size_of(group, WHERE)
    ranks = group if world_size > 1 else None

    def prepare() -> tuple[Callable[..., Tensor], Tensor, Tensor, Tensor | None]:
        z_RD = _stacked(z, more_views, ids)
        _check_rows(z_RD, ids, world_size)
        checks.check_temperature(temperature, WHERE)
        checks.check_normalize(normalize, WHERE)
        tau = checks.tensor_temperature(temperature, z_RD, WHERE)
        ids_R = None if ids is None else ids.to(z_RD.device).contiguous()
        return choose(WHERE, impl, FORMS, z_RD, (z_RD, tau, ids_R)).run, z_RD, tau, ids_R

    run, z_RD, tau, ids_R = on_all_ranks(prepare, ranks, WHERE)
    bounded = normalize and is_certainly_bounded(temperature)
    return run(z_RD, tau, ids_R, normalize=normalize, bounded=bounded, group=ranks).float()


def _reference(
    z_RD: Tensor,
    tau: Tensor,
    ids_R: Tensor | None,
    *,
    normalize: bool,
    bounded: bool,
    group: dist.ProcessGroup | None,
) -> Tensor:
    """docs/math.md 1 line by line, in O(R M) memory; can be differentiated twice."""
    with torch.autocast(z_RD.device.type, enabled=False):
        num_rows, (_, world_size, rank) = z_RD.shape[0], place_in(group)
        if group is not None:
            check_equal_rows(z_RD, ids_R is not None, group, WHERE)
        self_R = torch.arange(num_rows, device=z_RD.device) + rank * num_rows
        if ids_R is None:  # pos(i) = (i + N) mod 2N
            ids_R = self_R % (num_rows // 2) + rank * num_rows
        z_RD = z_RD.to(compute_dtype(z_RD))
        z_RD = unit_rows(z_RD)[0] if normalize else z_RD
        z_MD, ids_M = z_RD, ids_R
        if group is not None:
            z_MD, ids_M = gather_with_gradient(z_RD, group), gather_rows(ids_R, group)
        tau = checked(tau)
        s_RM = z_RD @ z_MD.T / tau
        is_self_RM = self_R[:, None] == torch.arange(len(ids_M), device=z_RD.device)
        lse_R = s_RM.masked_fill(is_self_RM, -math.inf).logsumexp(1)
        is_positive_RM = (ids_R[:, None] == ids_M) & ~is_self_RM
        num_positives_R = is_positive_RM.sum(1)
        drawn_R = s_RM.where(is_positive_RM, 0).sum(1) / num_positives_R.clamp_min(1)
        terms_R = torch.where(num_positives_R > 0, lse_R - drawn_R, 0)
        num_anchors = ((ids_M[:, None] == ids_M).sum(1) > 1).sum().clamp_min(1)
        # 1, or NaN: a factor, so that gradients show it too
        visible = 1 + zero_or_nan(z_MD) + 0 * tau.detach()
        return visible * world_size * terms_R.sum() / num_anchors


def _stacked(z: Tensor, more_views: tuple[Tensor, ...], ids: Tensor | None) -> Tensor:
    for number, view in enumerate((z, *more_views), 1):
        checks.check_floats(WHERE, **{f"view {number}": view})
        if view.ndim != 2 or view.shape[1] == 0:
            raise ArgumentError(
                f"nt_xent: z has shape {list(view.shape)}; use [rows, width], views stacked"
            )
        if view.shape != z.shape:
            raise ArgumentError(
                f"nt_xent: view {number} has shape {list(view.shape)} and view 1 {list(z.shape)}; "
                "row i of every view must belong to image i"
            )
        if (view.dtype, view.device) != (z.dtype, z.device):
            raise ArgumentError(
                f"nt_xent: view {number} is {view.dtype} on {view.device} and view 1 {z.dtype} on "
                f"{z.device}; bring them to one type and device"
            )
    if len(more_views) > 1 and ids is None:
        raise ArgumentError(
            f"nt_xent: {1 + len(more_views)} views are not pairs; "
            "pass ids, equal for the views of one image"
        )
    return torch.cat((z, *more_views)) if more_views else z


def _check_rows(z_RD: Tensor, ids: Tensor | None, world_size: int) -> None:
    num_rows = z_RD.shape[0]
    if num_rows * world_size < 2:
        raise ArgumentError(f"nt_xent: z has {num_rows} rows; the loss needs at least 2")
    if ids is None:
        if num_rows % 2:
            raise ArgumentError(
                f"nt_xent: z has {num_rows} rows, which is no even number of two stacked views; "
                "pass ids for three or more views"
            )
    elif not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.shape != (num_rows,):
        found = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ArgumentError(f"nt_xent: ids is {found}; use torch.int64 [{num_rows}], one per row")
    else:
        checks.check_device("ids", ids, z_RD, WHERE)


def _triton_reason(z: Tensor) -> str:
    reason = type_unavailable_reason(z, torch.bfloat16, torch.float16, torch.float32)
    return reason or triton_unavailable_reason(z.device)


FORMS: tuple[Form[Tensor, Callable[..., Tensor]], ...] = (
    Form("triton", _triton_reason, by_operator(nt_xent_triton_forward)),
    Form("cpp", cpp_unavailable_reason, by_operator(nt_xent_forward, "cpp")),
    Form("streaming", always_available, by_operator(nt_xent_forward, "torch")),
    Form("reference", always_available, _reference),
)
"""The fastest first."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Shape and settings of one input."""

    rows: int
    """M, all views."""
    width: int
    """D."""
    temperature: float = 0.1
    """tau."""
    ids: Literal["none", "views", "ragged"] = "none"
    """none: two stacked views; views: three, by ids; ragged: classes of 1, 2, 3, ... rows."""
    normalize: bool = True
    """Whether rows are brought to length 1."""

    def make(
        self, dtype: torch.dtype, device: str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor | None]:
        """Return z and ids, functions of the seed; rows with equal ids lie near each other."""
        generator = torch.Generator().manual_seed(seed + 1000 * self.rows + self.width)
        row_M = torch.arange(self.rows)
        ids_M = row_M % (self.rows // (3 if self.ids == "views" else 2))
        if self.ids == "ragged":  # k (k + 1) / 2 rows come before class k
            ids_M = ((8 * row_M + 1).double().sqrt().sub(1) / 2).long()
            ids_M = ids_M[torch.randperm(self.rows, generator=generator)]
        centre_MD, noise_MD = torch.randn(2, self.rows, self.width, generator=generator)
        z_MD = centre_MD[ids_M] + noise_MD
        if not self.normalize:
            z_MD = z_MD / math.sqrt(self.width)
        return z_MD.to(device, dtype), None if self.ids == "none" else (7 * ids_M - 3).to(device)


CASES = (
    Case(rows=2, width=5),
    Case(rows=2, width=1, temperature=0.01),
    Case(rows=14, width=1),
    Case(rows=66, width=3, temperature=10.0),
    Case(rows=98, width=33, temperature=0.01),
    Case(rows=98, width=33, temperature=0.024),
    Case(rows=98, width=33, temperature=0.026),
    Case(rows=126, width=17, temperature=0.07, normalize=False),
    Case(rows=51, width=64, temperature=0.5, ids="views"),
    Case(rows=87, width=19, temperature=0.02, ids="views"),
    Case(rows=129, width=48, ids="ragged"),
    Case(rows=77, width=9, temperature=0.2, ids="ragged", normalize=False),
    Case(rows=514, width=300, temperature=0.2),
    Case(rows=1026, width=128),
    Case(rows=1025, width=40, temperature=0.015, ids="ragged"),
)
"""One image, odd numbers of images, widths 1 to 300, a tile and a little more, tau 0.01 to 10."""
