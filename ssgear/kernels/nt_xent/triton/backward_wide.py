"""Triton kernels of NT-Xent's backward for wide rows, by way of panels of weights.

A tile of rows of dL/du would not fit into registers: weights g (backward.py) of a
panel are written, the panel is multiplied with its rows, and the rows are finished when their last
panel is done. A panel stays in the L2 cache in between.
Shapes: P x Q a panel, R own rows, D the width, I x J a tile.
*Untested on hardware*: compiled ahead of time, and run in Triton's interpreter only.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-incomplete-defs

import triton
import triton.language as tl

from ssgear.kernels.nt_xent.triton.backward import own_statistics, pair_weights
from ssgear.kernels.nt_xent.triton.rows import (
    LOG2_E,
    has_special,
    multiply,
    narrow,
    positive_of,
    products,
    read_temperature,
)


@triton.jit(do_not_specialize=[
    "own", "half", "first", "num_columns", "first_row", "first_column", "column_tiles",
])  # fmt: skip
def weight_panel(
    w_MD, unit_M, maximum_M, weight_M, class_M, others_M, tau_0, g_PQ, slopes_T,
    own, half, first, num_columns, first_row, first_column, panel_columns, column_tiles,
    WIDTH: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr,
    LIFT: tl.constexpr, BOUNDED: tl.constexpr, HAS_IDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write one tile of LIFT g_ij unit_j to a panel [P, Q] that fits into the L2 cache.

    The tile's part of sum <u_i, dL/du_i> is added to what panels before have left in its place.
    """
    scale = LOG2_E / read_temperature(tau_0)
    row = first_row + tl.program_id(0) // column_tiles * BLOCK_I
    column = first_column + tl.program_id(0) % column_tiles * BLOCK_J
    row_I, column_J = first + row + tl.arange(0, BLOCK_I), column + tl.arange(0, BLOCK_J)
    own_I = own_statistics(
        unit_M, maximum_M, weight_M, class_M, others_M, row_I, num_columns, scale, LIFT, HAS_IDS
    )
    special = has_special(row, column, own, half, first, num_columns, BLOCK_I, BLOCK_J, HAS_IDS)
    dot_IJ = products(w_MD, row_I, column_J, WIDTH, BLOCK_K, PRECISION)
    positive_I = positive_of(row_I, first, half)
    g_IJ = pair_weights(
        dot_IJ, row_I, column_J, positive_I, own_I, unit_M, maximum_M, weight_M, class_M,
        scale, special, num_columns, LIFT, BOUNDED, HAS_IDS,
    )  # fmt: skip
    place_I = (row - first_row + tl.arange(0, BLOCK_I)).to(tl.int64) * panel_columns
    place_IJ = place_I[:, None] + (column_J - first_column)[None, :]
    tl.store(g_PQ + place_IJ, narrow(g_IJ, g_PQ.dtype.element_ty, PRECISION))
    slope_I = tl.sum(g_IJ * dot_IJ, 1) * tl.load(unit_M + row_I)
    slope_I = tl.where(row_I - first < own, slope_I, 0.0)
    place = slopes_T + tl.program_id(0)
    tl.store(place, tl.load(place) + tl.sum(slope_I.to(tl.float64), 0))


@triton.jit(do_not_specialize=["num_steps", "first_column"])
def panel_product(
    g_PQ, w_MD, sum_PD,
    first_column, panel_columns, num_steps,
    WIDTH: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the product of a panel with its rows to sum [P, WIDTH], in float32."""
    blocks: tl.constexpr = WIDTH // BLOCK_D
    row_I = tl.program_id(0) // blocks * BLOCK_I + tl.arange(0, BLOCK_I)
    d_D = tl.program_id(0) % blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    place_ID = sum_PD + row_I[:, None].to(tl.int64) * WIDTH + d_D[None, :]
    sum_ID = tl.load(place_ID) if first_column > 0 else tl.zeros((BLOCK_I, BLOCK_D), tl.float32)
    k_K = tl.arange(0, BLOCK_K)
    for step in range(0, num_steps):
        q_K = step * BLOCK_K + k_K
        a_IK = tl.load(g_PQ + row_I[:, None].to(tl.int64) * panel_columns + q_K[None, :])
        column_K = (first_column + q_K).to(tl.int64)
        b_KD = tl.load(w_MD + column_K[:, None] * WIDTH + d_D[None, :])
        sum_ID = multiply(a_IK, b_KD, sum_ID, PRECISION)
    tl.store(place_ID, sum_ID)


@triton.jit(do_not_specialize=["own", "first", "first_row"])
def finish_gradient(
    sum_PD, w_MD, unit_M, back_M, tau_0, grad_0, anchors_0, grad_RD,
    own, first, first_row, width, factor,
    WIDTH: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_D: tl.constexpr, LIFT: tl.constexpr,
    NORMALIZE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Finish rows whose sum over j stands in memory: the end of `gradient_rows`, in chunks of D."""
    tau = read_temperature(tau_0)
    factor = tl.load(grad_0) * (factor / LIFT) / (tl.load(anchors_0) * tau)
    panel_I = tl.program_id(0).to(tl.int64) * BLOCK_I + tl.arange(0, BLOCK_I)
    local_I = first_row + panel_I
    unit_I, back_I = tl.load(unit_M + first + local_I), tl.load(back_M + first + local_I)
    along_I = tl.zeros((BLOCK_I,), tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        d_D = start + tl.arange(0, BLOCK_D)
        g_ID = tl.load(sum_PD + panel_I[:, None] * WIDTH + d_D[None, :]) * factor
        w_ID = tl.load(w_MD + (first + local_I)[:, None] * WIDTH + d_D[None, :]).to(tl.float32)
        along_I += tl.sum(g_ID * (w_ID * unit_I[:, None]), 1)
    for start in range(0, WIDTH, BLOCK_D):
        d_D = start + tl.arange(0, BLOCK_D)
        g_ID = tl.load(sum_PD + panel_I[:, None] * WIDTH + d_D[None, :]) * factor
        w_ID = tl.load(w_MD + (first + local_I)[:, None] * WIDTH + d_D[None, :]).to(tl.float32)
        if NORMALIZE:
            g_ID = (g_ID - along_I[:, None] * (w_ID * unit_I[:, None])) * back_I[:, None]
        inside_ID = (local_I < own)[:, None] & (d_D < width)[None, :]
        place_ID = grad_RD + local_I[:, None] * width + d_D[None, :]
        tl.store(place_ID, narrow(g_ID, grad_RD.dtype.element_ty, PRECISION), mask=inside_ID)
