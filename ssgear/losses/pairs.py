"""Losses between an online and a target branch: every view against every other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def all_pairs(firsts: Sequence[Tensor], seconds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the rows of view i of `firsts` and of view j of `seconds` below each other, i != j.

    For losses whose rows know nothing of each other: one call in place of one for each pair.
    """
    pairs = _pairs(firsts, seconds)
    return torch.cat([first for first, _ in pairs]), torch.cat([second for _, second in pairs])


def mean_over_pairs(
    loss: Callable[[Tensor, Tensor], Tensor], firsts: Sequence[Tensor], seconds: Sequence[Tensor]
) -> Tensor:
    """Return the mean of loss(first of view i, second of view j) over all i != j."""
    return torch.stack([loss(first, second) for first, second in _pairs(firsts, seconds)]).mean()


def _pairs(firsts: Sequence[Tensor], seconds: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [
        (first, second)
        for i, first in enumerate(firsts)
        for j, second in enumerate(seconds)
        if i != j
    ]
