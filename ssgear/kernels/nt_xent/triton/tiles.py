"""Tiles of the Triton NT-Xent kernels by chip, type, width and number of rows; no autotuning.

Chosen by registers and shared memory as compiled: tests/kernels/test_triton_compile.py holds the
first candidate of every line to the chips' limits, without a spill, and to their own matrix
instructions (8: mma.sync, 9: wgmma, 10: tcgen05, for float32 too, as three products of tf32).
*Untested on hardware*: no line was ever timed. The first candidate that is right on the GPU
(check.py) is taken; later ones avoid what may be miscompiled or does not fit, at
some cost: they may spill, and the last one's 32 rows are too few for wgmma and tcgen05.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

Chip = Literal["small", "hopper", "blackwell"]
"""hopper: compute capability 9; blackwell: 10; small: all others, with 99 KB of shared memory."""
ROW_ALIGNMENT = 128
"""Buffers of rows are padded to whole tiles of this many rows, the largest of the table."""
ROW_BUCKETS = (2048, 16384)
"""Up to the first number tiles are small, so that all cores have one; above the last, large."""
WIDEST_FUSED = {2: 256, 4: 64}
"""By bytes of a number: widths up to this keep dL/dz of a tile of rows in registers."""


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How one kernel is cut."""

    rows: int
    """Rows of a tile."""
    columns: int
    """Columns of a tile."""
    depth: int
    """Part of the width that one product takes."""
    num_warps: int
    """Warps of a program."""
    num_stages: int = 2
    """Tiles in flight."""
    registers: int | None = None
    """Registers of a thread, at most; fewer than it would take lets two programs share a core."""
    shared: bool = False
    """Whether the backward's second product reads its weights from shared memory."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Tiles of all kernels for one kind of input."""

    sums: Tiles
    """The forward."""
    gradient: Tiles
    """The backward; above WIDEST_FUSED the panels of weights."""
    product: Tiles
    """The product of a panel with rows; used above WIDEST_FUSED only; columns are of the width."""


def chip_of(device: torch.device) -> Chip:
    """Return the part of the table that a device has; the interpreter takes any."""
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9
    return "hopper" if major == 9 else "blackwell" if major == 10 else "small"


def is_fused(dtype: torch.dtype, width: int) -> bool:
    """Return whether the backward is one launch, and not panels of weights."""
    return width <= WIDEST_FUSED[dtype.itemsize]


def padded_width(width: int) -> int:
    """Return the width that rows are stored with: a power of two, above 256 a multiple of 128."""
    if width > 256:
        return -(-width // 128) * 128
    return max(16, 1 << (width - 1).bit_length())


def representative_rows(rows: int) -> int:
    """Return the number of rows that stands for a line of the table."""
    return next((bound for bound in ROW_BUCKETS if rows <= bound), ROW_BUCKETS[-1] + 1)


def candidates(
    dtype: torch.dtype, width: int, rows: int, *, bounded: bool, has_ids: bool, chip: Chip
) -> Iterator[Plan]:
    """Yield plans, the fastest first."""
    padded, fused = padded_width(width), is_fused(dtype, width)
    sums = _sums(dtype, padded, rows, bounded, has_ids, chip)
    if chip == "hopper" and bounded and not has_ids and sums.rows == 128 and padded <= 128:
        # two programs then share a core: one takes exponentials, the other products
        sums = replace(sums, registers=128)
    gradient = _gradient(dtype, padded, rows, bounded, has_ids, chip)
    fastest = Plan(
        sums=sums,
        gradient=gradient if fused else _panel(dtype, bounded, has_ids, chip),
        product=_product(dtype, chip),
    )
    yield fastest
    if fused:
        gradient = replace(fastest.gradient, rows=64, num_warps=8, shared=True)
        yield replace(fastest, gradient=gradient)
    small = Tiles(rows=32, columns=32, depth=min(padded, 64), num_warps=4)
    gradient = replace(small, shared=True) if fused else small
    yield Plan(sums=small, gradient=gradient, product=replace(small, columns=64, depth=32))


def _sums(
    dtype: torch.dtype, width: int, rows: int, bounded: bool, has_ids: bool, chip: Chip
) -> Tiles:
    few, running_ids = rows <= ROW_BUCKETS[0], has_ids and not bounded
    blackwell_ids = has_ids and chip == "blackwell"
    if dtype.itemsize == 4:
        tiles = Tiles(rows=64, columns=64, depth=min(width, 32), num_warps=4)
        # mma.sync takes both operands, split in two, from registers
        return replace(tiles, depth=16, num_stages=3) if chip == "small" else tiles
    if width > 256 or (width == 256 and chip == "small"):
        tiles = Tiles(rows=128, columns=128, depth=64, num_warps=8, num_stages=3)
        if running_ids:
            return replace(tiles, columns=64)
        # own rows against all ranks' spill with parts of 64, the triangle does not
        return replace(tiles, depth=32, num_stages=4) if blackwell_ids else tiles
    tiles = Tiles(rows=128, columns=128, depth=width, num_warps=8)
    if few or (chip == "small" and not bounded):
        tight = chip == "small" and bounded and has_ids and width == 128
        return replace(tiles, rows=64, columns=64, num_warps=8 if tight else 4)
    if not bounded:
        return replace(tiles, rows=64, num_warps=4)
    if blackwell_ids:
        # a thread holds 64 columns of a row there: similarities, lengths and ids of those spill
        if width <= 128:
            return replace(tiles, rows=64, columns=64, num_warps=4)
        return replace(tiles, depth=64, num_stages=3)
    return tiles


def _gradient(
    dtype: torch.dtype, width: int, rows: int, bounded: bool, has_ids: bool, chip: Chip
) -> Tiles:
    few, running_ids = rows <= ROW_BUCKETS[1], has_ids and not bounded
    tiles = Tiles(rows=64, columns=64, depth=width, num_warps=8)
    if dtype.itemsize == 4:
        # tcgen05 takes no fewer than 64 rows, and with 4 warps these spill
        if chip == "blackwell":
            return tiles
        return replace(tiles, rows=64 if chip == "hopper" else 32, columns=32, num_warps=4)
    if chip == "small":
        return replace(tiles, columns=32) if width == 256 else tiles
    if width == 256:
        return tiles
    if chip == "blackwell" and running_ids and width == 128:
        return tiles if few else replace(tiles, rows=128, columns=32)
    return replace(tiles, num_warps=4) if few else replace(tiles, rows=128)


def _panel(dtype: torch.dtype, bounded: bool, has_ids: bool, chip: Chip) -> Tiles:
    if dtype.itemsize == 4:
        return Tiles(rows=64, columns=64, depth=32, num_warps=4)
    tiles = Tiles(rows=128, columns=128, depth=64, num_warps=8)
    if chip == "blackwell" or (has_ids and not bounded):
        return replace(tiles, columns=64, num_stages=3)
    return tiles


def _product(dtype: torch.dtype, chip: Chip) -> Tiles:
    if dtype.itemsize == 2:
        return Tiles(rows=64, columns=128, depth=64, num_warps=4)
    tiles = Tiles(rows=64, columns=128, depth=32, num_warps=4)
    return replace(tiles, num_warps=8, num_stages=3) if chip == "small" else tiles
