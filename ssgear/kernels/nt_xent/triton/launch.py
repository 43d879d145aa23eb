"""Host side of the Triton NT-Xent kernels: buffers, grids and strips, and the order of launches.

Nothing here waits for the device, and nothing depends on its number of cores: the same input gives
the same bits on every GPU of one architecture.
Shapes: R own rows, M rows of all ranks, D the width; T tiles of a side, C chunks of columns.
*Untested on hardware.*
"""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels.nt_xent.triton import forward as kernels
from ssgear.kernels.nt_xent.triton import rows as row_kernels
from ssgear.kernels.nt_xent.triton.inputs import Call, Rows, Setting, count_tiles
from ssgear.kernels.nt_xent.triton.tiles import Plan, Tiles, padded_width

PRECISIONS = ("tf32x3", "ieee")
PARTIAL_FLOATS = 1 << 24
"""Column sums of one strip of the triangle, at most: 64 MB."""
PROGRAMS = 2048
"""Programs that a launch is cut into, about: some waves on the largest GPU."""
LOG_2 = math.log(2)


def precision() -> str:
    """Return how float32 rows are multiplied: SSGEAR_TRITON_FLOAT32, tf32x3 if it is not set.

    tf32x3 splits a number in three for the tensor cores and keeps about float32's accuracy; ieee
    multiplies outside them. Read at every call.
    """
    asked = os.environ.get("SSGEAR_TRITON_FLOAT32", PRECISIONS[0])
    if asked not in PRECISIONS:
        raise ArgumentError(
            f"SSGEAR_TRITON_FLOAT32={asked}: unknown precision; use {' or '.join(PRECISIONS)}"
        )
    return asked


