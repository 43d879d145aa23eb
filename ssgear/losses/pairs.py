"""Losses between an online and a target branch: every view against every other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def halves(zs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the online embeddings of all views, and their targets: no gradient goes to those."""
    count = len(zs) // 2
    return tuple(zs[:count]), tuple(z.detach() for z in zs[count:])


def all_pairs(firsts: Sequence[Tensor], seconds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the rows of view i of `firsts` and of view j of `seconds` below each other, i != j.

    For losses whose rows know nothing of each other: one call in place of one for each pair.
    """
    places = [(i, j) for i in range(len(firsts)) for j in range(len(seconds)) if i != j]
    return torch.cat([firsts[i] for i, _ in places]), torch.cat([seconds[j] for _, j in places])


def mean_over_pairs(
    loss: Callable[[Tensor, Tensor], Tensor], firsts: Sequence[Tensor], seconds: Sequence[Tensor]
) -> Tensor:
    """Return the mean of loss(first of view i, second of view j) over all i != j."""
    terms = [
        loss(first, second)
        for i, first in enumerate(firsts)
        for j, second in enumerate(seconds)
        if i != j
    ]
    return torch.stack(terms).mean()
