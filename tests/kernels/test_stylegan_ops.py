"""The critic's activation: PyTorch's values and gradients, without its dense zeros."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from ssgear.errors import ArgumentError
from ssgear.kernels.gradient_penalty import gradient_penalty
from ssgear.kernels.stylegan_ops import leaky_relu

SETTINGS = [{}, {"negative_slope": 0.0}, {"negative_slope": 0.01, "gain": math.sqrt(2)}]
SHAPES = [(3, 5), (1, 1), (2, 3, 5), (3, 4, 5, 7)]


def plain(x: Tensor, bias: Tensor | None, negative_slope: float = 0.2, gain: float = 1) -> Tensor:
    shifted = x if bias is None else x + bias.view(-1, *(1,) * (x.ndim - 2))
    return functional.leaky_relu(shifted, negative_slope) * gain


def inputs(shape: tuple[int, ...], dtype: torch.dtype, with_bias: bool) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(shape[1], generator=generator).to(dtype).requires_grad_()
    return [x, bias if with_bias else None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(
    shape: tuple[int, ...], with_bias: bool, settings: dict[str, float], dtype: torch.dtype
) -> None:
    results = []
    for function in (leaky_relu, plain):
        x, bias = inputs(shape, dtype, with_bias)
        y = function(x, bias, **settings)  # type: ignore[operator]
        (y * torch.linspace(-1, 2, y.numel(), dtype=dtype).view_as(y)).sum().backward()
        assert x is not None
        results.append([y.detach(), x.grad, *([bias.grad] if bias is not None else [])])
    half = dtype == torch.bfloat16
    torch.testing.assert_close(*results, rtol=2e-2 if half else 1e-5, atol=2e-2 if half else 1e-6)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("with_bias", [False, True])
def test_derivatives_of_first_and_second_order(with_bias: bool, settings: dict[str, float]) -> None:
    leaves = [part for part in inputs((3, 4, 2), torch.float64, with_bias) if part is not None]

    def function(x: Tensor, bias: Tensor | None = None) -> Tensor:
        return leaky_relu(x, bias, **settings)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("with_bias", [False, True])
def test_second_backward_has_nothing_for_the_input(with_bias: bool) -> None:
    leaves = [part for part in inputs((3, 4, 2), torch.float64, with_bias) if part is not None]
    upstream = torch.ones(3, 4, 2, dtype=torch.float64, requires_grad=True)
    y = leaky_relu(*leaves)
    slopes = torch.autograd.grad(y, leaves, upstream, create_graph=True)
    total = sum((slope.sum() for slope in slopes), torch.zeros(()))
    to_upstream, *to_leaves = torch.autograd.grad(total, [upstream, *leaves], allow_unused=True)
    assert to_leaves == [None] * len(leaves)
    assert to_upstream is not None and to_upstream.min() > 0


class CountConvolutions(TorchDispatchMode):
    """Counts convolution products: a backward makes one each for its input and its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            to_input, to_weight, _ = args[-1]
            self.products += to_input + to_weight
        elif func is torch.ops.aten.convolution.default:
            self.products += 1
        return func(*args, **(kwargs or {}))


class ConvCritic(nn.Module):
    """Three convolutions, the activation after each; with its bias or with the convolution's."""

    def __init__(self, activation: Callable[..., Tensor], fused_bias: bool) -> None:
        super().__init__()
        torch.manual_seed(4)
        widths = (3, 6, 5, 4)
        layers = [nn.Conv2d(*pair, 3, padding=1) for pair in itertools.pairwise(widths)]
        self.layers, self.head = nn.ModuleList(layers), nn.Linear(4, 1)
        self.activation, self.fused_bias = activation, fused_bias

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.fused_bias:
                x = functional.conv2d(x, layer.weight, padding=1)
                x = self.activation(x, layer.bias)
            else:
                x = self.activation(layer(x), None)
        return self.head(x.mean((2, 3)))


def penalty_step(activation: Callable[..., Tensor], fused_bias: bool) -> tuple[int, list[Tensor]]:
    generator = torch.Generator().manual_seed(2)
    real, fake = torch.randn(2, 5, 3, 9, 7, generator=generator, dtype=torch.float64)
    critic = ConvCritic(activation, fused_bias).double()
    with CountConvolutions() as count:
        gradient_penalty(critic, real, fake, eps=0.3).backward()
    return count.products, [
        torch.zeros_like(p) if p.grad is None else p.grad for p in critic.parameters()
    ]


