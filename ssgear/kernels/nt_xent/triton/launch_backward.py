"""Host side of the Triton NT-Xent backward: one fused launch, or panels of weights for wide rows.

Shapes: R own rows, M rows of all ranks, D the width; P x Q a panel; T tiles of own rows.
*Untested on hardware.*
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ssgear.kernels.nt_xent.triton import backward as gradient_kernels
from ssgear.kernels.nt_xent.triton import backward_wide as panel_kernels
from ssgear.kernels.nt_xent.triton.inputs import Call, Rows, count_tiles, round_up
from ssgear.kernels.nt_xent.triton.launch import add_up, lift, options, precision_of
from ssgear.kernels.nt_xent.triton.tiles import ROW_ALIGNMENT, Plan, Tiles, is_fused

PANEL = (2048, 8192)
"""Rows and columns of a panel of weights: 32 MB in 16 bits, which stay in the L2 cache."""


class Upstream(NamedTuple):
    """What a backward is given beside the inputs of its forward."""

    grad: Tensor
    """Slope of the loss."""
    maximum_M: Tensor
    """Of all ranks' rows, as `weight_M`."""
    weight_M: Tensor


def backward(call: Call, upstream: Upstream, grad_RD: Tensor, plan: Plan) -> Tensor:
    """Fill the gradient of own rows and return tau's; both times grad and the number of ranks."""
    fused = is_fused(call.rows.w_MD.dtype, call.setting.width)
    slopes_T = (_fused_gradient if fused else _panel_gradient)(call, upstream, grad_RD, plan)
    grad_tau = call.tau.new_empty(())
    # <u, dL/du> has the number of anchors in it already
    add_up(slopes_T, grad_tau, call.tau, -0.5)
    return grad_tau


def _fused_gradient(call: Call, upstream: Upstream, grad_RD: Tensor, plan: Plan) -> Tensor:
    """Fill the gradient and return parts of sum <u, dL/du>."""
    rows, tau, classes, setting = call
    grad, *statistics = upstream
    tiles = plan.gradient
    num_programs = count_tiles(setting.own, tiles.rows)
    slopes_T = tau.new_empty(num_programs, dtype=torch.float64)
    gradient_kernels.gradient_rows[(num_programs,)](
        *rows, *statistics, classes.class_M, classes.others_M, tau, grad, classes.anchors,
        grad_RD, slopes_T, setting.own, setting.half, setting.first, setting.columns,
        count_tiles(setting.columns, tiles.columns), setting.width,
        setting.columns / setting.own, WIDTH=rows.w_MD.shape[1],
        BLOCK_I=tiles.rows, BLOCK_J=tiles.columns, NORMALIZE=setting.normalize,
        SHARED=tiles.shared, **_weights_options(call), **options(tiles),
    )  # fmt: skip
    return slopes_T


def _panel_gradient(call: Call, upstream: Upstream, grad_RD: Tensor, plan: Plan) -> Tensor:
    """Go through panels of weights, small enough to stay in the cache between two products."""
    rows, tau, classes, setting = call
    panel_rows = min(PANEL[0], round_up(setting.own, ROW_ALIGNMENT))
    panel_columns = min(PANEL[1], round_up(setting.columns, ROW_ALIGNMENT))
    g_PQ = rows.w_MD.new_empty(panel_rows, panel_columns)
    num_tiles = panel_rows // plan.gradient.rows * (panel_columns // plan.gradient.columns)
    slopes_T = tau.new_zeros(num_tiles, dtype=torch.float64)
    sum_PD = tau.new_empty(panel_rows, rows.w_MD.shape[1])
    for row in range(0, setting.own, panel_rows):
        num_rows = min(panel_rows, setting.own - row)
        for column in range(0, setting.columns, panel_columns):
            num_columns = round_up(min(panel_columns, setting.columns - column), ROW_ALIGNMENT)
            part = (row, num_rows, column, num_columns)
            _weight_panel(call, upstream, plan.gradient, (g_PQ, slopes_T), part)
            _panel_product(rows, plan.product, g_PQ, sum_PD, part)
        _finish_gradient(call, upstream, plan.gradient.rows, (sum_PD, grad_RD), row, num_rows)
    factor = setting.columns / setting.own / lift(rows)
    return slopes_T * (upstream.grad * factor / (classes.anchors * tau))


def _weight_panel(
    call: Call,
    upstream: Upstream,
    tiles: Tiles,
    outputs: tuple[Tensor, Tensor],
    part: tuple[int, int, int, int],
) -> None:
    rows, tau, classes, setting = call
    _, *statistics = upstream
    row, num_rows, column, num_columns = part
    column_tiles = num_columns // tiles.columns
    panel_kernels.weight_panel[(count_tiles(num_rows, tiles.rows) * column_tiles,)](
        rows.w_MD, rows.unit_M, *statistics, classes.class_M, classes.others_M, tau, *outputs,
        setting.own, setting.half, setting.first, setting.columns,
        row, column, outputs[0].shape[1], column_tiles, WIDTH=rows.w_MD.shape[1],
        BLOCK_I=tiles.rows, BLOCK_J=tiles.columns, BLOCK_K=tiles.depth,
        **_weights_options(call), **options(tiles),
    )  # fmt: skip


def _panel_product(
    rows: Rows, tiles: Tiles, g_PQ: Tensor, sum_PD: Tensor, part: tuple[int, int, int, int]
) -> None:
    _, num_rows, column, num_columns = part
    width = rows.w_MD.shape[1]
    panel_kernels.panel_product[(count_tiles(num_rows, tiles.rows) * (width // tiles.columns),)](
        g_PQ, rows.w_MD, sum_PD, column, g_PQ.shape[1], num_columns // tiles.depth,
        WIDTH=width, BLOCK_I=tiles.rows, BLOCK_D=tiles.columns, BLOCK_K=tiles.depth,
        PRECISION=precision_of(rows), **options(tiles),
    )  # fmt: skip


def _finish_gradient(
    call: Call,
    upstream: Upstream,
    block: int,
    outputs: tuple[Tensor, Tensor],
    row: int,
    num_rows: int,
) -> None:
    rows, tau, classes, setting = call
    sum_PD, grad_RD = outputs
    panel_kernels.finish_gradient[(count_tiles(num_rows, block),)](
        sum_PD, *rows, tau, upstream.grad, classes.anchors, grad_RD, setting.own, setting.first,
        row, setting.width, setting.columns / setting.own, WIDTH=rows.w_MD.shape[1],
        BLOCK_I=block, BLOCK_D=64, LIFT=lift(rows), NORMALIZE=setting.normalize,
        PRECISION=precision_of(rows), num_warps=8, enable_fp_fusion=True,
    )  # fmt: skip


def _weights_options(call: Call) -> dict[str, float | bool | str]:
    return {
        "LIFT": lift(call.rows),
        "BOUNDED": call.setting.bounded,
        "HAS_IDS": call.classes.has_ids,
        "PRECISION": precision_of(call.rows),
    }
