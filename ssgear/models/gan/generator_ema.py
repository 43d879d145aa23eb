"""An average of a generator's weights whose memory is counted in images, with a ramp at the start.

StyleGAN2-ADA (Karras et al. 2020, arXiv 2006.06676) samples from an average over 500k images; early
in a run over 5 % of the images seen so far, so that the untrained weights are soon forgotten.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor, nn

from ssgear.errors import ConfigError
from ssgear.optim import move_average, replaced


class GeneratorEma(nn.Module):
    """Average of the trained weights of a module, in float32; its buffers stay the live ones.

    The averages are buffers of this module, so that a checkpoint holds them.
    """

    def __init__(
        self, generator: nn.Module, *, half_life: float = 500_000, ramp: float | None = 0.05
    ) -> None:
        """Start at the weights as they are.

        Args:
            generator: The module whose parameters are averaged.
            half_life: Images after which a weight counts half, above 0.
            ramp: The half-life is at most this share of the images seen so far; None: no ramp.
        """
        super().__init__()
        if half_life <= 0 or (ramp is not None and ramp <= 0):
            raise ConfigError(f"half_life {half_life} and ramp {ramp} must be above 0")
        self.half_life, self.ramp = half_life, ramp
        self.weights = dict(generator.named_parameters())
        for name, weight in self.weights.items():
            self.register_buffer(_buffer(name), weight.detach().float().clone())

    def decay(self, batch: int, images_seen: int) -> float:
        """Return the share of the average that a step of `batch` images keeps.

        `images_seen` are those before this step.
        """
        half_life = self.half_life
        if self.ramp is not None:
            half_life = min(half_life, images_seen * self.ramp)
        return 0.5 ** (batch / half_life) if half_life else 0.0

    def update(self, batch: int, images_seen: int) -> None:
        """Move the average towards the weights: e <- decay e + (1 - decay) w."""
        share = 1 - self.decay(batch, images_seen)
        move_average(self.average().values(), self.weights.values(), share)

    def average(self) -> dict[str, Tensor]:
        """Return the average by parameter name."""
        return {name: self.get_buffer(_buffer(name)) for name in self.weights}

    def applied(self) -> AbstractContextManager[None]:
        """Put the average in the weights' place inside the block."""
        return replaced(self.weights, self.average())


def _buffer(name: str) -> str:
    """Return a name for a buffer; those of parameters have dots."""
    return name.replace(".", "/")
