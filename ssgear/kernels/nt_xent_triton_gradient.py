"""Triton kernels of NT-Xent's backward (nt_xent_triton.py calls them and says what they cost).

    dL/du_i = 1/(A tau) sum_j g_ij u_j,   g_ij = P_ij + P_ji - 2 [j positive of i] / positives of i

Own rows own their programs: no atomics, no transposed product. The positives are part of g: where
they dominate, g is a small difference, taken in float32 before it is rounded to the rows' type.
u_j = unit_j w_j, so unit_j multiplies g and the matrix unit reads w. Shapes and padding are as in
nt_xent_triton_kernels.py; A is the number of anchors.
*Untested on hardware*: compiled ahead of time, and run in Triton's interpreter only.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-incomplete-defs

import triton
import triton.language as tl

from ssgear.kernels.nt_xent_triton_kernels import (
    LOG2_E,
    has_special,
    load_rows,
    multiply,
    narrow,
    products,
    read_temperature,
)


@triton.jit
def pair_weights(
    dot_IJ,
    row_I,
    column_J,
    positive_I,
    scale_I,
    maximum_I,
    weight_I,
    class_I,
    share_I,
    unit_M,
    maximum_M,
    weight_M,
    class_M,
    scale,
    special,
    num_columns,
    LIFT: tl.constexpr,
    BOUNDED: tl.constexpr,
    HAS_IDS: tl.constexpr,
):
    """Return LIFT g_ij unit_j of a tile; 0 for a row itself and for columns of padding."""
    inside_J = column_J < num_columns
    unit_J = tl.load(unit_M + column_J)
    weight_J = tl.load(weight_M + column_J, mask=inside_J, other=0.0) * (LIFT * unit_J)
    t_IJ = dot_IJ * unit_J[None, :] * scale_I[:, None]
    if BOUNDED:
        g_IJ = tl.exp2(t_IJ - scale) * (weight_I[:, None] * unit_J[None, :] + weight_J[None, :])
    else:
        maximum_J = tl.load(maximum_M + column_J, mask=inside_J, other=0.0)
        mine_IJ = tl.exp2(t_IJ - maximum_I[:, None]) * (weight_I[:, None] * unit_J[None, :])
        theirs_IJ = tl.exp2(t_IJ - maximum_J[None, :])
        g_IJ = mine_IJ + theirs_IJ * weight_J[None, :]
    if HAS_IDS:
        class_J = tl.load(class_M + column_J, mask=inside_J, other=-1)
        same_IJ = class_I[:, None] == class_J[None, :]
        g_IJ -= tl.where(same_IJ, share_I[:, None] * unit_J[None, :], 0.0)
    if special:
        if not HAS_IDS:
            same_IJ = positive_I[:, None] == column_J[None, :]
            g_IJ -= tl.where(same_IJ, (2.0 * LIFT) * unit_J[None, :], 0.0)
        # a column of padding has unit 0, but 2^(0 - maximum) may be infinite
        seen_IJ = (row_I[:, None] != column_J[None, :]) & inside_J[None, :]
        g_IJ = tl.where(seen_IJ, g_IJ, 0.0)
    return g_IJ


@triton.jit
def own_statistics(
    unit_M, maximum_M, weight_M, class_M, others_M, row_I, num_columns, scale, LIFT, HAS_IDS
):
    """Return scale, maximum, weight, class and share (2 / positives) of a tile's rows."""
    inside_I = row_I < num_columns
    scale_I = tl.load(unit_M + row_I) * scale
    maximum_I = tl.load(maximum_M + row_I, mask=inside_I, other=0.0)
    weight_I = tl.load(weight_M + row_I, mask=inside_I, other=0.0) * LIFT
    class_I, share_I = row_I, scale_I
    if HAS_IDS:
        class_I = tl.load(class_M + row_I, mask=inside_I, other=-2)
        others_I = tl.load(others_M + row_I, mask=inside_I, other=0)
        share_I = tl.div_rn(2.0 * LIFT, tl.maximum(others_I, 1).to(tl.float32))
    return scale_I, maximum_I, weight_I, class_I, share_I


@triton.jit
def positive_of(row_I, first, half):
    """Return the other view of an own row, among all ranks' rows."""
    local_I = row_I - first
    return first + tl.where(local_I < half, local_I + half, local_I - half)


