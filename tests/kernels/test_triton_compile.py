"""Triton kernels compiled ahead of time: they fit, do not spill, and use the matrix unit.

One architecture in full, one line of the table for the others; the rest under `make test-slow`.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from ssgear.kernels.nt_xent.triton import backward as gradient_kernels
from ssgear.kernels.nt_xent.triton import backward_wide as panel_kernels
from ssgear.kernels.nt_xent.triton import forward as kernels
from ssgear.kernels.nt_xent.triton import rows as row_kernels
from ssgear.kernels.nt_xent.triton.tiles import (
    ROW_BUCKETS,
    Chip,
    Plan,
    Tiles,
    candidates,
    is_fused,
    padded_width,
)
from tests.kernels.triton_ahead import Compiled, compile_ahead

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
CHIPS: dict[int, tuple[Chip, int]] = {
    80: ("small", 99 * 1024),
    90: ("hopper", 227 * 1024),
    100: ("blackwell", 227 * 1024),
}
"""Part of the table and bytes of shared memory; 99 KB are what 8.6, 8.9 and 12.0 have."""
MATRIX_UNIT = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
FEW, MANY = ROW_BUCKETS[0] + 1, ROW_BUCKETS[-1] + 1


def plan_of(
    dtype: torch.dtype, width: int, rows: int, capability: int, bounded: bool, has_ids: bool
) -> Plan:
    flags = {"bounded": bounded, "has_ids": has_ids}
    return next(candidates(dtype, width, rows, **flags, chip=CHIPS[capability][0]))


@functools.lru_cache(maxsize=8)  # buckets of rows next to each other often share tiles
def compiled(
    kernel: Any, tiles: Tiles, dtype: torch.dtype, capability: int, **constants: Any
) -> Compiled:
    """Compile with the constants that the host side gives."""
    precision = "tf32x3" if dtype == FP32 else "tf32"
    given = {"BLOCK_I": tiles.rows, "BLOCK_J": tiles.columns, "BLOCK_K": tiles.depth}
    given |= {"PRECISION": precision, "LIFT": 2.0**14 if dtype == FP16 else 1.0, **constants}
    return compile_ahead(
        kernel,
        {name: value for name, value in given.items() if name in kernel.arg_names},
        dtype,
        capability=capability,
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        registers=tiles.registers,
    )


def check(code: Compiled, capability: int, product: bool = True) -> Compiled:
    """Hold compiled code to what we promise of all kernels, and return it."""
    assert code.spilled_bytes == 0, f"{code.registers} registers and {code.spilled_bytes} B spilled"
    assert code.shared_bytes <= CHIPS[capability][1] - 1024, f"{code.shared_bytes} B shared"
    assert not re.search(r"\b(atom|red)\.", code.ptx), "an atomic: results would not be repeatable"
    if product:
        found = {name for name in MATRIX_UNIT.values() if name in code.ptx}
        assert found == {MATRIX_UNIT[capability]}, f"a product by {found or 'no matrix unit'}"
    return code


def check_sums(
    dtype: torch.dtype,
    width: int,
    rows: int,
    capability: int,
    bounded: bool,
    has_ids: bool,
    ranks: bool = False,
) -> Compiled:
    """Compile the forward; `ranks`: for own rows against all ranks', which have no triangle."""
    tiles = plan_of(dtype, width, rows, capability, bounded, has_ids).sums
    code = compiled(
        kernels.similarity_sums,
        tiles,
        dtype,
        capability,
        WIDTH=padded_width(width),
        SYMMETRIC=bounded and not ranks,
        RUNNING=not bounded,
        HAS_IDS=has_ids,
    )
    return check(code, capability)


def check_gradient(
    dtype: torch.dtype, width: int, rows: int, capability: int, bounded: bool, has_ids: bool
) -> Compiled:
    assert is_fused(dtype, width)
    code = compiled(
        gradient_kernels.gradient_rows,
        plan_of(dtype, width, rows, capability, bounded, has_ids).gradient,
        dtype,
        capability,
        WIDTH=padded_width(width),
        NORMALIZE=True,
        BOUNDED=bounded,
        HAS_IDS=has_ids,
        SHARED=False,
    )
    return check(code, capability)


