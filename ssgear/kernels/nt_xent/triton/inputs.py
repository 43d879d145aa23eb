"""What a call of the Triton NT-Xent is about: sizes, rows and positives.

Shapes: R own rows, M rows of all ranks, D the width.
*Untested on hardware.*
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ssgear.kernels.nt_xent.triton.tiles import ROW_ALIGNMENT


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a call is about."""

    own: int
    """R."""
    columns: int
    """M."""
    first: int
    """Own row 0 among all rows."""
    width: int
    """D."""
    normalize: bool
    """Whether rows are brought to length 1."""
    bounded: bool
    """Whether the maximum is the constant 1/tau."""

    @property
    def half(self) -> int:
        """Distance of the two views of an image."""
        return self.own // 2

    @property
    def padded_rows(self) -> int:
        """Rows of a buffer: whole tiles, also for the last rank's last rows."""
        return round_up(self.columns, ROW_ALIGNMENT) + ROW_ALIGNMENT * (self.own < self.columns)


class Rows(NamedTuple):
    """All ranks' rows as the kernels read them."""

    w_MD: Tensor
    """z 2^-e."""
    unit_M: Tensor
    """1 / ||w||."""
    back_M: Tensor
    """1 / ||z||."""


class Classes(NamedTuple):
    """General positives; tensors without rows where two views are stacked."""

    class_M: Tensor
    """int32, equal for positives."""
    others_M: Tensor
    """int32, number of positives."""
    anchors: Tensor
    """Rows that have a positive, at least 1; float32 scalar."""

    @property
    def has_ids(self) -> bool:
        """Whether there are classes."""
        return len(self.class_M) > 0


class Call(NamedTuple):
    """All that the kernels of a call read."""

    rows: Rows
    tau: Tensor
    classes: Classes
    setting: Setting


def classes_of(ids_M: Tensor | None, setting: Setting, like: Tensor) -> Classes:
    """Number the classes, and count every row's positives and the rows that have one."""
    if ids_M is None:
        none_M = like.new_empty(0, dtype=torch.int32)
        anchors = torch.full((), setting.columns, dtype=torch.float32, device=like.device)
        return Classes(none_M, none_M.clone(), anchors)
    sorted_M = ids_M.sort().values
    class_M = torch.searchsorted(sorted_M, ids_M, out_int32=True)
    end_M = torch.searchsorted(sorted_M, ids_M, right=True, out_int32=True)
    others_M = end_M - class_M - 1
    return Classes(class_M, others_M, (others_M > 0).sum().clamp_min(1).float())


def count_tiles(length: int, block: int) -> int:
    """Return how many blocks cover a length."""
    return -(-length // block)


def round_up(length: int, multiple: int) -> int:
    """Return the next multiple."""
    return count_tiles(length, multiple) * multiple
