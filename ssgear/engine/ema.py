"""Moving averages of a group's weights, in float32, updated once per step really taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Average of the trained weights of a module; batch statistics stay the live module's own."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start at the weights as they are."""
        self.decay = decay
        self.weights = dict(module.named_parameters())
        self.average = {
            name: weight.detach().float().clone() for name, weight in self.weights.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights: e <- decay e + (1 - decay) w."""
        live = [weight.detach().float() for weight in self.weights.values()]
        torch._foreach_lerp_(list(self.average.values()), live, 1 - self.decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the weights' place inside the block."""
        kept = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average by parameter name."""
        return self.average

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take an average that `state_dict` returned."""
        for name, average in self.average.items():
            average.copy_(state[name])
