"""A grid of linear heads trained side by side by SGD with momentum, in one pass over features.

All heads see the same batch: scores and gradients of the whole grid are one matrix product each.
Every head takes the steps that `torch.optim.SGD` would take for it alone.

Legend: n rows of a batch, F features, G heads, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.evaluation.features.rows import BLOCK_BYTES, Rows
from ssgear.kernels import philox

MOMENTUM = 0.9
RUN = 64
"""Rows that are read together from a file."""


class Heads:
    """Linear heads for every pair of a learning rate and a weight decay."""

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        lrs: Sequence[float],
        weight_decays: Sequence[float],
        device: torch.device,
    ) -> None:
        """Start all heads at zero.

        Raises:
            ArgumentError: the grid is empty, a learning rate is not positive, or a decay negative.
        """
        grid = [(lr, decay) for lr in lrs for decay in weight_decays]
        if not grid or min(lrs) <= 0 or min(weight_decays) < 0:
            raise ArgumentError(
                f"SGD probe: learning rates must be positive and weight decays 0 or above "
                f"(got {[*lrs]} and {[*weight_decays]})"
            )
        self.grid = grid
        self.lrs_G1 = torch.tensor([[lr] for lr, _ in grid], device=device)
        self.decays_G1 = torch.tensor([[decay] for _, decay in grid], device=device)
        # the last row of a head is its bias
        self.weights = torch.zeros(width + 1, len(grid), classes, device=device)
        self.momentum = torch.zeros_like(self.weights)

    def scores(self, features_nF: Tensor) -> Tensor:
        """Return scores [n, G, C]."""
        _, heads, classes = self.weights.shape
        flat = self.weights.view(-1, heads * classes)
        return torch.addmm(flat[-1], features_nF, flat[:-1]).view(-1, heads, classes)

    def step(self, features_nF: Tensor, labels_n: Tensor, factor: float) -> None:
        """Take one step of every head; `factor` of the schedule multiplies learning rates."""
        error_nGC = self.scores(features_nF).softmax(2)
        index = labels_n[:, None, None].expand(-1, len(self.grid), 1)
        error_nGC.scatter_add_(2, index, torch.full_like(error_nGC[:, :, :1], -1.0))
        error = error_nGC.flatten(1) / len(labels_n)
        gradient = torch.cat([features_nF.T @ error, error.sum(0, keepdim=True)])
        gradient = gradient.view_as(self.weights).addcmul(self.decays_G1, self.weights)
        self.momentum.mul_(MOMENTUM).add_(gradient)
        self.weights.addcmul_(self.lrs_G1 * factor, self.momentum, value=-1)

    def right(self, features_nF: Tensor, labels_n: Tensor) -> Tensor:
        """Return how many rows each head classifies rightly, [G] int64."""
        return (self.scores(features_nF).argmax(2) == labels_n[:, None]).sum(0)


def cosine(step: int, steps: int) -> float:
    """Return the factor of the learning rate: half a cosine from 1 to 0."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def shuffled_batches(
    rows: Rows, fit_N: Tensor, *, batch_size: int, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of features with their row numbers, every row to fit once an epoch.

    Rows of a file are read in runs of 64 from all over the file, 64 MB at a time, and shuffled
    among those; rows of a tensor are shuffled among all. An incomplete last batch is left out
    unless it is the only one.

    Args:
        rows: Features [N, F].
        fit_N: bool, rows to use.
        batch_size: Rows of a batch.
        seed: Which order.
        epoch: Number of the epoch, each with an order of its own.
    """
    run = 1 if isinstance(rows, Tensor) else RUN
    buffer = max(1, BLOCK_BYTES // (4 * rows.shape[1] * run))
    order = philox.permutation(philox.derive_key(seed, "runs", epoch), -(-len(rows) // run))
    rest, is_first = torch.empty(0, dtype=torch.int64), True
    rest_features = torch.empty(0, rows.shape[1])
    for first in range(0, len(order), buffer):
        runs = order[first : first + buffer]
        index = (runs[:, None] * run + torch.arange(run)).flatten()
        index = index[index < len(rows)]
        index = index[fit_N[index]]
        features = torch.cat([rest_features, rows[index].detach().float().cpu()])
        index = torch.cat([rest, index])
        shuffle = philox.permutation(philox.derive_key(seed, "rows", epoch, first), len(index))
        complete = len(index) - len(index) % batch_size
        for start in range(0, complete, batch_size):
            chosen = shuffle[start : start + batch_size]
            yield features[chosen], index[chosen]
            is_first = False
        rest, rest_features = index[shuffle[complete:]], features[shuffle[complete:]]
    if is_first and len(rest):
        yield rest_features, rest
