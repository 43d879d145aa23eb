"""Layers of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958), all of them twice differentiable.

Weights are stored with unit variance and scaled when they are used (equalised learning rate, Karras
et al. 2018, 1710.10196). The modulated convolution scales what goes in and what comes out of one
shared weight, instead of making a weight for every sample:

    y = d_no conv(s_ni x_ni, w_oi),    d_no = 1 / sqrt(sum_i s_ni^2 sum_k w_oik^2 + eps)

Shapes: N samples, I and O channels in and out, K taps of a side, H and W pixels, W style numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear.models.gan import fir
from ssgear.models.gan.activation import GAIN, leaky_relu

EPS = 1e-8


def activate(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the leaky ReLU of x + bias [C] that keeps the second moment."""
    return leaky_relu(x, bias, gain=GAIN)


class EqualLinear(nn.Module):
    """A linear layer with equalised learning rate: [N, I] to [N, O]."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        activated: bool = False,
        bias: bool = True,
        initial_bias: float = 0.0,
        lr_scale: float = 1.0,
    ) -> None:
        """Draw the weight; `lr_scale` slows the layer down without changing what it computes."""
        super().__init__()
        self.activated, self.lr_scale = activated, lr_scale
        self.scale = lr_scale / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_scale)
        value = torch.full((outputs,), initial_bias / lr_scale)
        self.bias = nn.Parameter(value) if bias else None

    def forward(self, x_NI: Tensor) -> Tensor:
        """Return the layer's output, activated if so asked."""
        bias = None if self.bias is None else self.bias * self.lr_scale
        if not self.activated:
            return F.linear(x_NI, self.weight * self.scale, bias)
        return activate(F.linear(x_NI, self.weight * self.scale), bias)


class EqualConv2d(nn.Module):
    """A convolution with equalised learning rate, at half the resolution if `down`."""

    taps_T: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        activated: bool = True,
        bias: bool = True,
        down: bool = False,
    ) -> None:
        """Draw the weight [O, I, K, K]."""
        super().__init__()
        self.activated, self.down = activated, down
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("taps_T", fir.taps_of(), persistent=False)

    def forward(self, x_NIHW: Tensor) -> Tensor:
        """Return [N, O, H, W], or half the sides."""
        weight = self.weight * self.scale
        y = conv_down(x_NIHW, weight, self.taps_T) if self.down else _conv(x_NIHW, weight)
        if self.activated:
            return activate(y, self.bias)
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]


class ModulatedConv2d(nn.Module):
    """A convolution whose input channels a style scales, its output normalised by expectation."""

    taps_T: Tensor

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        style_dim: int,
        *,
        demodulate: bool = True,
        up: bool = False,
    ) -> None:
        """Draw the weight [O, I, K, K] and the map from styles to scales, which starts at 1."""
        super().__init__()
        self.demodulate, self.up = demodulate, up
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.to_scales = EqualLinear(style_dim, inputs, initial_bias=1.0)
        self.register_buffer("taps_T", fir.taps_of(), persistent=False)

    def forward(self, x_NIHW: Tensor, style_NW: Tensor) -> Tensor:
        """Return [N, O, H, W], or twice the sides if `up`."""
        scales_NI = self.to_scales(style_NW)
        weight = self.weight * self.scale
        factor_NO = demodulation(weight, scales_NI) if self.demodulate else None
        return modulated_conv(
            x_NIHW, weight, scales_NI, factor_NO, self.taps_T if self.up else None
        )


def modulated_conv(
    x_NIHW: Tensor,
    weight_OIKK: Tensor,
    scales_NI: Tensor,
    factor_NO: Tensor | None,
    up_taps_T: Tensor | None = None,
) -> Tensor:
    """Convolve x scaled per input channel, and scale each output channel by `factor_NO`.

    With `up_taps_T` the result has twice the sides and is smoothed by these taps.
    """
    x = x_NIHW * scales_NI.to(x_NIHW.dtype)[:, :, None, None]
    y = _conv(x, weight_OIKK) if up_taps_T is None else conv_up(x, weight_OIKK, up_taps_T)
    return y if factor_NO is None else y * factor_NO.to(y.dtype)[:, :, None, None]


def demodulation(weight_OIKK: Tensor, scales_NI: Tensor) -> Tensor:
    """Return the factors [N, O] that give unit variance for inputs of unit variance."""
    # sums of squares lose too much in half precision
    with torch.autocast(weight_OIKK.device.type, enabled=False):
        wide = torch.promote_types(weight_OIKK.dtype, torch.float32)
        squared_OI = weight_OIKK.to(wide).square().sum(dim=(2, 3))
        return (scales_NI.to(wide).square() @ squared_OI.T + EPS).rsqrt()


def conv_up(x_NIHW: Tensor, weight_OIKK: Tensor, taps_T: Tensor) -> Tensor:
    """Return [N, O, 2 H, 2 W]: zeros between the pixels, convolved by 3 x 3, smoothed."""
    # a transposed convolution correlates with the flipped kernel
    weight = weight_OIKK.flip((2, 3)).transpose(0, 1)
    y = F.conv_transpose2d(x_NIHW, weight, stride=2)
    spare = y.shape[-1] - 2 * x_NIHW.shape[-1]  # K - 2 for a kernel of K taps
    return fir.smooth(y, taps_T, pad=(len(taps_T) - 1 - spare) // 2, gain=4.0)


def conv_down(x_NIHW: Tensor, weight_OIKK: Tensor, taps_T: Tensor) -> Tensor:
    """Return [N, O, H / 2, W / 2]: smoothed, then convolved at every second pixel."""
    kernel = weight_OIKK.shape[-1]
    if kernel == 1:
        return F.conv2d(fir.downsample(x_NIHW, taps_T), weight_OIKK)
    pad = (len(taps_T) + kernel - 3) // 2
    return F.conv2d(fir.smooth(x_NIHW, taps_T, pad=pad), weight_OIKK, stride=2)


def minibatch_stddev(x_NCHW: Tensor, group: int) -> Tensor:
    """Append one channel: the standard deviation over groups of samples, averaged over the rest.

    Sample i is in a group with those i + N / group places away (Karras et al. 2018). A batch that
    `group` does not divide is grouped by the largest divisor below it.
    """
    n, _, height, width = x_NCHW.shape
    group = next(size for size in range(min(group, n), 0, -1) if n % size == 0)
    wide = x_NCHW.to(torch.promote_types(x_NCHW.dtype, torch.float32))
    grouped = wide.reshape(group, n // group, -1)
    spread = (grouped.var(dim=0, unbiased=False) + EPS).sqrt().mean(dim=1)
    channel = spread.repeat(group)[:, None, None, None].expand(n, 1, height, width)
    return torch.cat((x_NCHW, channel.to(x_NCHW.dtype)), dim=1)


def normalise(x_NW: Tensor) -> Tensor:
    """Scale each row to a mean square of 1."""
    return x_NW * (x_NW.square().mean(dim=1, keepdim=True) + EPS).rsqrt()


def _conv(x_NIHW: Tensor, weight_OIKK: Tensor) -> Tensor:
    return F.conv2d(x_NIHW, weight_OIKK, padding=weight_OIKK.shape[-1] // 2)
