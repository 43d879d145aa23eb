"""Resampling by a FIR filter: each side twice as long, half as long, or only smoothed.

StyleGAN2 (Karras et al. 2020, arXiv 1912.04958) puts the binomial filter [1, 3, 3, 1] around every
change of resolution, after Zhang 2019 (1904.11486). Every channel is filtered by itself, rows and
columns one after the other; outside the image is zero. All of it is convolution, so every
derivative is one. Shapes: N images, C channels, sides H and W, T taps (an even number).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BINOMIAL = (1.0, 3.0, 3.0, 1.0)


def taps_of(weights: Sequence[float] = BINOMIAL) -> Tensor:
    """Return float32 taps [T] that sum to 1, to be kept as a buffer."""
    taps_T = torch.tensor(weights, dtype=torch.float32)
    return taps_T / taps_T.sum()


def smooth(x_NCHW: Tensor, taps_T: Tensor, *, pad: int, gain: float = 1.0) -> Tensor:
    """Filter both sides after `pad` zeros at each end: H becomes H + 2 pad - T + 1."""
    return _filter(x_NCHW, taps_T * gain**0.5, stride=1, pad=pad)


def downsample(x_NCHW: Tensor, taps_T: Tensor) -> Tensor:
    """Return [N, C, H / 2, W / 2]: filtered, then every second pixel."""
    return _filter(x_NCHW, taps_T, stride=2, pad=len(taps_T) // 2 - 1)


def upsample(x_NCHW: Tensor, taps_T: Tensor) -> Tensor:
    """Return [N, C, 2 H, 2 W]: zeros between the pixels, then filtered; the mean is kept."""
    n, channels, height, width = x_NCHW.shape
    pad = len(taps_T) // 2 - 1
    taps = taps_T.to(x_NCHW.dtype) * 2  # half of the pixels of a side are zeros
    x = x_NCHW.reshape(n * channels, 1, height, width)
    x = F.conv_transpose2d(x, taps[None, None, :, None], stride=(2, 1), padding=(pad, 0))
    x = F.conv_transpose2d(x, taps[None, None, None, :], stride=(1, 2), padding=(0, pad))
    return x.reshape(n, channels, 2 * height, 2 * width)


def _filter(x_NCHW: Tensor, taps_T: Tensor, *, stride: int, pad: int) -> Tensor:
    n, channels, height, width = x_NCHW.shape
    taps = taps_T.to(x_NCHW.dtype).flip(0)  # conv2d correlates
    x = x_NCHW.reshape(n * channels, 1, height, width)
    x = F.conv2d(x, taps[None, None, :, None], stride=(stride, 1), padding=(pad, 0))
    x = F.conv2d(x, taps[None, None, None, :], stride=(1, stride), padding=(0, pad))
    return x.reshape(n, channels, *x.shape[2:])
