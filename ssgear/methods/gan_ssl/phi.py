"""phi, realism's weight in the generator's loss, and what takes over as it falls (docs/math.md 2).

With a condition phi is the SSL loss of synthetic images against the real ones that they are
conditioned on, as a running mean: while they serve the encoder badly, realism weighs more. Without
one it is a curriculum over u = progress in [0, 1].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssgear.methods.gan_ssl.config import GanSettings

DECAY = 0.99
"""Of the running mean, per generator step."""


def curriculum(kind: str, progress: float, step_at: float) -> float:
    """Return f(u) in [0, 1]: how much of realism's weight above its smallest is left."""
    if kind == "linear":
        return 1 - progress
    if kind == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if kind == "step":
        return float(progress < step_at)
    return 1.0


def of_curriculum(config: GanSettings, progress: float) -> tuple[float, float]:
    """Return phi, and the share of `generator_ssl_weight` that holds.

    `constant` leaves both at 1: the two losses are added as they are.
    """
    kind = config.phi_kind
    if kind == "constant":
        return 1.0, 1.0
    left = curriculum(kind, progress, config.phi_step)
    share = left if config.phi_direction == "falling" else 1 - left
    return config.phi_min + (1 - config.phi_min) * share, 1 - left


def of_loss(config: GanSettings, mean: Tensor, num_rows: int) -> Tensor:
    """Return phi of the running mean of an NT-Xent loss over 2N = `num_rows` rows."""
    value = mean / math.log(num_rows - 1) if config.phi_scale == "log" else mean
    return value.clamp(config.phi_min, config.phi_max)


def moved(mean: Tensor, steps: Tensor, value: Tensor) -> Tensor:
    """Return the running mean after one more value; the first one is the mean."""
    return torch.where(steps > 0, torch.lerp(value, mean, DECAY), value)
