"""Rows of length 1 at every size that float32 holds."""

from __future__ import annotations

import pytest
import torch

from ssgear.kernels.rows import compute_dtype, unit_rows


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1e-12, 1.0, 3.0, 1e30, 3e38])
def test_unit_rows_equal_float64(size: float) -> None:
    z = torch.randn(19, 7, generator=torch.Generator().manual_seed(0)).clamp(-1, 1) * size
    unit, scale, norm = unit_rows(z)
    right = torch.nn.functional.normalize(z.double(), dim=1, eps=1e-300)
    right = torch.where((z != 0).any(1, keepdim=True), right, 0)
    torch.testing.assert_close(unit.double(), right, rtol=3e-7, atol=0)
    there = (z != 0).any(1)
    lengths = z.double().norm(dim=1, keepdim=True)[there]
    torch.testing.assert_close((norm.double() * scale)[there], lengths, rtol=3e-7, atol=0)
    assert norm[there].min() > 0.99 and norm[~there].isinf().all()


def test_gradient_equals_float64_and_is_zero_for_a_zero_row() -> None:
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(1)).double()
    z[2] = 0
    z.requires_grad_()
    weights = torch.arange(15.0).view(5, 3).double()
    (unit_rows(z)[0] * weights).sum().backward()
    assert z.grad is not None and not z.grad[2].any()
    other = z.detach()[[0, 1, 3, 4]].requires_grad_()
    (other / other.norm(dim=1, keepdim=True) * weights[[0, 1, 3, 4]]).sum().backward()
    torch.testing.assert_close(z.grad[[0, 1, 3, 4]], other.grad)


def test_nan_and_infinity_stay_visible() -> None:
    z = torch.tensor([[1.0, torch.nan], [torch.inf, 1.0], [3.0, 4.0]])
    unit = unit_rows(z)[0]
    assert unit[0].isnan().any() and unit[1].isnan().any()
    torch.testing.assert_close(unit[2], torch.tensor([0.6, 0.8]))


def test_half_types_are_computed_in_float32() -> None:
    wanted = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
    wanted |= {torch.float32: torch.float32, torch.float64: torch.float64}
    for dtype, computed in wanted.items():
        assert compute_dtype(torch.ones(1, dtype=dtype)) == computed
