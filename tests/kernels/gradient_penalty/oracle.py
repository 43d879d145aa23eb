"""Mixed images and the penalty with two derivatives in float64, written out from the formulas."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor

from ssgear.kernels import native
from ssgear.kernels.forms import Implementation
from ssgear.kernels.gradient_penalty.penalty import CASES, Case
from ssgear.kernels.gradient_penalty.pieces import interpolate, sample_norm_penalty

CPP = pytest.param(
    "cpp", marks=pytest.mark.skipif(not native.available(), reason=native.reason() or "built")
)
HERE = ["reference", CPP]
"""Implementations that work on this machine, in this process."""
SEED = int(os.environ["SSGEAR_TEST_SEED"])
"""Inputs are new in every run of the tests (tests/conftest.py)."""
UPSTREAM = 10.0
NOT_FINITE = [(bad, target) for bad in (math.nan, math.inf, -math.inf) for target in (0.0, 0.5)]
DTYPES = (torch.float32, torch.bfloat16, torch.float64)
SMALL = tuple(case for case in CASES if case.shape[0] < 64)


@dataclass
class Result:
    """What the passes give; in a bound, what one unit of rounding amounts to in it."""

    mixed: Tensor
    value: Tensor
    slope: Tensor
    """d (UPSTREAM P) / dg."""
    curve: Tensor
    """d <v, slope> / dg."""
    curve_upstream: Tensor
    """d <v, slope> / d UPSTREAM."""


def direction(case: Case, grad: Tensor) -> Tensor:
    """Return v, which the slope is differentiated along; as large as the gradient."""
    generator = torch.Generator().manual_seed(7)
    v = torch.randn(case.shape, generator=generator) * (case.scale / grad[0].numel() ** 0.5)
    return v.to(grad.device, grad.dtype)


def ours(case: Case, dtype: torch.dtype, impl: Implementation, device: str = "cpu") -> Result:
    """Return what an implementation gives."""
    real, fake, eps, grad = case.make(dtype, device, SEED)
    grad.requires_grad_()
    value = sample_norm_penalty(grad, case.target, impl=impl)
    upstream = torch.full_like(value, UPSTREAM, requires_grad=True)
    (slope,) = torch.autograd.grad(upstream * value, grad, create_graph=True)
    curves = torch.autograd.grad(slope, (grad, upstream), direction(case, grad))
    mixed = interpolate(real, fake, eps, impl=impl)
    parts = (mixed, value.detach(), slope.detach(), *curves)
    return Result(*(part.cpu() for part in parts))


def oracle(case: Case, dtype: torch.dtype) -> tuple[Result, Result]:
    """Return the results, and the sums of the sizes of their terms."""
    real, fake, eps, grad = (part.double() for part in case.make(dtype, seed=SEED))
    v, num_samples = direction(case, case.make(dtype, seed=SEED)[3]).double(), len(grad)

    def per_sample(values: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (grad.ndim - 1))

    eps = per_sample(eps)
    norm = torch.stack([g.flatten().norm() for g in grad])
    inverse = torch.where(norm > 0, 1 / norm, 0.0)
    dot = torch.stack([(a * b).sum() for a, b in zip(v, grad, strict=True)])
    size = torch.stack([(a * b).abs().sum() for a, b in zip(v, grad, strict=True)])
    c, along = 2 / num_samples * (1 - case.target * inverse), inverse**3 * dot * case.target
    larger = 2 / num_samples * (1 + case.target * inverse)
    # The derivative of a norm, taken by autograd, adds and subtracts g <v, g> / |g|^2: the target
    # is not a factor of that term, which leaves its rounding where the target is 0 too.
    further = inverse**2 * size * (1 + case.target * inverse)
    along, further = (2 / num_samples * part for part in (along, further))
    right = Result(
        eps * real + (1 - eps) * fake,
        ((norm - case.target) ** 2).mean(),
        UPSTREAM * per_sample(c) * grad,
        UPSTREAM * (per_sample(c) * v + per_sample(along) * grad),
        (c * dot).sum(),
    )
    bound = Result(
        eps * real.abs() + (1 - eps) * fake.abs(),
        ((norm + case.target) ** 2).mean(),
        UPSTREAM * per_sample(larger) * grad.abs(),
        UPSTREAM * (per_sample(larger) * v.abs() + per_sample(further) * grad.abs()),
        (larger * size).sum(),
    )
    return right, bound


def check(result: Result, case: Case, dtype: torch.dtype, roundings: float = 1.0) -> None:
    """Hold results to the oracle: a few roundings of float32, and of `dtype` when stored."""
    right, bound = oracle(case, dtype)
    for field in fields(Result):
        mine, truth, size = (getattr(part, field.name) for part in (result, right, bound))
        stored = mine.dtype
        assert mine.shape == truth.shape
        assert stored == (torch.float32 if truth.ndim == 0 and dtype != torch.float64 else dtype)
        unit = roundings * torch.finfo(stored).eps + 3 * torch.finfo(torch.float32).eps
        if dtype == torch.float64:
            unit = 1e-13
        tiny, largest = torch.finfo(stored).tiny, torch.finfo(stored).max
        fits = truth.abs() <= largest
        off = (mine.double() - truth).abs() - (unit * size + tiny)
        assert (off[fits] <= 0).all(), f"{field.name} is off by {off[fits].max():.2e} too much"
        assert mine[~fits].isinf().all(), f"{field.name}: more than {stored} holds"


def check_not_finite(impl: Implementation, bad: float, target: float) -> None:
    """Hold derivatives of a sample with one bad number to NaN, those of the others to numbers."""
    grad = torch.linspace(1, 2, 15).view(3, 5)
    grad[1, 2] = bad
    grad.requires_grad_()
    value = sample_norm_penalty(grad, target, impl=impl)
    assert value.isnan() if math.isnan(bad) else value == math.inf, value
    upstream = torch.ones((), requires_grad=True)
    (slope,) = torch.autograd.grad(upstream * value, grad, create_graph=True)
    for third in (True, False):  # what prepares a third derivative is computed another way
        curve, curve_upstream = torch.autograd.grad(
            slope, (grad, upstream), torch.ones_like(slope), create_graph=third, retain_graph=True
        )
        for found in (slope, curve):
            assert found[1].isnan().all() and found[[0, 2]].isfinite().all(), found
        assert curve_upstream.isnan()


def _every_case(path: str) -> None:
    """Write what Triton's interpreter gives; it has to be chosen before triton is imported."""
    results = {
        f"{case} {dtype}": list(vars(ours(case, dtype, "triton")).values())
        for case in SMALL
        for dtype in DTYPES
    }
    for bad, target in NOT_FINITE:
        check_not_finite("triton", bad, target)
    torch.manual_seed(3)
    results["drawn"] = [interpolate(torch.ones(67, 2), torch.zeros(67, 2), impl="triton")[:, 0]]
    torch.save(results, path)


if __name__ == "__main__":
    _every_case(sys.argv[1])
