"""Triton kernels of NT-Xent's backward (operator.py calls them and says what they cost).

    dL/du_i = 1/(A tau) sum_j g_ij u_j,   g_ij = P_ij + P_ji - 2 [j positive of i] / positives of i

Own rows own their programs: no atomics, no transposed product. The positives are part of g: where
they dominate, g is a small difference, taken in float32 before it is rounded to the rows' type.
u_j = unit_j w_j, so unit_j multiplies g and the matrix unit reads w. Shapes and padding are as in
rows.py; A is the number of anchors.
*Untested on hardware*: compiled ahead of time, and run in Triton's interpreter only.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-incomplete-defs

import triton
import triton.language as tl

from ssgear.kernels.nt_xent.triton.rows import (
    LOG2_E,
    has_special,
    load_rows,
    multiply,
    narrow,
    positive_of,
    read_temperature,
)


@triton.jit
def pair_weights(
    dot_IJ, row_I, column_J, positive_I, own_I, unit_M, maximum_M, weight_M, class_M,
    scale, special, num_columns,
    LIFT: tl.constexpr, BOUNDED: tl.constexpr, HAS_IDS: tl.constexpr,
):  # fmt: skip
    """Return LIFT g_ij unit_j of a tile; 0 for a row itself and for columns of padding.

    `own_I` is what `own_statistics` returns for the tile's rows.
    """
    scale_I, maximum_I, weight_I, class_I, share_I = own_I
    inside_J = column_J < num_columns
    unit_J = tl.load(unit_M + column_J)
    # where they are bounded by 1/tau alone, weights reach 2^115, which times LIFT is past float32
    lift: tl.constexpr = 1.0 if BOUNDED else LIFT
    weight_J = tl.load(weight_M + column_J, mask=inside_J, other=0.0) * (lift * unit_J)
    weight_I *= lift
    t_IJ = dot_IJ * unit_J[None, :] * scale_I[:, None]
    if BOUNDED:
        e_IJ = tl.exp2(t_IJ - (scale - tl.log2(tl.full((), LIFT, tl.float32))))
        g_IJ = e_IJ * (weight_I[:, None] * unit_J[None, :] + weight_J[None, :])
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
    weight_I = tl.load(weight_M + row_I, mask=inside_I, other=0.0)
    class_I, share_I = row_I, scale_I
    if HAS_IDS:
        class_I = tl.load(class_M + row_I, mask=inside_I, other=-2)
        others_I = tl.load(others_M + row_I, mask=inside_I, other=0)
        share_I = tl.div_rn(2.0 * LIFT, tl.maximum(others_I, 1).to(tl.float32))
    return scale_I, maximum_I, weight_I, class_I, share_I


@triton.jit(do_not_specialize=["own", "half", "first", "num_columns", "num_tiles"])
def gradient_rows(
    w_MD, unit_M, back_M, maximum_M, weight_M, class_M, others_M, tau_0, grad_0, anchors_0, grad_RD,
    slopes_T,
    own, half, first, num_columns, num_tiles, width, factor,
    WIDTH: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, LIFT: tl.constexpr,
    NORMALIZE: tl.constexpr, BOUNDED: tl.constexpr, HAS_IDS: tl.constexpr, SHARED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write dL/dz of a tile of own rows, and their part of sum_i <u_i, dL/du_i>.

    That part is summed from g before it is rounded: dL/dtau has float32's accuracy in every type.

    SHARED: the second product reads g as the transpose of a transpose and so from shared memory,
    not from registers (some versions of ptxas reuse those too early, see check.py).
    """
    tau = read_temperature(tau_0)
    scale = LOG2_E / tau
    row = tl.program_id(0) * BLOCK_I
    row_I = first + row + tl.arange(0, BLOCK_I)
    positive_I = positive_of(row_I, first, half)
    own_I = own_statistics(
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
            dot_IJ, row_I, column_J, positive_I, own_I, unit_M, maximum_M, weight_M, class_M,
            scale, special, num_columns, LIFT, BOUNDED, HAS_IDS,
        )  # fmt: skip
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
