"""The activation of GAN critics, with a second backward that costs nothing.

    y = gain leaky_relu(x + bias)        dy/dx = gain (1 where x + bias > 0, else negative_slope)

The slope does not change with x. PyTorch's own leaky_relu still sends that zero back as a dense
tensor, through the whole forward graph: two of the six forward-equivalents of a penalty step. Here
the second backward has nothing for x, and PyTorch leaves out what would carry it. Bias and gain as
in StyleGAN2 (Karras et al. 2020, arXiv 1912.04958). Plain PyTorch on every device.
Shapes: N samples, C channels on dim 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import checks
from ssgear.kernels.transforms import Context, is_transformed


def leaky_relu(
    x: Tensor, bias: Tensor | None = None, *, negative_slope: float = 0.2, gain: float = 1.0
) -> Tensor:
    """Return the activation of x + bias times the gain, shaped like x; of any order of derivative.

    Only the result is kept for the backward, which a convolution after it keeps anyway. Under
    torch.compile, torch.func and forward-mode differentiation it is PyTorch's own leaky_relu.

    Args:
        x: [N, C, ...], floating-point.
        bias: [C] on the device of x, of its type or float32, or None. It is brought to the type
            of x, as under autocast; its gradient has its own type.
        negative_slope: Slope of the negative half, at least 0.
        gain: Factor, above 0; sqrt(2) keeps the variance of what goes through (StyleGAN2).

    Raises:
        ArgumentError: In one line, for arguments that do not fit together.
    """
    _check(x, bias, negative_slope, gain)
    bias = None if bias is None else bias.to(x.dtype)
    if torch.compiler.is_compiling() or is_transformed(x, bias):
        return _native(x, bias, negative_slope, gain)
    result: Tensor = _LeakyRelu.apply(x, bias, float(negative_slope), float(gain))
    return result


def _native(x: Tensor, bias: Tensor | None, negative_slope: float, gain: float) -> Tensor:
    shifted = x if bias is None else x + _per_channel(bias, x)
    y = torch.nn.functional.leaky_relu(shifted, negative_slope)
    return y if gain == 1 else y * gain


Kept = Context[tuple[float, float]]


class _LeakyRelu(torch.autograd.Function):
    """y, and from its sign the slopes."""

    @staticmethod
    def forward(
        ctx: Kept, x: Tensor, bias: Tensor | None, negative_slope: float, gain: float
    ) -> Tensor:
        if bias is None:
            y = torch.nn.functional.leaky_relu(x, negative_slope)
        else:
            y = torch.nn.functional.leaky_relu_(x + _per_channel(bias, x), negative_slope)
        if gain != 1:
            y.mul_(gain)
        ctx.set_materialize_grads(False)  # nothing stays nothing, where zeros would be worked on
        ctx.save_for_backward(y)
        ctx.settings = (negative_slope, gain)
        return y

    @staticmethod
    def backward(ctx: Kept, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (grad,), (y,) = grads, ctx.saved_tensors
        if grad is None:
            return (None,) * 4
        # detached: the slope is a constant, so nothing of a second backward goes to y
        grad_x: Tensor = _Slope.apply(grad, y.detach(), *ctx.settings)
        if not ctx.needs_input_grad[1]:
            return grad_x, None, None, None
        return grad_x, grad_x.sum([dim for dim in range(y.ndim) if dim != 1]), None, None


class _Slope(torch.autograd.Function):
    """grad times the slope at y; linear in grad, so it is its own derivative."""

    @staticmethod
    def forward(ctx: Kept, grad: Tensor, y: Tensor, negative_slope: float, gain: float) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y)
        ctx.settings = (negative_slope, gain)
        scaled: Tensor = torch.ops.aten.leaky_relu_backward(grad, y, negative_slope, True)
        return scaled if gain == 1 else scaled.mul_(gain)

    @staticmethod
    def backward(ctx: Kept, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (direction,) = grads
        if direction is None:
            return (None,) * 4
        slope: Tensor = _Slope.apply(direction, ctx.saved_tensors[0], *ctx.settings)
        return slope, None, None, None


def _per_channel(bias: Tensor, x: Tensor) -> Tensor:
    return bias.view(-1, *(1,) * (x.ndim - 2))


def _check_bias(bias: Tensor, x: Tensor) -> None:
    types = [x.dtype] if x.dtype == torch.float64 else sorted({x.dtype, torch.float32}, key=str)
    found, right = type(bias).__name__, (x.shape[1:2], x.device)
    if isinstance(bias, Tensor):
        if bias.dtype in types and (bias.shape, bias.device) == right:
            return
        found = f"{bias.dtype} {list(bias.shape)} on {bias.device}"
    raise ArgumentError(
        f"leaky_relu: bias is {found}; use {' or '.join(map(str, types))} [{x.shape[1]}] on "
        f"{x.device}"
    )


def _check(x: Tensor, bias: Tensor | None, negative_slope: float, gain: float) -> None:
    if not checks.is_float_tensor(x) or x.ndim < 2:
        found = checks.kind(x) + (f" {list(x.shape)}" if isinstance(x, Tensor) else "")
        raise ArgumentError(f"leaky_relu: x is {found}; use floating-point [N, C, ...]")
    if bias is not None:
        _check_bias(bias, x)
    if not checks.is_number(negative_slope, 0, checks.LARGEST):
        raise ArgumentError(
            f"leaky_relu: negative_slope={checks.shown(negative_slope)}; use a finite number of at "
            "least 0 that float32 holds"
        )
    if not checks.is_number(gain, checks.TINY, checks.LARGEST):
        raise ArgumentError(
            f"leaky_relu: gain={checks.shown(gain)}; use a finite number above 0 that float32 holds"
        )
