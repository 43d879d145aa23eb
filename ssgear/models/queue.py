"""A queue of embeddings from past batches, as MoCo, NNCLR and SwAV keep one.

A fixed buffer that is written in a ring, so that it is part of every checkpoint (He et al. 2020,
arXiv 1911.05722, section 3.2). Rows of all ranks enter in the order of the rows of the global
batch: every rank holds the queue that one process would.
Shapes: K rows of the queue, n rows of this rank, D the width.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.errors import ArgumentError, ConfigError
from ssgear.kernels.nt_xent.rows import gather_rows
from ssgear.models.heads import seeded

BLOCK = 8192
"""Rows of the queue that are compared at a time."""


def check_queue_length(length: int, batch_size: int, option: str = "--method.queue-length") -> None:
    """Refuse a queue that whole batches do not fill: its oldest rows would be of different ages."""
    if length >= batch_size and length % batch_size == 0:
        return
    below = max(length // batch_size, 1) * batch_size
    right = f"{below}" if length < batch_size else f"{below} or {below + batch_size}"
    raise ConfigError(
        f"{option}: {length} is no multiple of the {batch_size} images of a step over all ranks "
        f"(--optim.batch-size); use {right}"
    )


class Queue(nn.Module):
    """The last K rows that were pushed; before they are that many, random directions."""

    rows: Tensor
    place: Tensor
    filled: Tensor

    def __init__(self, length: int, dim: int, *, seed_path: str) -> None:
        """Fill it with unit rows that depend on the run's seed and on `seed_path` alone."""
        super().__init__()
        if length < 1 or dim < 1:
            raise ArgumentError(f"Queue: {length} rows of width {dim} are not possible")
        with seeded(torch.initial_seed(), seed_path):
            self.register_buffer("rows", F.normalize(torch.randn(length, dim)))
        # numbers on the device: a step waits for nothing
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def __len__(self) -> int:
        """Return K."""
        return self.rows.shape[0]

    @torch.no_grad()
    def push(self, rows_nD: Tensor, group: dist.ProcessGroup | None = None) -> None:
        """Replace the oldest rows by those of all ranks; every rank brings equally many.

        They are kept as they come, in float32: bring unit rows where the rest are.
        """
        rows_nD = rows_nD.detach().to(self.rows.dtype)
        if group is not None and dist.get_world_size(group) > 1:
            rows_nD = gather_rows(rows_nD, group)
        if rows_nD.ndim != 2 or rows_nD.shape[1] != self.rows.shape[1]:
            raise ArgumentError(
                f"Queue.push: rows {tuple(rows_nD.shape)} do not fit a queue of "
                f"{tuple(self.rows.shape)}"
            )
        length, count = len(self), rows_nD.shape[0]
        row = torch.arange(max(count - length, 0), count, device=self.rows.device)
        self.rows.index_copy_(0, (self.place + row) % length, rows_nD[-length:])
        self.place.add_(count).remainder_(length)
        self.filled.add_(count).clamp_(max=length)

    @torch.no_grad()
    def nearest(self, z_nD: Tensor) -> Tensor:
        """Return for each row of `z_nD` the row of the queue that points most nearly its way.

        The rows in the queue are taken as they are, of unit length; of equally near ones the first
        is taken. In blocks: the similarities [n, K] are never held at once.
        """
        with torch.autocast(z_nD.device.type, enabled=False):
            z_nD = z_nD.detach().to(self.rows.dtype)
            best_n = z_nD.new_full(z_nD.shape[:1], -torch.inf)
            index_n = torch.zeros(z_nD.shape[:1], dtype=torch.int64, device=z_nD.device)
            for start in range(0, len(self), BLOCK):
                value_n, place_n = (z_nD @ self.rows[start : start + BLOCK].T).max(dim=1)
                better_n = value_n > best_n
                best_n = torch.where(better_n, value_n, best_n)
                index_n = torch.where(better_n, place_n + start, index_n)
            return self.rows[index_n]