def check_panels(
    dtype: torch.dtype, width: int, capability: int, bounded: bool, has_ids: bool
) -> tuple[Compiled, Compiled]:
    assert not is_fused(dtype, width)
    plan, padded = plan_of(dtype, width, MANY, capability, bounded, has_ids), padded_width(width)
    flags = {"BOUNDED": bounded, "HAS_IDS": has_ids}
    constants = {"WIDTH": padded, "BLOCK_D": plan.product.columns}
    panel = compiled(
        panel_kernels.weight_panel, plan.gradient, dtype, capability, WIDTH=padded, **flags
    )
    product = compiled(panel_kernels.panel_product, plan.product, dtype, capability, **constants)
    return check(panel, capability), check(product, capability)


@pytest.mark.parametrize(
    ("dtype", "width", "rows", "bounded", "has_ids"),
    [
        (BF16, 128, MANY, True, False),
        (BF16, 128, MANY, True, True),
        (BF16, 128, FEW, False, False),
        (FP16, 33, 100, True, False),
        (BF16, 256, MANY, True, False),
        (BF16, 512, MANY, True, False),
        (FP32, 128, MANY, True, False),
    ],
)
def test_sums(dtype: torch.dtype, width: int, rows: int, bounded: bool, has_ids: bool) -> None:
    check_sums(dtype, width, rows, 90, bounded, has_ids)


@pytest.mark.parametrize(
    ("dtype", "width", "rows", "bounded", "has_ids"),
    [
        (BF16, 128, MANY, True, False),
        (BF16, 128, FEW, True, False),
        (BF16, 128, MANY, False, True),
        (FP16, 33, MANY, True, True),
        (BF16, 256, MANY, True, False),
        (FP32, 64, MANY, True, False),
    ],
)
def test_gradient(dtype: torch.dtype, width: int, rows: int, bounded: bool, has_ids: bool) -> None:
    check_gradient(dtype, width, rows, 90, bounded, has_ids)


@pytest.mark.parametrize("dtype", [BF16, FP32], ids=str)
def test_panels(dtype: torch.dtype) -> None:
    check_panels(dtype, 512, 90, bounded=True, has_ids=False)


@pytest.mark.parametrize("capability", [80, 100])
def test_another_chip(capability: int) -> None:
    check_sums(BF16, 128, MANY, capability, bounded=True, has_ids=False)
    check_gradient(BF16, 128, MANY, capability, bounded=True, has_ids=False)
    check_gradient(FP32, 64, MANY, capability, bounded=True, has_ids=False)
    check_panels(FP32, 512, capability, bounded=True, has_ids=False)


def test_machine_code_has_no_atomics_either() -> None:
    codes = (
        check_sums(BF16, 128, MANY, 90, bounded=True, has_ids=False),
        check_gradient(BF16, 128, MANY, 90, bounded=True, has_ids=False),
        *check_panels(BF16, 512, 90, bounded=True, has_ids=False),
    )
    for code in codes:
        sass = code.sass()
        assert "HGMMA" in sass and not re.search(r"\b(ATOM|ATOMG|RED|REDG)\b", sass)


def test_what_multiplies_nothing() -> None:
    tiles = Tiles(rows=128, columns=128, depth=64, num_warps=4)
    flags = {"SYMMETRIC": True, "RUNNING": False, "HAS_IDS": False, "NORMALIZE": True}
    for kernel, constants in (
        (
            row_kernels.prepare_rows,
            {"WIDTH": 128, "BLOCK_M": 32, "BLOCK_D": 128, "column_stride": 1},
        ),
        (kernels.finish_rows, {}),
        (row_kernels.add_up, {"BLOCK": 1024}),
        (panel_kernels.finish_gradient, {"WIDTH": 512, "BLOCK_D": 64}),
    ):
        code = compiled(kernel, tiles, BF16, 90, **{**flags, **constants})
        check(code, 90, product=False)
        assert not re.search(r"\b(ATOM|ATOMG|RED|REDG)\b", code.sass())


@pytest.mark.slow
@pytest.mark.parametrize("has_ids", [False, True])
@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("width", [16, 32, 64, 128, 256, 512, 2048])
@pytest.mark.parametrize("dtype", [BF16, FP16, FP32], ids=str)
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_the_whole_table(
    capability: int, dtype: torch.dtype, width: int, bounded: bool, has_ids: bool
) -> None:
    for rows in (ROW_BUCKETS[0], ROW_BUCKETS[1], MANY):
        check_sums(dtype, width, rows, capability, bounded, has_ids)
        if bounded:  # without a bound there is no triangle anyway
            check_sums(dtype, width, rows, capability, bounded, has_ids, ranks=True)
        if is_fused(dtype, width):
            check_gradient(dtype, width, rows, capability, bounded, has_ids)
    if not is_fused(dtype, width):
        check_panels(dtype, width, capability, bounded, has_ids)
