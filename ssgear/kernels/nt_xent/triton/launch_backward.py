"""Host side of the Triton NT-Xent backward: one fused launch, or panels of weights for wide rows.

Shapes: R own rows, M rows of all ranks, D the width; P x Q a panel; T tiles of own rows.
*Untested on hardware.*
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ssgear.kernels.nt_xent.triton import backward as gradient_kernels
from ssgear.kernels.nt_xent.triton import backward_wide as panel_kernels
from ssgear.kernels.nt_xent.triton.inputs import Classes, Rows, Setting, count_tiles, round_up
from ssgear.kernels.nt_xent.triton.launch import add_up, lift, options, precision_of
from ssgear.kernels.nt_xent.triton.tiles import ROW_ALIGNMENT, Plan, Tiles, is_fused

PANEL = (2048, 8192)
"""Rows and columns of a panel of weights: 32 MB in 16 bits, which stay in the L2 cache."""


def backward(
    grad: Tensor,
    rows: Rows,
    statistics: tuple[Tensor, Tensor],
    tau: Tensor,
    classes: Classes,
    grad_RD: Tensor,
    setting: Setting,
    plan: Plan,
) -> Tensor:
    """Fill the gradient of own rows and return tau's; both times grad and the number of ranks."""
    inputs = _Backward(grad, rows, statistics, tau, classes, grad_RD)
    fused = is_fused(rows.w_MD.dtype, setting.width)
    slopes_T = (_fused_gradient if fused else _panel_gradient)(inputs, setting, plan)
    grad_tau = tau.new_empty(())
    # <u, dL/du> has the number of anchors in it already
    add_up(slopes_T, grad_tau, tau, -0.5)
    return grad_tau


class _Backward(NamedTuple):
    grad: Tensor
    rows: Rows
    statistics: tuple[Tensor, Tensor]
    tau: Tensor
    classes: Classes
    grad_RD: Tensor


def _fused_gradient(inputs: _Backward, setting: Setting, plan: Plan) -> Tensor:
    """Fill the gradient and return parts of sum <u, dL/du>."""
    tiles, rows, classes = plan.gradient, inputs.rows, inputs.classes
    num_programs = count_tiles(setting.own, tiles.rows)
    slopes_T = inputs.tau.new_empty(num_programs, dtype=torch.float64)
    gradient_kernels.gradient_rows[(num_programs,)](
        *rows,
        *inputs.statistics,
        classes.class_M,
        classes.others_M,
        inputs.tau,
        inputs.grad,
        classes.anchors,
        inputs.grad_RD,
        slopes_T,
        setting.own,
        setting.half,
        setting.first,
        setting.columns,
        count_tiles(setting.columns, tiles.columns),
        setting.width,
        setting.columns / setting.own,
        WIDTH=rows.w_MD.shape[1],
        BLOCK_I=tiles.rows,
        BLOCK_J=tiles.columns,
        NORMALIZE=setting.normalize,
        SHARED=tiles.shared,
        **_weights_options(inputs, setting),
        **options(tiles),
    )
    return slopes_T


def _panel_gradient(inputs: _Backward, setting: Setting, plan: Plan) -> Tensor:
    """Go through panels of weights, small enough to stay in the cache between two products."""
    rows, width = inputs.rows, inputs.rows.w_MD.shape[1]
    panel_rows = min(PANEL[0], round_up(setting.own, ROW_ALIGNMENT))
    panel_columns = min(PANEL[1], round_up(setting.columns, ROW_ALIGNMENT))
    g_PQ = rows.w_MD.new_empty(panel_rows, panel_columns)
    num_tiles = panel_rows // plan.gradient.rows * (panel_columns // plan.gradient.columns)
    slopes_T = inputs.tau.new_zeros(num_tiles, dtype=torch.float64)
    sum_PD = inputs.tau.new_empty(panel_rows, width)
    for row in range(0, setting.own, panel_rows):
        num_rows = min(panel_rows, setting.own - row)
        for column in range(0, setting.columns, panel_columns):
            num_columns = round_up(min(panel_columns, setting.columns - column), ROW_ALIGNMENT)
            _weight_panel(
                inputs,
                setting,
                plan.gradient,
                (g_PQ, slopes_T),
                (row, num_rows, column, num_columns),
            )
            _panel_product(rows, plan.product, g_PQ, sum_PD, (num_rows, column, num_columns))
        _finish_gradient(inputs, setting, plan.gradient.rows, sum_PD, row, num_rows)
    factor = setting.columns / setting.own / lift(rows)
    return slopes_T * (inputs.grad * factor / (inputs.classes.anchors * inputs.tau))


def _weight_panel(
    inputs: _Backward,
    setting: Setting,
    tiles: Tiles,
    outputs: tuple[Tensor, Tensor],
    part: tuple[int, int, int, int],
) -> None:
    row, num_rows, column, num_columns = part
    column_tiles = num_columns // tiles.columns
    classes = inputs.classes
    panel_kernels.weight_panel[(count_tiles(num_rows, tiles.rows) * column_tiles,)](
        inputs.rows.w_MD,
        inputs.rows.unit_M,
        *inputs.statistics,
        classes.class_M,
        classes.others_M,
        inputs.tau,
        *outputs,
        setting.own,
        setting.half,
        setting.first,
        setting.columns,
        row,
        column,
        outputs[0].shape[1],
        column_tiles,
        WIDTH=inputs.rows.w_MD.shape[1],
        BLOCK_I=tiles.rows,
        BLOCK_J=tiles.columns,
        BLOCK_K=tiles.depth,
        **_weights_options(inputs, setting),
        **options(tiles),
    )


def _panel_product(
    rows: Rows, tiles: Tiles, g_PQ: Tensor, sum_PD: Tensor, part: tuple[int, int, int]
) -> None:
    num_rows, column, num_columns = part
    width = rows.w_MD.shape[1]
    panel_kernels.panel_product[(count_tiles(num_rows, tiles.rows) * (width // tiles.columns),)](
        g_PQ,
        rows.w_MD,
        sum_PD,
        column,
        g_PQ.shape[1],
        num_columns // tiles.depth,
        WIDTH=width,
        BLOCK_I=tiles.rows,
        BLOCK_D=tiles.columns,
        BLOCK_K=tiles.depth,
        PRECISION=precision_of(rows),
        **options(tiles),
    )


def _finish_gradient(
    inputs: _Backward, setting: Setting, block: int, sum_PD: Tensor, row: int, num_rows: int
) -> None:
    panel_kernels.finish_gradient[(count_tiles(num_rows, block),)](
        sum_PD,
        *inputs.rows,
        inputs.tau,
        inputs.grad,
        inputs.classes.anchors,
        inputs.grad_RD,
        setting.own,
        setting.first,
        row,
        setting.width,
        setting.columns / setting.own,
        WIDTH=inputs.rows.w_MD.shape[1],
        BLOCK_I=block,
        BLOCK_D=64,
        LIFT=lift(inputs.rows),
        NORMALIZE=setting.normalize,
        PRECISION=precision_of(inputs.rows),
        num_warps=8,
        enable_fp_fusion=True,
    )


def _weights_options(inputs: _Backward, setting: Setting) -> dict[str, Any]:
    return {
        "LIFT": lift(inputs.rows),
        "BOUNDED": setting.bounded,
        "HAS_IDS": len(inputs.classes.class_M) > 0,
        "PRECISION": precision_of(inputs.rows),
    }
