"""Heads on top of an encoder, and initial weights that depend on a seed and a name only.

`mlp` is the projector of the contrastive methods (Chen et al. 2020): Linear, norm, ReLU, ...,
Linear. Whoever builds modules does it inside `seeded(seed, "projector")`, so that a new head
changes no other's weights. The checks are those of the settings that heads and losses share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from ssgear.errors import ConfigError, require
from ssgear.kernels.checks import LARGEST, TINY


@contextmanager
def seeded(seed: int, path: str) -> Iterator[None]:
    """Draw weights on the CPU from a stream of (seed, path); leave torch's generator as it was."""
    digest = hashlib.blake2b(f"{seed}/{path}".encode(), digest_size=8).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest, "little", signed=True))
        yield


def mlp(
    in_features: int,
    dims: Sequence[int],
    *,
    norm: Literal["batch", "group", "none"] = "batch",
    last_norm: bool = False,
    last_affine: bool = True,
) -> nn.Sequential:
    """Build a projector of widths `dims`; a layer that a norm follows has no bias.

    `norm="group"` normalises each row by itself (one group), for encoders without batch statistics.
    Without `last_affine` the norm after the last layer has neither scale nor shift.
    """
    if not dims or min(dims) < 1 or in_features < 1:
        raise ConfigError(
            f"a head of widths {tuple(dims)} over {in_features} features is not possible"
        )
    layers: list[nn.Module] = []
    widths = [in_features, *dims]
    for place, (width, next_width) in enumerate(zip(widths, dims, strict=False), start=1):
        last = place == len(dims)
        normed = norm != "none" and (last_norm or not last)
        layers.append(nn.Linear(width, next_width, bias=not normed))
        if normed:
            layers.append(_norm(norm, next_width, affine=last_affine or not last))
        if not last:
            layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def check_widths(**widths: int | Sequence[int]) -> None:
    """Refuse layers of no width, each by the field of a method's settings that has it."""
    for name, width in widths.items():
        every = [width] if isinstance(width, int) else [*width]
        right = (
            "use 1 or more"
            if isinstance(width, int)
            else "give at least one width, each at least 1"
        )
        option = f"--method.{name.replace('_', '-')}"
        require(bool(every) and min(every) >= 1, option, width, right)


class LearnedTemperature(nn.Module):
    """A positive temperature tau = exp(log_tau) that is trained like any weight."""

    def __init__(self, initial: float) -> None:
        """Start at `initial` > 0."""
        super().__init__()
        self.log_tau = nn.Parameter(torch.tensor(initial).log())

    def forward(self) -> Tensor:
        """Return tau, a 0-d float32 tensor."""
        return self.log_tau.exp()


def check_positive(**values: float) -> None:
    """Refuse what losses cannot divide by or multiply with, each by its field of the settings."""
    for name, value in values.items():
        option = f"--method.{name.replace('_', '-')}"
        right = "use a value that float32 holds" if value > 0 else "use a value above 0"
        require(TINY <= value <= LARGEST, option, value, right)


def _norm(norm: str, width: int, *, affine: bool) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm1d(width, affine=affine)
    return nn.GroupNorm(1, width, affine=affine)
