"""A kernel that writes where `triangle` puts each program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssgear.kernels.nt_xent.triton.forward import triangle


@triton.jit
def write_places(rows_N, parts_N, first, chunk, num_tiles, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    program_N = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row_N, part_N = triangle(first + program_N, chunk, num_tiles)
    tl.store(rows_N + program_N, row_N)
    tl.store(parts_N + program_N, part_N)


def places(num_tiles: int, chunk: int, first: int, count: int) -> tuple[Tensor, Tensor]:
    """Return row tile and chunk of `count` programs, in the interpreter."""
    padded = -(-count // 4096) * 4096
    rows, parts = torch.empty(2, padded, dtype=torch.int32).unbind()
    write_places[(padded // 4096,)](rows, parts, first, chunk, num_tiles, BLOCK=4096)
    return rows[:count], parts[:count]
