"""NT-Xent in Triton (docs/math.md 1): similarities are made, used and forgotten on the chip.

With U = 2 M^2 D FLOP (one matrix product), of M rows and width D, in one process:

    forward, tau > 0.025          U/2 FLOP    M^2/2 exps    triangle: row and column sums at once
    forward, running maximum      U           M^2           tau <= 0.025, a tau that is a tensor on
                                                            a GPU, normalize=False, own rows facing
                                                            all ranks' rows
    backward, D <= 256            2 U         M^2 (2 M^2 with a running maximum)
    backward, D > 256             2 U         the same; panels of weights, 32 MB, written and read

and O(M D) bytes of memory traffic beyond the cache; z, two floats a row (and with a group the
gathered rows) are kept for the backward. No atomics: the same input gives the same bits.
By the machine code of the inner loops, D = 128 in bfloat16 on an H200: a forward tile of 128 x 128
takes 1230 cycles of the matrix unit, 1024 of exps and about 2000 of issue (column sums, above all,
across lanes); a backward tile of 128 x 64 takes 1230, 512 and about 900, one by one. We expect
about 0.07 + 0.30 ms at M = 16384 and 1.1 + 4.8 ms at M = 65536.
float32 rows are multiplied as SSGEAR_TRITON_FLOAT32 says (launch.precision).
Triton is imported at the first call. *Untested on hardware*: compiled ahead of time for sm_80,
sm_90 and sm_100, and run in Triton's interpreter; no GPU was at hand.
Shapes: R own rows, M rows of all W ranks, D the width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssgear.kernels import transforms
from ssgear.kernels.nt_xent.rows import gather_rows, unit_rows
from ssgear.kernels.nt_xent.streaming import gather, is_bounded, nt_xent_backward, nt_xent_forward
from ssgear.kernels.transforms import Context

if TYPE_CHECKING:
    from ssgear.kernels.nt_xent.triton.inputs import Setting

Settings = tuple[bool, bool, str, int, int]
"""Of an operator: normalize, bounded, the group's name, its ranks, own rank."""


