"""The activation of generators and critics, in one place.

It is the kernel whose double backward sends nothing to its input where PyTorch's sends zeros
through the whole critic, so that a gradient penalty costs four forward-equivalents, not six.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from ssgear.kernels import stylegan_ops

SLOPE = 0.2
"""Slope of the leaky ReLU below zero."""
GAIN = math.sqrt(2)
"""Keeps the second moment of what goes through about as it was (He et al. 2015, 1502.01852)."""


def leaky_relu(x: Tensor, bias: Tensor | None = None, *, gain: float = 1.0) -> Tensor:
    """Return the activation of x [N, C, ...] + bias [C], times the gain."""
    return stylegan_ops.leaky_relu(x, bias, negative_slope=SLOPE, gain=gain)


class LeakyReLU(nn.Module):
    """`leaky_relu` without bias and gain, for networks that are lists of modules."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of every element."""
        return leaky_relu(x)
