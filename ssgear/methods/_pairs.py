"""What the methods with an online and a target branch share: every view against every other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ssgear.errors import require


def halves(zs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the online embeddings, and the targets as they are: no gradient goes to them."""
    count = len(zs) // 2
    return tuple(zs[:count]), tuple(z.detach() for z in zs[count:])


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


def check_widths(**widths: int | Sequence[int]) -> None:
    """Refuse layers of no width; each by the name of its field."""
    for name, width in widths.items():
        every = [width] if isinstance(width, int) else [*width]
        right = "use 1 or more" if isinstance(width, int) else "give at least one width, each >= 1"
        require(bool(every) and min(every) >= 1, option(name), width, right)


def check_temperature(temperature: float) -> None:
    """Refuse what is no temperature."""
    right = "use a value above 0"
    require(0 < temperature < float("inf"), "--method.temperature", temperature, right)


def option(name: str) -> str:
    """Return the option of a field of a method's settings."""
    return f"--method.{name.replace('_', '-')}"