@triton.jit
def gradient_rows(
    w_MD,
    unit_M,
    back_M,
    maximum_M,
    weight_M,
    class_M,
    others_M,
    tau_0,
    grad_0,
    anchors_0,
    grad_RD,
    slopes_T,
    own,
    half,
    first,
    num_columns,
    num_tiles,
    width,
    factor,
    WIDTH: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    LIFT: tl.constexpr,
    NORMALIZE: tl.constexpr,
    BOUNDED: tl.constexpr,
    HAS_IDS: tl.constexpr,
    SHARED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write dL/dz of a tile of own rows, and their part of sum_i <u_i, dL/du_i>.

    That part is summed from g before it is rounded: dL/dtau has float32's accuracy in every type.

    SHARED: the second product reads g as the transpose of a transpose and so from shared memory,
    not from registers (some versions of ptxas reuse those too early, see nt_xent_triton_check.py).
    """
    tau = read_temperature(tau_0)
    scale = LOG2_E / tau
    row = tl.program_id(0) * BLOCK_I
    row_I = first + row + tl.arange(0, BLOCK_I)
    positive_I = positive_of(row_I, first, half)
    scale_I, maximum_I, weight_I, class_I, share_I = own_statistics(
        unit_M, maximum_M, weight_M, class_M, others_M, row_I, num_columns, scale, LIFT, HAS_IDS
    )
    a_ID = load_rows(w_MD, row_I, WIDTH)
    sum_ID = tl.zeros((BLOCK_I, WIDTH), tl.float32)
    slope_I = tl.zeros((BLOCK_I,), tl.float32)
    zero_IJ = tl.zeros((BLOCK_I, BLOCK_J), tl.float32)
    for tile in range(0, num_tiles):
        column_J = tile * BLOCK_J + tl.arange(0, BLOCK_J)
        b_JD = load_rows(w_MD, column_J, WIDTH)
        special = has_special(
            row, tile * BLOCK_J, own, half, first, num_columns, BLOCK_I, BLOCK_J, HAS_IDS
        )
        if SHARED:
            dot_JI = multiply(b_JD, tl.trans(a_ID), tl.trans(zero_IJ), PRECISION)
            dot_IJ = tl.trans(dot_JI)
        else:
            dot_IJ = multiply(a_ID, tl.trans(b_JD), zero_IJ, PRECISION)
        g_IJ = pair_weights(
            dot_IJ,
            row_I,
            column_J,
            positive_I,
            scale_I,
            maximum_I,
            weight_I,
            class_I,
            share_I,
            unit_M,
            maximum_M,
            weight_M,
            class_M,
            scale,
            special,
            num_columns,
            LIFT,
            BOUNDED,
            HAS_IDS,
        )
        slope_I += tl.sum(g_IJ * dot_IJ, 1)
        sum_ID = multiply(narrow(g_IJ, b_JD.dtype, PRECISION), b_JD, sum_ID, PRECISION)
    local_I = (row + tl.arange(0, BLOCK_I)).to(tl.int64)
    d_D = tl.arange(0, WIDTH)
    factor = tl.load(grad_0) * (factor / LIFT) / (tl.load(anchors_0) * tau)
    unit_I = tl.load(unit_M + row_I)
    sum_ID *= factor
    if NORMALIZE:
        u_ID = load_rows(w_MD, row_I, WIDTH).to(tl.float32) * unit_I[:, None]
        along_I = tl.sum(sum_ID * u_ID, 1)
        sum_ID = (sum_ID - along_I[:, None] * u_ID) * tl.load(back_M + row_I)[:, None]
    inside_ID = (local_I < own)[:, None] & (d_D < width)[None, :]
    place_ID = grad_RD + local_I[:, None] * width + d_D[None, :]
    tl.store(place_ID, narrow(sum_ID, grad_RD.dtype.element_ty, PRECISION), mask=inside_ID)
    slope_I = tl.where(local_I < own, slope_I * unit_I * factor, 0.0)
    tl.store(slopes_T + tl.program_id(0), tl.sum(slope_I.to(tl.float64), 0))


@triton.jit
def weight_panel(
    w_MD,
    unit_M,
    maximum_M,
    weight_M,
    class_M,
    others_M,
    tau_0,
    g_PQ,
    slopes_T,
    own,
    half,
    first,
    num_columns,
    first_row,
    first_column,
    panel_columns,
    column_tiles,
    WIDTH: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_K: tl.constexpr,
    LIFT: tl.constexpr,
    BOUNDED: tl.constexpr,
    HAS_IDS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write one tile of LIFT g_ij unit_j to a panel [P, Q] that fits into the L2 cache.

    The tile's part of sum <u_i, dL/du_i> is added to what panels before have left in its place.
    """
    scale = LOG2_E / read_temperature(tau_0)
    row = first_row + tl.program_id(0) // column_tiles * BLOCK_I
    column = first_column + tl.program_id(0) % column_tiles * BLOCK_J
    row_I, column_J = first + row + tl.arange(0, BLOCK_I), column + tl.arange(0, BLOCK_J)
    scale_I, maximum_I, weight_I, class_I, share_I = own_statistics(
        unit_M, maximum_M, weight_M, class_M, others_M, row_I, num_columns, scale, LIFT, HAS_IDS
    )
    special = has_special(row, column, own, half, first, num_columns, BLOCK_I, BLOCK_J, HAS_IDS)
    dot_IJ = products(w_MD, row_I, column_J, WIDTH, BLOCK_K, PRECISION)
    g_IJ = pair_weights(
        dot_IJ,
        row_I,
        column_J,
        positive_of(row_I, first, half),
        scale_I,
        maximum_I,
        weight_I,
        class_I,
        share_I,
        unit_M,
        maximum_M,
        weight_M,
        class_M,
        scale,
        special,
        num_columns,
        LIFT,
        BOUNDED,
        HAS_IDS,
    )
    place_I = (row - first_row + tl.arange(0, BLOCK_I)).to(tl.int64) * panel_columns
    place_IJ = place_I[:, None] + (column_J - first_column)[None, :]
    tl.store(g_PQ + place_IJ, narrow(g_IJ, g_PQ.dtype.element_ty, PRECISION))
    slope_I = tl.sum(g_IJ * dot_IJ, 1) * tl.load(unit_M + row_I)
    slope_I = tl.where(row_I - first < own, slope_I, 0.0)
    place = slopes_T + tl.program_id(0)
    tl.store(place, tl.load(place) + tl.sum(slope_I.to(tl.float64), 0))


@triton.jit
def panel_product(
    g_PQ,
    w_MD,
    sum_PD,
    first_column,
    panel_columns,
    num_steps,
    WIDTH: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
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


@triton.jit
def finish_gradient(
    sum_PD,
    w_MD,
    unit_M,
    back_M,
    tau_0,
    grad_0,
    anchors_0,
    grad_RD,
    own,
    first,
    first_row,
    width,
    factor,
    WIDTH: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_D: tl.constexpr,
    LIFT: tl.constexpr,
    NORMALIZE: tl.constexpr,
    PRECISION: tl.constexpr,
):
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
