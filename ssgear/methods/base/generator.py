"""A generator in training as the callbacks see it: samples, files, and its game with a critic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CriticGame:
    """The game of generator and critic, as its health is judged."""

    kind: str
    """Adversarial loss by name (losses/adversarial.py)."""
    resolution: int
    """Side of the images in pixels, values in [-1, 1]."""
    gp_weight: float = 0.0
    """Weight of wgan's penalty (||grad D|| - 1)^2."""


PairedWith = Literal["nothing", "real", "synthetic"]


class GeneratorSide(ABC):
    """A generator in training, as the callbacks see it."""

    condition: str
    """What it is conditioned on: none, label, or instance."""
    pairs_with: PairedWith
    """Positive of a synthetic image in the SSL losses: the real image of its row, another view of
    itself; nothing where no SSL loss sees synthetic images."""
    game: CriticGame | None
    """What it plays against its critic; None where no critic judges it."""

    @abstractmethod
    def samples(self, images: Tensor, labels: Tensor | None, *, seed: int) -> Tensor:
        """Return synthetic images for real ones: uint8 [N, 3, R, R] of uint8 [N, 3, H, W].

        Row i is conditioned on image i or its label where the generator is conditioned at all, and
        made of noise of (seed, i).
        """

    @abstractmethod
    def save(self, directory: Path, classes: Sequence[str] | None) -> None:
        """Write the generator as `python -m ssgear.generate` reads it."""
