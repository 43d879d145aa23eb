"""Triton kernels of NT-Xent's forward (operator.py calls them and says what they cost).

Shapes: R own rows, M rows of all ranks, D the width; P rows of a strip of the triangle, C chunks of
columns, T tiles of a side, I x J a tile. Rows are as in rows.py.
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
    positive_of,
    products,
    read_temperature,
)


@triton.jit
def triangle(program, CHUNK, num_tiles):
    """Return row tile and chunk of a program; rows are counted from the bottom of the triangle.

    The row with r + 1 tiles on or above the diagonal has r // CHUNK + 1 programs; CHUNK rows with
    equally many make a band, and CHUNK b (b + 1) / 2 programs come before band b. The root may be
    off by one, never more: two steps mend it.
    """
    band = ((tl.sqrt(1.0 + 8.0 * (program // CHUNK).to(tl.float32)) - 1.0) * 0.5).to(tl.int64)
    band = tl.where(CHUNK * band * (band + 1) // 2 > program, band - 1, band)
    band = tl.where(CHUNK * (band + 1) * (band + 2) // 2 <= program, band + 1, band)
    left = program - CHUNK * band * (band + 1) // 2
    row_tile = num_tiles - 1 - (band * CHUNK + left // (band + 1))
    return row_tile.to(tl.int32), (left % (band + 1)).to(tl.int32)


@triton.jit(do_not_specialize=[
    "own", "half", "first", "num_columns", "num_tiles", "chunk", "first_program", "strip_first",
])  # fmt: skip
def similarity_sums(
    w_MD, unit_M, tau_0, class_M, sums_CP, maxima_CP, drawn_CP, columns_TM,
    own, half, first, num_columns, num_tiles, chunk, first_program, strip_first, strip_rows,
    padded_columns,
    WIDTH: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_K: tl.constexpr,
    SYMMETRIC: tl.constexpr, RUNNING: tl.constexpr, HAS_IDS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sum 2^t over a chunk of columns for a tile of rows, and t over their positives.

    SYMMETRIC: tiles on and above the diagonal; those above serve their columns too, and count
    twice for the positives (only the sum over rows is asked for). The maximum is 1/tau; RUNNING
    keeps the rows' own instead. Every program writes to places of its own: no atomics.
    """
    tau = read_temperature(tau_0)
    scale = LOG2_E / tau
    program = tl.program_id(0) + first_program
    if SYMMETRIC:
        row_tile, part = triangle(program, chunk, num_tiles)
        begin = row_tile + part * chunk
    else:
        parts = tl.cdiv(num_tiles, chunk)
        row_tile, part = (program // parts).to(tl.int32), (program % parts).to(tl.int32)
        begin = part * chunk
    end = tl.minimum(begin + chunk, num_tiles)
    row = row_tile * BLOCK_I
    row_I = first + row + tl.arange(0, BLOCK_I)
    positive_I = positive_of(row_I, first, half)
    scale_I = tl.load(unit_M + row_I) * scale
    if HAS_IDS:
        class_I = tl.load(class_M + row_I, mask=row_I < num_columns, other=-2)
    if WIDTH == BLOCK_K:
        a_ID = load_rows(w_MD, row_I, WIDTH)
    maximum_I = tl.full((BLOCK_I,), float("-inf"), tl.float32)
    sum_I = tl.zeros((BLOCK_I,), tl.float32)
    drawn_I = tl.zeros((BLOCK_I,), tl.float32)
    shift = 0.0 if RUNNING else scale
    zero_IJ = tl.zeros((BLOCK_I, BLOCK_J), tl.float32)
    for tile in range(begin, end):
        column_J = tile * BLOCK_J + tl.arange(0, BLOCK_J)
        if WIDTH == BLOCK_K:
            b_JD = load_rows(w_MD, column_J, WIDTH)
            t_IJ = multiply(a_ID, tl.trans(b_JD), zero_IJ, PRECISION)
        else:
            t_IJ = products(w_MD, row_I, column_J, WIDTH, BLOCK_K, PRECISION)
        t_IJ = t_IJ * tl.load(unit_M + column_J)[None, :] * scale_I[:, None] - shift
        times = 2.0 if SYMMETRIC and tile > row_tile else 1.0
        if HAS_IDS:
            class_J = tl.load(class_M + column_J, mask=column_J < num_columns, other=-1)
            same_IJ = class_I[:, None] == class_J[None, :]
            same_IJ &= row_I[:, None] != column_J[None, :]
            drawn_I += times * tl.sum(tl.where(same_IJ, t_IJ, 0.0), 1)
        if has_special(
            row, tile * BLOCK_J, own, half, first, num_columns, BLOCK_I, BLOCK_J, HAS_IDS
        ):
            if not HAS_IDS:
                same_IJ = positive_I[:, None] == column_J[None, :]
                drawn_I += times * tl.sum(tl.where(same_IJ, t_IJ, 0.0), 1)
            seen_IJ = (row_I[:, None] != column_J[None, :]) & (column_J < num_columns)[None, :]
            t_IJ = tl.where(seen_IJ, t_IJ, float("-inf"))
        if RUNNING:
            larger_I = tl.maximum(maximum_I, tl.max(t_IJ, 1))
            # a row that has seen nothing yet: -inf minus a finite number is not NaN
            larger_I = tl.maximum(larger_I, -3.0e38)
            sum_I *= tl.exp2(maximum_I - larger_I)
            maximum_I = larger_I
            t_IJ -= larger_I[:, None]
        e_IJ = tl.exp2(t_IJ)
        sum_I += tl.sum(e_IJ, 1)
        if SYMMETRIC:
            columns_J = columns_TM + (row_tile - strip_first).to(tl.int64) * padded_columns
            tl.store(columns_J + column_J, tl.sum(e_IJ, 0), mask=column_J >= row + BLOCK_I)
    place_I = part.to(tl.int64) * strip_rows + row + tl.arange(0, BLOCK_I)
    place_I -= strip_first * BLOCK_I
    tl.store(sums_CP + place_I, sum_I)
    tl.store(drawn_CP + place_I, drawn_I)
    if RUNNING:
        tl.store(maxima_CP + place_I, maximum_I)


@triton.jit(do_not_specialize=["own", "first", "num_tiles", "chunk", "strip_first", "strip_end"])
def finish_rows(
    sums_CP, maxima_CP, drawn_CP, columns_TM, total_M, others_M, tau_0, maximum_R, weight_R,
    terms_T,
    own, first, num_tiles, chunk, strip_first, strip_end, strip_rows, padded_columns,
    BLOCK_I: tl.constexpr, SYMMETRIC: tl.constexpr, RUNNING: tl.constexpr, HAS_IDS: tl.constexpr,
):  # fmt: skip
    """Put the partial sums of a strip together, in a fixed order and in float64.

    Rows of the strip are then complete: their maximum, weight = 1 / sum (0 where a row is no
    anchor) and terms of the loss are written. For later rows the sum goes on in `total_M`.
    """
    scale = LOG2_E / read_temperature(tau_0)
    row_tile = strip_first + tl.program_id(0)
    row_I = row_tile.to(tl.int64) * BLOCK_I + tl.arange(0, BLOCK_I)
    sum_I = tl.zeros((BLOCK_I,), tl.float64)
    if SYMMETRIC:
        if strip_first > 0:
            sum_I = tl.load(total_M + row_I)
        column_I = columns_TM + row_I
        for _ in range(0, tl.minimum(row_tile, strip_end) - strip_first):
            sum_I += tl.load(column_I).to(tl.float64)
            column_I += padded_columns
    if row_tile >= strip_end:
        tl.store(total_M + row_I, sum_I)
        return
    drawn_I = tl.zeros((BLOCK_I,), tl.float64)
    parts = tl.cdiv(num_tiles - row_tile, chunk) if SYMMETRIC else tl.cdiv(num_tiles, chunk)
    place_I = row_I - strip_first * BLOCK_I
    maximum_I = tl.full((BLOCK_I,), 0.0, tl.float32)
    if RUNNING:
        maximum_I -= float("inf")
        part_I = maxima_CP + place_I
        for _ in range(0, parts):
            maximum_I = tl.maximum(maximum_I, tl.load(part_I))
            part_I += strip_rows
    for _ in range(0, parts):
        partial_I = tl.load(sums_CP + place_I)
        if RUNNING:
            partial_I *= tl.exp2(tl.load(maxima_CP + place_I) - maximum_I)
        sum_I += partial_I.to(tl.float64)
        drawn_I += tl.load(drawn_CP + place_I).to(tl.float64)
        place_I += strip_rows
    sum32_I = sum_I.to(tl.float32)
    term_I = (maximum_I + tl.log2(sum32_I)).to(tl.float64)
    anchor_I = row_I < own
    if HAS_IDS:
        others_I = tl.load(others_M + first + row_I, mask=anchor_I, other=0)
        anchor_I &= others_I > 0
        drawn_I /= tl.maximum(others_I, 1).to(tl.float64)
    term_I = tl.where(anchor_I, term_I - drawn_I, 0.0)
    tl.store(terms_T + row_tile, tl.sum(term_I, 0))
    maximum_I = maximum_I if RUNNING else maximum_I + scale
    tl.store(maximum_R + row_I, maximum_I, mask=row_I < own)
    weight_I = tl.where(anchor_I, tl.div_rn(1.0, sum32_I), 0.0)
    tl.store(weight_R + row_I, weight_I, mask=row_I < own)