def prepare(z_MD: Tensor, setting: Setting) -> Rows:
    """Copy rows into a padded buffer, scaled by powers of two, with their lengths."""
    width = padded_width(setting.width)
    w_MD = z_MD.new_empty(setting.padded_rows, width)
    unit_M, back_M = z_MD.new_empty(2, setting.padded_rows, dtype=torch.float32).unbind()
    block_d = min(128, width)
    block_m = 32
    row_kernels.prepare_rows[(setting.padded_rows // block_m,)](
        z_MD, w_MD, unit_M, back_M, setting.columns, setting.width, *z_MD.stride(),
        NORMALIZE=setting.normalize, WIDTH=width, BLOCK_M=block_m, BLOCK_D=block_d,
        num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
    return Rows(w_MD, unit_M, back_M)


def forward(call: Call, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean over own rows (times ranks), the maximum [R] and weight [R] of own rows."""
    rows, tau, classes, setting = call
    tiles = plan.sums
    maximum_R, weight_R = tau.new_empty(setting.own), tau.new_empty(setting.own)
    terms_T = tau.new_empty(count_tiles(setting.own, tiles.rows), dtype=torch.float64)
    is_symmetric = setting.bounded and setting.own == setting.columns
    walk = _symmetric_sums if is_symmetric else _row_sums
    walk(call, tiles, (maximum_R, weight_R, terms_T))
    loss = tau.new_empty(())
    add_up(terms_T, loss, classes.anchors, LOG_2 * setting.columns / setting.own)
    # a row that is not finite has unit = NaN; it may be no anchor, and has to show all the same
    visible = (rows.unit_M.sum() * 0).masked_fill(~((tau > 0) & (tau < math.inf)), math.nan)
    return loss + visible, maximum_R, weight_R + visible


def _symmetric_sums(call: Call, tiles: Tiles, results: tuple[Tensor, ...]) -> None:
    """Walk over the triangle in strips whose column sums fit into PARTIAL_FLOATS."""
    tau, padded = call.tau, call.setting.padded_rows
    num_tiles = count_tiles(call.setting.own, tiles.rows)
    strip_tiles = min(max(1, PARTIAL_FLOATS // padded), num_tiles)
    num_strips = -(-num_tiles // strip_tiles)
    chunk = max(1, num_tiles * (num_tiles + 1) // 2 // (PROGRAMS * num_strips))
    strip_rows = strip_tiles * tiles.rows
    columns_TM = tau.new_empty(strip_tiles, padded)
    total_M = tau.new_empty(padded, dtype=torch.float64)
    sums, drawn = tau.new_empty(2, -(-num_tiles // chunk), strip_rows).unbind()
    partial = (sums, sums, drawn, columns_TM)
    for strip in range(0, num_tiles, strip_tiles):
        end = min(strip + strip_tiles, num_tiles)
        first_program = programs_below(num_tiles - end, chunk)
        num_programs = programs_below(num_tiles - strip, chunk) - first_program
        geometry = (num_tiles, chunk, first_program, strip, strip_rows, padded)
        _sums(num_programs, call, tiles, partial, geometry, is_symmetric=True)
        geometry = (num_tiles, chunk, strip, end, strip_rows, padded)
        tensors = (*partial, total_M)
        _finish(num_tiles - strip, call, tiles, tensors, results, geometry, is_symmetric=True)


def programs_below(rows: int, chunk: int) -> int:
    """Return the programs of the lowest rows of tiles of a triangle (`kernels.triangle`)."""
    bands, more = divmod(rows, chunk)
    return chunk * bands * (bands + 1) // 2 + more * (bands + 1)


def _row_sums(call: Call, tiles: Tiles, results: tuple[Tensor, ...]) -> None:
    """Walk over all columns for own rows."""
    setting = call.setting
    row_tiles = count_tiles(setting.own, tiles.rows)
    num_tiles = count_tiles(setting.columns, tiles.columns)
    chunk = min(num_tiles, max(1, num_tiles * row_tiles // PROGRAMS))
    parts, strip_rows = -(-num_tiles // chunk), row_tiles * tiles.rows
    sums, maxima, drawn = call.tau.new_empty(3, parts, strip_rows).unbind()
    partial = (sums, maxima, drawn, sums)
    geometry = (num_tiles, chunk, 0, 0, strip_rows, setting.padded_rows)
    _sums(row_tiles * parts, call, tiles, partial, geometry, is_symmetric=False)
    geometry = (num_tiles, chunk, 0, row_tiles, strip_rows, 0)
    _finish(row_tiles, call, tiles, (*partial, sums), results, geometry, is_symmetric=False)


def _sums(
    num_programs: int,
    call: Call,
    tiles: Tiles,
    partial: tuple[Tensor, ...],
    geometry: tuple[int, ...],
    *,
    is_symmetric: bool,
) -> None:
    rows, tau, classes, setting = call
    kernels.similarity_sums[(num_programs,)](
        rows.w_MD, rows.unit_M, tau, classes.class_M, *partial,
        setting.own, setting.half, setting.first, setting.columns, *geometry,
        WIDTH=rows.w_MD.shape[1], BLOCK_I=tiles.rows, BLOCK_J=tiles.columns,
        BLOCK_K=tiles.depth, SYMMETRIC=is_symmetric, RUNNING=not setting.bounded,
        HAS_IDS=classes.has_ids, PRECISION=precision_of(rows), **options(tiles),
    )  # fmt: skip


def _finish(
    num_programs: int,
    call: Call,
    tiles: Tiles,
    partial: tuple[Tensor, ...],
    results: tuple[Tensor, ...],
    geometry: tuple[int, ...],
    *,
    is_symmetric: bool,
) -> None:
    _, tau, classes, setting = call
    kernels.finish_rows[(num_programs,)](
        *partial, classes.others_M, tau, *results, setting.own, setting.first, *geometry,
        BLOCK_I=tiles.rows, SYMMETRIC=is_symmetric, RUNNING=not setting.bounded,
        HAS_IDS=classes.has_ids, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip


def lift(rows: Rows) -> float:
    """Return what weights are multiplied by: they are 2 at most, 1/M mostly, float16 has 2^16."""
    return 2.0**14 if rows.w_MD.dtype == torch.float16 else 1.0


def precision_of(rows: Rows) -> str:
    """Return how the kernels multiply these rows."""
    if rows.w_MD.dtype == torch.float32:
        return precision()
    return "tf32" if rows.w_MD.is_cuda else "widen"


def options(tiles: Tiles) -> dict[str, int | bool]:
    """Return what Triton is told at a launch."""
    limit = {} if tiles.registers is None else {"maxnreg": tiles.registers}
    # Triton is about to turn its default for the fused multiply-add around
    fused = {"enable_fp_fusion": True}
    return {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages, **limit, **fused}


def add_up(parts_T: Tensor, result: Tensor, anchors: Tensor, factor: float) -> None:
    """Write factor / anchors times the sum of parts."""
    row_kernels.add_up[(1,)](parts_T, result, anchors, len(parts_T), factor, BLOCK=1024)