@pytest.mark.parametrize("fused_bias", [False, True])
def test_a_penalty_step_costs_four_forwards_and_not_six(fused_bias: bool) -> None:
    """Forward, backward, and of that again one product each for its input and the weights."""
    products, grads = penalty_step(leaky_relu, fused_bias)
    plain_products, plain_grads = penalty_step(plain, fused_bias)
    assert (products, plain_products) == (4 * 3, 6 * 3)
    torch.testing.assert_close(grads, plain_grads, rtol=1e-10, atol=1e-14)
    assert grads[0].any()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_as_one_graph(backend: str) -> None:
    results = []
    for call in (leaky_relu, torch.compile(leaky_relu, fullgraph=True, backend=backend)):
        x, bias = inputs((3, 4, 5), torch.float32, True)
        y = call(x, bias, gain=1.5)  # type: ignore[operator]
        y.square().sum().backward()
        assert x is not None and bias is not None
        results.append([y.detach(), x.grad, bias.grad])
    torch.testing.assert_close(*results)
    torch.compiler.reset()


def test_under_functorch() -> None:
    x, bias = (part.detach() for part in inputs((3, 4, 5), torch.float64, True) if part is not None)

    def score(x: Tensor, activation: Callable[..., Tensor]) -> Tensor:
        return activation(x, bias).square().sum()

    def steepness(x: Tensor, activation: Callable[..., Tensor]) -> Tensor:
        return torch.func.grad(score)(x, activation).square().sum()

    for function in (score, steepness):
        mine, right = (torch.func.grad(function)(x, act) for act in (leaky_relu, plain))
        torch.testing.assert_close(mine, right)


def test_under_functorch_with_a_bias_alone() -> None:
    x, bias = (part.detach() for part in inputs((3, 4, 5), torch.float64, True) if part is not None)

    def score(bias: Tensor, activation: Callable[..., Tensor]) -> Tensor:
        return activation(x, bias).square().sum()

    for transform in (torch.func.grad, torch.func.jacfwd):
        mine, right = (transform(score)(bias, act) for act in (leaky_relu, plain))
        torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_float32_bias_meets_half_rows(dtype: torch.dtype) -> None:
    """Under autocast: a convolution's rows are half, its parameters are float32."""
    (x, _), (_, bias) = inputs((3, 4, 5), dtype, False), inputs((3, 4, 5), torch.float32, True)
    assert x is not None and bias is not None
    y = leaky_relu(x, bias, gain=1.5)
    right = plain(x, bias.to(dtype), gain=1.5)
    assert y.dtype == dtype
    torch.testing.assert_close(y, right)
    mine, wanted = (torch.autograd.grad(value.sum(), (x, bias)) for value in (y, right))
    assert mine[1].dtype == torch.float32
    torch.testing.assert_close(mine, wanted, rtol=2e-2, atol=2e-2)


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.ones(3),), {}, "x is torch.float32 \\[3\\]; use floating-point \\[N, C, ...\\]"),
        ((X.long(),), {}, "x is torch.int64"),
        ((1.0,), {}, "x is a float"),
        ((X.to_sparse(),), {}, "x is torch.float32 of layout torch.sparse_coo"),
        ((X.to(torch.float8_e5m2),), {}, "x is torch.float8_e5m2"),
        ((X, torch.ones(2)), {}, "bias is torch.float32 \\[2\\] on cpu; use torch.float32 \\[3\\]"),
        ((X, torch.ones(3).double()), {}, "bias is torch.float64 \\[3\\]"),
        ((X, 1.0), {}, "bias is float"),
        ((X.half(), torch.ones(3).bfloat16()), {}, "bias is torch.bfloat16.*use torch.float16 or"),
        ((X.double(), torch.ones(3)), {}, "bias is torch.float32 .*; use torch.float64 \\[3\\]"),
        ((X,), {"negative_slope": -0.1}, "negative_slope=-0.1; use a finite number"),
        ((X,), {"gain": 0}, "gain=0; use a finite number above 0"),
        ((X,), {"gain": math.nan}, "gain=nan"),
        ((X,), {"gain": 10**400}, "gain=10*\\.\\.\\.; use a finite number above 0 that float32"),
        ((X,), {"gain": 1e-50}, "gain=1e-50"),
        ((X,), {"negative_slope": 1e300}, "negative_slope=1e\\+300; use a finite number"),
    ],
)
def test_bad_arguments_are_named_in_one_line(
    arguments: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message) as raised:
        leaky_relu(*arguments, **options)
    assert "\n" not in str(raised.value)
