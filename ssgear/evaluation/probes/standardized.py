"""Features of mean 0 and deviation 1 on the training rows, in blocks: kept or read again.

Features that fit in `KEPT_BYTES` are standardized once and kept on the device; larger ones are read
and standardized at every pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgear.evaluation.features.rows import BLOCK_BYTES, Rows, blocks
from ssgear.evaluation.probes.checks import finite_blocks

KEPT_BYTES = 1 << 30
"""Features of at most this size are kept; a GPU keeps half of its free memory."""
SCORES = 1 << 23
"""Scores (rows x classes) of a block."""

Block = tuple[Tensor, Tensor]
"""Features [n, F] float32 and labels [n] int64, both on the device."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaling:
    """Mean and deviation of training features."""

    mean_F: Tensor
    """float64."""
    scale_F: Tensor
    """float64: 1 / deviation, and 0 for a constant feature."""

    def __call__(self, block_nF: Tensor) -> Tensor:
        """Return a block of features standardized, float32."""
        mean, scale = self.mean_F.to(block_nF.device), self.scale_F.to(block_nF.device)
        return block_nF.detach().float().sub(mean.float()).mul_(scale.float())


def scaling_of(rows: Rows, device: torch.device) -> Scaling:
    """Return mean and deviation of features [N, F], from one pass over them in float64.

    Raises:
        DataError: a feature is NaN or infinite.
    """
    shift: Tensor | None = None
    total = square = torch.zeros((), dtype=torch.float64)
    for _, block in finite_blocks(rows, "train", device=device):
        values = block.detach().double()
        # sums of what lies near zero: a large mean takes no digits from the deviation
        shift = values.mean(0) if shift is None else shift
        values -= shift
        total, square = total.to(device) + values.sum(0), square.to(device) + values.square().sum(0)
    assert shift is not None
    mean = total / len(rows)
    deviation = (square / len(rows) - mean.square()).clamp_min(0).sqrt()
    mean += shift
    # by rounding, a constant feature deviates too: by little beside its size and the others
    least = torch.maximum(mean.abs() * 1e-9, 1e-6 * deviation.max().clamp(2.0**-100, 1.0))
    scale = torch.where(deviation > least, 1 / deviation.clamp_min(least), 0.0)
    return Scaling(mean_F=mean, scale_F=scale)


class TrainingBlocks:
    """Standardized training features with labels, of which some rows are held out."""

    def __init__(
        self, rows: Rows, labels_N: Tensor, held_N: Tensor, classes: int, device: torch.device
    ) -> None:
        """Read the features once, twice where they fit in memory.

        Args:
            rows: Features [N, F].
            labels_N: int64.
            held_N: bool, rows held out.
            classes: Number of classes.
            device: Where blocks are placed.
        """
        self.rows, self.labels_N, self.held_N, self.device = rows, labels_N.cpu(), held_N, device
        self.num_fit = int((~held_N).sum())
        self.scaling = scaling_of(rows, device)
        self.size = max(1, min(BLOCK_BYTES // (4 * rows.shape[1]), SCORES // classes))
        self._kept: list[tuple[bool, Block]] | None = None
        if 4 * len(rows) * rows.shape[1] <= _kept_bytes(device):
            self._kept = list(self._read())

    def __call__(self, *, fit: bool, held: bool) -> Iterator[Block]:
        """Yield blocks of the rows to fit, of those held out, or of both."""
        for is_held, block in self._kept if self._kept is not None else self._read():
            if held if is_held else fit:
                yield block

    def _read(self) -> Iterator[tuple[bool, Block]]:
        for start, block in blocks(self.rows, size=self.size, device=self.device):
            labels, held = (
                values[start : start + len(block)] for values in (self.labels_N, self.held_N)
            )
            for is_held in (False, True):
                chosen = (held == is_held).nonzero()[:, 0]
                if len(chosen):
                    features = self.scaling(block[chosen.to(self.device)])
                    yield is_held, (features, labels[chosen].to(self.device))


def _kept_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return KEPT_BYTES


def features_device(rows: Rows) -> torch.device:
    """Return where features are: a tensor's device, the CPU for a file."""
    return rows.device if isinstance(rows, Tensor) else torch.device("cpu")


def held_out(labels_N: Tensor, every: int = 5) -> Tensor:
    """Return which rows to hold out [N] bool: every fifth of each class, in the order given."""
    held = torch.zeros(len(labels_N), dtype=torch.bool)
    order = labels_N.cpu().argsort(stable=True)
    counts = torch.bincount(labels_N.cpu())
    first = counts.cumsum(0) - counts
    place = torch.arange(len(order)) - first.repeat_interleave(counts)
    held[order[place % every == every - 1]] = True
    return held
