"""torch.func and forward-mode differentiation get right derivatives or an error, never zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ssgear.errors import ArgumentError
from ssgear.kernels import native
from ssgear.kernels.gradient_penalty.pieces import interpolate, sample_norm_penalty
from ssgear.kernels.nt_xent import nt_xent

Z = torch.randn(8, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
FAKE = Z.flip(0)
TAU = torch.tensor(0.2, dtype=torch.float64)

FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Tensor]] = {
    "nt_xent of z": (lambda z, **options: nt_xent(z, **options), Z),
    "nt_xent of tau": (lambda tau, **options: nt_xent(Z, temperature=tau, **options), TAU),
    "interpolate": (lambda x, **options: interpolate(Z, x, 0.3, **options).square().sum(), FAKE),
    "sample_norm_penalty": (lambda g, **options: sample_norm_penalty(g, **options), Z),
}
FUSED = [("streaming", name) for name in FUNCTIONS if "nt_xent" in name]
FUSED += [("cpp", name) for name in FUNCTIONS if native.available()]


def slope_along(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """What autograd's backward of the reference gives in the direction of signs."""
    leaf = at.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(leaf), leaf)
    return (slope * at.sign()).sum()


def dual(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(function(forward_ad.make_dual(at, at.sign()))).tangent
    assert tangent is not None
    return tangent


WAYS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]] = {
    "jvp": lambda function, at: torch.func.jvp(function, (at,), (at.sign(),))[1],
    "jacfwd": lambda function, at: (torch.func.jacfwd(function)(at) * at.sign()).sum(),
    "grad": lambda function, at: (torch.func.grad(function)(at) * at.sign()).sum(),
    "dual": dual,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_right(name: str, way: str) -> None:
    function, at = FUNCTIONS[name]
    right = slope_along(lambda x: function(x, impl="reference"), at)
    assert right.abs() > 0.01
    torch.testing.assert_close(WAYS[way](function, at), right, check_dtype=False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("impl", "name"), FUSED)
def test_a_fused_form_that_is_asked_for_refuses(impl: str, name: str, way: str) -> None:
    function, at = FUNCTIONS[name]
    with pytest.raises(ArgumentError, match=f"impl='{impl}' is not possible.*use auto") as raised:
        WAYS[way](lambda x: function(x, impl=impl), at)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("way", [torch.func.jacfwd, torch.func.grad])
def test_compiled_as_one_graph(way: Callable[[Any], Any]) -> None:
    slope = way(lambda tau: nt_xent(Z, temperature=tau))
    compiled = torch.compile(slope, fullgraph=True, backend="aot_eager")
    right = slope_along(lambda tau: nt_xent(Z, temperature=tau, impl="reference"), TAU)
    torch.testing.assert_close(compiled(TAU), right, check_dtype=False)
    torch.compiler.reset()


def test_vmap() -> None:
    stack = torch.stack((Z, FAKE, 2 * Z.roll(1, 0)))
    for name in ("nt_xent of z", "interpolate", "sample_norm_penalty"):
        function = FUNCTIONS[name][0]
        right = torch.stack([function(z) for z in stack])
        torch.testing.assert_close(torch.vmap(function)(stack), right)
