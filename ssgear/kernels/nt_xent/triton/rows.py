"""Triton kernels of NT-Xent: rows as all kernels read them, and what all kernels do.

Rows are kept as w = z 2^-e, which is exact in every type, with unit = 1/||w|| in float32 beside
them: similarities t_ij = <w_i, w_j> unit_i unit_j log2(e)/tau then have float32's accuracy for
bfloat16 and float16 rows too. Everything after that is in powers of two.
Buffers of rows are padded with zero rows to whole tiles, and to WIDTH.
*Untested on hardware*: compiled ahead of time, and run in Triton's interpreter only.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, allow-incomplete-defs

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def read_temperature(tau_0):
    """Return tau; what is no temperature becomes NaN, and NaN goes through everything."""
    tau = tl.load(tau_0)
    return tl.where((tau > 0) & (tau < float("inf")), tau, float("nan"))


@triton.jit
def load_part(z_MD, row_M, d_D, num_rows, width, row_stride, column_stride):
    """Return some columns of rows of any strides in float32, 0 outside."""
    inside_MD = (row_M < num_rows)[:, None] & (d_D < width)[None, :]
    z = z_MD + row_M[:, None] * row_stride + d_D[None, :].to(tl.int64) * column_stride
    return tl.load(z, mask=inside_MD, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["num_rows"])
def prepare_rows(
    z_MD, w_MD, unit_M, back_M,
    num_rows, width, row_stride, column_stride,
    NORMALIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Write w, unit = 1/||w|| and back = 1/||z||; a row that is not finite gets unit = NaN.

    2^e is the power of two under a row's largest entry, so that 1e-30 and 1e30 survive the squares.
    Subnormal rows are lifted by 2^64 first. A zero row has unit = 0 and back = 0.
    """
    row_M = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    offsets_D = tl.arange(0, BLOCK_D)
    largest_M = tl.zeros((BLOCK_M,), tl.float32)
    marker_M = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        d_D = start + offsets_D
        x_MD = load_part(z_MD, row_M, d_D, num_rows, width, row_stride, column_stride)
        largest_M = tl.maximum(largest_M, tl.max(tl.abs(x_MD), 1))
        marker_M += tl.sum(x_MD * 0.0, 1)  # NaN where an entry is not finite, else 0
    lift_M = tl.full((BLOCK_M,), 1.0, tl.float32)
    shrink_M = lift_M
    if NORMALIZE:
        lift_M = tl.where(largest_M < 2.0**-62, 2.0**64, 1.0)
        exponent_M = (largest_M * lift_M).to(tl.int32, bitcast=True) >> 23
        shrink_M = (tl.maximum(254 - exponent_M, 1) << 23).to(tl.float32, bitcast=True)
    squares_M = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, WIDTH, BLOCK_D):
        d_D = start + offsets_D
        x_MD = load_part(z_MD, row_M, d_D, num_rows, width, row_stride, column_stride)
        x_MD = x_MD * lift_M[:, None] * shrink_M[:, None]
        squares_M += tl.sum(x_MD * x_MD, 1)
        w = w_MD + row_M[:, None] * WIDTH + d_D[None, :]
        tl.store(w, x_MD.to(w_MD.dtype.element_ty))
    norm_M = tl.sqrt_rn(squares_M)
    if NORMALIZE:
        unit_R = tl.where(norm_M > 0, tl.div_rn(1.0, tl.where(norm_M > 0, norm_M, 1.0)), 0.0)
    else:
        unit_R = tl.where(row_M < num_rows, 1.0, 0.0)
    # the largest float stands for 1/||z|| beyond it, so that a zero gradient stays zero
    back_R = tl.minimum(unit_R * shrink_M * lift_M, 3.4e38)
    tl.store(unit_M + row_M, unit_R + marker_M)
    tl.store(back_M + row_M, back_R + marker_M)


@triton.jit
def load_rows(w_MD, row_M, WIDTH: tl.constexpr):
    """Return whole rows."""
    offsets_D = tl.arange(0, WIDTH)
    return tl.load(w_MD + row_M[:, None].to(tl.int64) * WIDTH + offsets_D[None, :])


@triton.jit
def multiply(a, b, sum, PRECISION: tl.constexpr):
    """Return a b + sum; "widen" is for the interpreter, whose bfloat16 are integers to its dot."""
    if PRECISION == "widen":
        result = tl.dot(a.to(tl.float32), b.to(tl.float32), sum)
    else:
        result = tl.dot(a, b, sum, input_precision=PRECISION)
    return result


@triton.jit
def narrow(x, dtype: tl.constexpr, PRECISION: tl.constexpr):
    """Round to the rows' type, to nearest in the interpreter too, which cuts bfloat16 off."""
    if PRECISION == "widen" and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
        x = tl.where(tl.abs(x) < float("inf"), rounded, x)
    return x.to(dtype)


@triton.jit
def products(w_MD, row_I, column_J, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION):
    """Return <w_i, w_j> of a tile, over chunks of the width."""
    k_K = tl.arange(0, BLOCK_K)
    a_IK = w_MD + row_I[:, None].to(tl.int64) * WIDTH + k_K[None, :]
    b_JK = w_MD + column_J[:, None].to(tl.int64) * WIDTH + k_K[None, :]
    dot_IJ = tl.zeros((row_I.shape[0], column_J.shape[0]), tl.float32)
    for start in range(0, WIDTH, BLOCK_K):
        a, b = tl.load(a_IK + start), tl.load(b_JK + start)
        dot_IJ = multiply(a, tl.trans(b), dot_IJ, PRECISION)
    return dot_IJ


@triton.jit
def positive_of(row_I, first, half):
    """Return the other view of an own row, among all ranks' rows."""
    local_I = row_I - first
    return first + tl.where(local_I < half, local_I + half, local_I - half)


@triton.jit
def has_special(row, column, own, half, first, num_columns, BLOCK_I, BLOCK_J, HAS_IDS):
    """Return whether a tile holds self-similarities, a pair's positives, or padding.

    `row` is the tile's first own row, `column` its first column among all ranks' rows. Nearly no
    tile does: the others need no mask.
    """
    left = column - first  # may be negative: columns of ranks before this one
    special = (column + BLOCK_J > num_columns) | ((left < row + BLOCK_I) & (row < left + BLOCK_J))
    if not HAS_IDS:  # the other view stands half the own rows below or above
        special |= (left < row + half + BLOCK_I) & (row + half < left + BLOCK_J)
        special |= (left < row - half + BLOCK_I) & (row - half < left + BLOCK_J)
    return special


@triton.jit(do_not_specialize=["num_parts"])
def add_up(parts_T, result_0, anchors_0, num_parts, factor, BLOCK: tl.constexpr):
    """Write factor / anchors times the sum of float64 parts, added in a fixed order."""
    sum_T = tl.zeros((BLOCK,), tl.float64)
    for start in range(0, num_parts, BLOCK):
        place_T = start + tl.arange(0, BLOCK)
        sum_T += tl.load(parts_T + place_T, mask=place_T < num_parts, other=0.0)
    result = tl.sum(sum_T, 0) * factor / tl.load(anchors_0)
    tl.store(result_0, result.to(result_0.dtype.element_ty))
