"""The activation of generators and critics, in one place so that a faster one can take it."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2
"""Slope of the leaky ReLU below zero."""
GAIN = math.sqrt(2)
"""Keeps the second moment of what goes through about as it was (He et al. 2015, 1502.01852)."""


def leaky_relu(x: Tensor, bias: Tensor | None = None, *, gain: float = 1.0) -> Tensor:
    """Return the activation of x [N, C, ...] + bias [C], times the gain."""
    if bias is not None:
        x = x + bias.to(x.dtype).reshape(-1, *[1] * (x.ndim - 2))
    y = F.leaky_relu(x, SLOPE)
    return y if gain == 1 else y * gain


class LeakyReLU(nn.Module):
    """`leaky_relu` without bias and gain, for networks that are lists of modules."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of every element."""
        return leaky_relu(x)