@torch.library.custom_op("ssgear::nt_xent_triton_forward", mutates_args=())
def nt_xent_triton_forward(
    z_RD: Tensor,
    tau: Tensor,
    ids_R: Tensor | None,
    normalize: bool,
    bounded: bool,
    group_name: str,
    world_size: int,
    rank: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return loss, maximum_M and weight_M, class_M, others_M, anchors, and gathered rows.

    P_ij = 2^(t_ij - maximum_i) weight_i; rows that are no anchor have weight 0.
    """
    from ssgear.kernels.nt_xent.triton import launch
    from ssgear.kernels.nt_xent.triton.check import plan_for
    from ssgear.kernels.nt_xent.triton.inputs import Call, classes_of

    with torch.autocast(z_RD.device.type, enabled=False), _on_device_of(z_RD):
        z_MD, ids_M, group = gather(z_RD, z_RD, ids_R, group_name)
        setting = _setting(z_RD, tau, world_size, rank, normalize, bounded)
        classes = classes_of(ids_M, setting, z_RD)
        kept_MD = z_RD.new_empty(0, z_RD.shape[1]) if group is None else z_MD
        plan = plan_for(z_RD, setting, ids_R is not None)
        if plan is None:
            outputs = nt_xent_forward(
                z_RD, tau, ids_R, normalize, False, group_name, world_size, rank, "torch"
            )
            return outputs[0], *_from_lse(outputs[1]), *classes, kept_MD
        call = Call(launch.prepare(z_MD, setting), tau, classes, setting)
        loss, maximum_M, weight_M = launch.forward(call, plan)
        if group is not None:
            both_M2 = gather_rows(torch.stack((maximum_M, weight_M), 1), group)
            maximum_M, weight_M = (part_M.clone() for part_M in both_M2.unbind(1))
        return loss, maximum_M, weight_M, *classes, kept_MD


@nt_xent_triton_forward.register_fake
def _(
    z_RD: Tensor, tau: Tensor, ids_R: Tensor | None, *settings: *Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    group_name, world_size = settings[2:4]
    num_rows = z_RD.shape[0] * world_size
    num_classes = 0 if ids_R is None else num_rows
    return (
        tau.new_empty(()),
        tau.new_empty(num_rows),
        tau.new_empty(num_rows),
        z_RD.new_empty(num_classes, dtype=torch.int32),
        z_RD.new_empty(num_classes, dtype=torch.int32),
        tau.new_empty(()),
        z_RD.new_empty(num_rows if group_name else 0, z_RD.shape[1]),
    )


@torch.library.custom_op("ssgear::nt_xent_triton_backward", mutates_args=())
def nt_xent_triton_backward(
    grad: Tensor,
    z_RD: Tensor,
    tau: Tensor,
    maximum_M: Tensor,
    weight_M: Tensor,
    class_M: Tensor,
    others_M: Tensor,
    anchors: Tensor,
    z_MD: Tensor | None,
    normalize: bool,
    bounded: bool,
    world_size: int,
    rank: int,
) -> tuple[Tensor, Tensor]:
    """Return the gradients with respect to z and tau, times `grad` and the number of ranks."""
    from ssgear.kernels.nt_xent.triton import launch
    from ssgear.kernels.nt_xent.triton.check import plan_for
    from ssgear.kernels.nt_xent.triton.inputs import Call, Classes
    from ssgear.kernels.nt_xent.triton.launch_backward import Upstream, backward

    with torch.autocast(z_RD.device.type, enabled=False), _on_device_of(z_RD):
        setting = _setting(z_RD, tau, world_size, rank, normalize, bounded)
        has_ids = len(class_M) > 0
        plan = plan_for(z_RD, setting, has_ids)
        if plan is None:
            u_MD = None if z_MD is None else _unit_rows(z_MD, tau, normalize)
            ids_M = class_M.long() if has_ids else None
            lse_M = _to_lse(maximum_M, weight_M)
            gradients: tuple[Tensor, Tensor] = nt_xent_backward(
                grad, z_RD, tau, ids_M, lse_M, u_MD, normalize, False, world_size, rank, "torch"
            )
            return gradients
        rows = launch.prepare(z_RD if z_MD is None else z_MD, setting)
        call = Call(rows, tau, Classes(class_M, others_M, anchors), setting)
        grad_RD = torch.empty_like(z_RD, memory_format=torch.contiguous_format)
        return grad_RD, backward(call, Upstream(grad, maximum_M, weight_M), grad_RD, plan)


@nt_xent_triton_backward.register_fake
def _(grad: Tensor, z_RD: Tensor, tau: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return z_RD.new_empty(z_RD.shape), tau.new_empty(())


Kept = Context[tuple[bool, bool, int, int]]


def _keep(
    ctx: Kept,
    inputs: tuple[Tensor, Tensor, Tensor | None, *Settings],
    output: tuple[Tensor, ...],
) -> None:
    z_RD, tau, _, normalize, bounded, group_name, world_size, rank = inputs
    _, *kept, z_MD = output
    ctx.save_for_backward(z_RD, tau, *kept, z_MD if group_name else None)
    ctx.settings = (normalize, bounded, world_size, rank)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Kept, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    return (*nt_xent_triton_backward(grad, *ctx.saved_tensors, *ctx.settings), *(None,) * 6)


nt_xent_triton_forward.register_autograd(_differentiate, setup_context=_keep)
nt_xent_triton_backward.register_autograd(transforms.no_second_derivative("nt_xent"))


def _setting(
    z_RD: Tensor, tau: Tensor, world_size: int, rank: int, normalize: bool, promised: bool
) -> Setting:
    """Return what the call is about; tau is looked at where that does not stop the host."""
    from ssgear.kernels.nt_xent.triton.inputs import Setting

    return Setting(
        own=z_RD.shape[0],
        columns=z_RD.shape[0] * world_size,
        first=z_RD.shape[0] * rank,
        width=z_RD.shape[1],
        normalize=normalize,
        bounded=is_bounded(tau, normalize, promised),
    )


def _from_lse(lse_M: Tensor) -> tuple[Tensor, Tensor]:
    """Return maximum and weight for the streaming form's lse, which is infinite for no anchor."""
    anchor_M = lse_M != math.inf
    return (lse_M / math.log(2)).where(anchor_M, 0.0).float(), anchor_M.float()


def _to_lse(maximum_M: Tensor, weight_M: Tensor) -> Tensor:
    return (maximum_M.double() * math.log(2)).where(weight_M != 0, math.inf)


def _unit_rows(z_MD: Tensor, tau: Tensor, normalize: bool) -> Tensor:
    u_MD = z_MD.float()
    return (unit_rows(u_MD)[0] if normalize else u_MD) * tau.rsqrt()


def _on_device_of(z: Tensor) -> torch.cuda.device_of:
    """Launch on the device that z is on, whichever is current."""
    return torch.cuda.device_of(z)  # type: ignore[no-untyped-call]
