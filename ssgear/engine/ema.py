"""Moving averages of a group's weights, in float32, updated once per step really taken."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager

from torch import Tensor, nn

from ssgear.optim import move_average, replaced


class Ema:
    """Average of the trained weights of a module; batch statistics stay the live module's own."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start at the weights as they are."""
        self.decay = decay
        self.weights = dict(module.named_parameters())
        self.average = {
            name: weight.detach().float().clone() for name, weight in self.weights.items()
        }

    def update(self) -> None:
        """Move the average towards the weights: e <- decay e + (1 - decay) w."""
        move_average(self.average.values(), self.weights.values(), 1 - self.decay)

    def applied(self) -> AbstractContextManager[None]:
        """Put the average in the weights' place inside the block."""
        return replaced(self.weights, self.average)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average by parameter name."""
        return self.average

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take an average that `state_dict` returned."""
        for name, average in self.average.items():
            average.copy_(state[name])
