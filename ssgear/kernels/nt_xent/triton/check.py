"""Hold the Triton NT-Xent kernels to an exact case on a GPU before they are used there.

Some versions of ptxas let a product's operands in registers be overwritten while the matrix unit
still reads them, and such code is wrong without a word. So every plan is run once per process on
rows of one or two entries +-1, where weights are powers of two and sums small integers; where it
fails, the next candidate of the table is taken. A check compiles nothing that is not needed anyway.
It waits for the device once; inside the capture of a CUDA graph, where that is impossible, the
fastest plan is taken unchecked: call the loss once before a capture.
*Untested on hardware.*
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ssgear.kernels.forms import first_right
from ssgear.kernels.nt_xent.triton.inputs import Call, Classes, Setting, classes_of
from ssgear.kernels.nt_xent.triton.launch import forward, prepare
from ssgear.kernels.nt_xent.triton.launch_backward import Upstream, backward
from ssgear.kernels.nt_xent.triton.tiles import Plan, candidates, chip_of, representative_rows


class Kind(NamedTuple):
    """What decides which kernels are compiled."""

    dtype: torch.dtype
    width: int
    rows: int
    normalize: bool
    bounded: bool
    has_ids: bool
    ranks: bool

    def plans(self, device: torch.device) -> list[Plan]:
        """Return plans, the fastest first."""
        flags = {"bounded": self.bounded, "has_ids": self.has_ids}
        return list(candidates(self.dtype, self.width, self.rows, **flags, chip=chip_of(device)))


HALF_ROWS = 138
"""Half the rows of the exact case: some tiles and a rest."""
_CHECKED: dict[tuple[torch.device, Kind], Plan | None] = {}


def plan_for(z_RD: Tensor, setting: Setting, has_ids: bool) -> Plan | None:
    """Return the fastest plan that is right on z's device, None (and a warning) if none is."""
    rows, ranks = representative_rows(setting.columns), setting.own < setting.columns
    kind = Kind(z_RD.dtype, setting.width, rows, setting.normalize, setting.bounded, has_ids, ranks)
    key = (z_RD.device, kind)
    if key not in _CHECKED:
        if not z_RD.is_cuda or torch.cuda.is_current_stream_capturing():
            return kind.plans(z_RD.device)[0]
        _CHECKED[key] = first_right_plan(kind, z_RD.device)
    return _CHECKED[key]


def first_right_plan(kind: Kind, device: torch.device) -> Plan | None:
    """Return the fastest plan that is right on a device, None (and a warning) if none is."""

    def fault_of(plan: Plan) -> str:
        return fault(plan, kind, device)

    return first_right("nt_xent", device, kind.plans(device), fault_of, "streaming")


def fault(plan: Plan, kind: Kind, device: torch.device) -> str:
    """Return what is wrong with a plan in the exact case, "" if nothing is."""
    own, columns = HALF_ROWS * (1 if kind.ranks else 2), 2 * HALF_ROWS
    setting = Setting(
        own=own,
        columns=columns,
        first=columns - own,
        width=kind.width,
        normalize=kind.normalize,
        bounded=kind.bounded,
    )
    z_MD = _integer_rows(columns, kind.width).to(device, kind.dtype)
    ids_M = torch.arange(columns, device=device) // 3 if kind.has_ids else None
    classes = classes_of(ids_M, setting, z_MD)._replace(anchors=torch.ones((), device=device))
    largest = min(kind.width, 2)  # of all products; 2^largest is what sums are relative to
    tau = torch.full((), math.log2(math.e) / (largest if kind.normalize else 1), device=device)
    call = Call(prepare(z_MD, setting), tau, classes, setting)
    u_MD = z_MD.double() / (math.sqrt(largest) if kind.normalize else 1.0)
    t_RM = u_MD[setting.first :] @ u_MD.T * (largest if kind.normalize else 1)
    t_RM.diagonal(setting.first).fill_(-math.inf)

    _, maximum_R, weight_R = forward(call, plan)
    wrong = _difference(maximum_R.exp2() / weight_R, t_RM.exp2().sum(1))
    if not wrong < 1e-4:
        return f"sums of {kind.dtype} rows of width {kind.width} are off by {wrong:.1g}"
    # a constant maximum and weight, as if every row had the same sum: weights are powers of two
    maximum_M = torch.full((columns,), float(largest), device=device)
    upstream = Upstream(classes.anchors, maximum_M, torch.ones_like(maximum_M))
    grad_RD = torch.empty_like(z_MD[setting.first :])
    backward(call, upstream, grad_RD, plan)
    g_RM = 2 * (t_RM - largest).exp2() - _drawn(setting, classes, device)
    right_RD = _projected(g_RM @ u_MD, u_MD[setting.first :], kind.normalize, largest)
    wrong = _difference(grad_RD, right_RD * (columns / own) / tau)
    if not wrong < 1e-2:
        return f"gradients of {kind.dtype} rows of width {kind.width} are off by {wrong:.1g}"
    return ""


def _integer_rows(num_rows: int, width: int) -> Tensor:
    """Return rows of two entries +-1 (one where there is no place for two), the others zero."""
    generator = torch.Generator().manual_seed(width)
    z_MD = torch.zeros(num_rows, width)
    place_MD = torch.rand(num_rows, width, generator=generator).argsort(1)[:, :2]
    sign_MD = 2.0 * torch.randint(0, 2, place_MD.shape, generator=generator) - 1
    return z_MD.scatter_(1, place_MD, sign_MD)


def _drawn(setting: Setting, classes: Classes, device: torch.device) -> Tensor:
    """Return 2 / positives where a column is a positive of an own row."""
    row_M = torch.arange(setting.columns, device=device)
    row_R1 = row_M[setting.first :, None]
    if classes.has_ids:
        same_RM = classes.class_M[row_R1] == classes.class_M
        same_RM &= row_R1 != row_M
    else:
        local_R1 = row_R1 - setting.first
        same_RM = (local_R1 + setting.half) % setting.own + setting.first == row_M
    return 2 * same_RM.double() / same_RM.sum(1, keepdim=True)


def _projected(grad_RD: Tensor, u_RD: Tensor, normalize: bool, squared: int) -> Tensor:
    """Go back through the normalisation of rows whose squared length is known."""
    if not normalize:
        return grad_RD
    along_R1 = (grad_RD * u_RD).sum(1, keepdim=True)
    return (grad_RD - along_R1 * u_RD) / math.sqrt(squared)


def _difference(ours: Tensor, right: Tensor) -> float:
    """Return the largest error relative to the largest number; NaN if anything is."""
    return ((ours.double() - right).abs().max() / right.abs().max().clamp_min(1e-30)).item()
