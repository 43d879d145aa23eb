"""Rows of numbers or images that need not fit in memory.

A measure takes `Rows`: anything with a length and a shape that returns some of its rows as a
tensor. A tensor is one; `FeatureFile` is features in a `.npy` file, `ImageRows`
(evaluation/images.py) decodes images when they are asked for.

    for start, block_nF in blocks(features, device=device): ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ssgear.errors import CheckpointError, reason_of, refusing

BLOCK_BYTES = 64 << 20
"""Size of a block of features in memory."""


class Rows(Protocol):
    """Rows by number; `rows[slice]` and `rows[int64 tensor]` are tensors with as many rows."""

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Return some of the rows."""
        ...

    @property
    def shape(self) -> Sequence[int]:
        """Number of rows, then the shape of one."""
        ...


class FeatureFile:
    """Features [N, F] float32 in a `.npy` file; a slice is read from the file, not kept.

    `numpy.load(path, mmap_mode="r")` opens the same file. A map that stays open would count every
    page that was read as resident memory; this one is opened for each read.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            CheckpointError: the file is missing or holds something else.
        """

        def refusal(error: Exception) -> CheckpointError:
            return CheckpointError(f"{path}: not a file of features ({reason_of(error)})")

        with refusing((OSError, ValueError, EOFError), refusal):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.ndim != 2 or array.dtype != np.float32 or not array.flags.c_contiguous:
                raise ValueError(f"{array.dtype} {array.shape}, expected float32 [N, F]")
        self.path = path
        self.shape = (int(array.shape[0]), int(array.shape[1]))

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Return some of the rows, float32."""
        array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return torch.from_numpy(np.array(array[rows if isinstance(rows, slice) else rows.numpy()]))


def blocks(
    rows: Rows, *, size: int | None = None, device: torch.device | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield blocks of rows as float32 on a device, each with the number of its first row.

    Args:
        rows: Features [N, F].
        size: Rows of a block; by default as many as fit in `BLOCK_BYTES`.
        device: Where blocks are placed; by default where the rows are.
    """
    size = size or max(1, BLOCK_BYTES // (4 * rows.shape[1]))
    for start in range(0, len(rows), size):
        block = rows[start : start + size].float()
        yield start, block if device is None else block.to(device)


class Subset:
    """Some of the rows of others, in any order; read when they are asked for."""

    def __init__(self, rows: Rows, index: Tensor) -> None:
        """Take rows, and int64 [n] numbers of those to keep."""
        self.rows = rows
        self.index = index
        self.shape = (len(index), *rows.shape[1:])

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.index)

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Return some of the rows."""
        return self.rows[self.index[rows]]


class Columns:
    """Some neighbouring columns of features, such as those of one block of a network."""

    def __init__(self, rows: Rows, start: int, stop: int) -> None:
        """Take features [N, F], and the columns start to stop - 1 of them."""
        self.rows = rows
        self.columns = slice(start, stop)
        self.shape = (len(rows), stop - start)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Return the columns of some rows."""
        return self.rows[rows][:, self.columns]
