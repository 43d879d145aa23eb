"""Rows of length 1 at every size that float32 holds."""

from __future__ import annotations

import pytest
import torch

from ssgear.kernels import native
from ssgear.kernels.checks import compute_dtype
from ssgear.kernels.nt_xent.rows import unit_rows
from ssgear.kernels.nt_xent.streaming import IN_TORCH, Parts, parts_of

FORMS = [IN_TORCH, *([parts_of("cpp")] if native.available() else [])]
each_form = pytest.mark.parametrize("parts", FORMS, ids=["torch", "cpp"][: len(FORMS)])


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


def float64_of(
    z: torch.Tensor, tau: torch.Tensor, weights: torch.Tensor, normalize: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return u = z / |z| / sqrt(tau), and the gradients of <u, weights> for z and by rows."""
    z64 = z.detach().double().requires_grad_()
    length = z64.norm(dim=1, keepdim=True).clamp_min(1e-300) if normalize else 1.0
    u = z64 / length / tau.double().sqrt()
    (grad,) = torch.autograd.grad((u * weights.double()).sum(), z64)
    return u.detach(), grad, (u * weights.double()).sum(1, keepdim=True).detach()


@each_form
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("rows", "width"), [(1, 1), (3, 5), (7, 16), (5, 33), (65, 64), (700, 129)]
)
def test_scaled_rows_and_their_gradient_equal_float64(
    parts: Parts, normalize: bool, rows: int, width: int
) -> None:
    generator = torch.Generator().manual_seed(width)
    z, weights = torch.randn(2, rows, width, generator=generator).unbind()
    for dtype, allowed in ((torch.float32, 2e-6), (torch.float64, 2e-15), (torch.bfloat16, 2e-6)):
        given, tau = z.to(dtype), torch.tensor(0.07, dtype=compute_dtype(z.to(dtype)))
        u, *scales = parts.scaled_rows(given, tau, normalize)
        right, grad_z, slope = float64_of(given, tau, weights.to(tau.dtype), normalize)
        torch.testing.assert_close(u.double(), right, rtol=4 * allowed, atol=allowed)
        grad = weights.to(tau.dtype).clone()
        found = parts.gradient_of_rows(grad, u, tau, *scales)
        size = grad_z.abs().amax()
        assert found.shape == (rows, 1) and u.dtype == grad.dtype == tau.dtype
        torch.testing.assert_close(found.double(), slope, rtol=0, atol=allowed * slope.abs().max())
        # one number of a row is all direction: its gradient is a difference of equals
        atol = 16 * allowed * (size if width > 1 else weights.abs().max() / z.abs().min())
        torch.testing.assert_close(grad.double(), grad_z, rtol=0, atol=float(atol))


@each_form
def test_scaled_rows_of_any_size_are_unit_rows(parts: Parts) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1e-44, 1e-38, 1e-30, 1e-12, 1.0, 1e30, 3e38, 0.0])[:, None]
    z = torch.randn(8, 37, generator=generator).clamp(-1, 1) * sizes
    u, factor, scale = parts.scaled_rows(z, torch.tensor(1.0), True)
    unit, scale_of_unit, _ = unit_rows(z)
    torch.testing.assert_close(u, unit, rtol=1e-6, atol=1e-7)
    assert scale is not None and torch.equal(scale, scale_of_unit)
    assert torch.equal(scale[-1], torch.ones(1)) and not factor[-1] and not u[-1].any()


@each_form
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 15, 16, 36])
def test_what_is_not_finite_is_seen(parts: Parts, bad: float, place: int) -> None:
    z = torch.ones(3, 37)
    z[1, place] = bad
    u = parts.scaled_rows(z, torch.tensor(1.0), True)[0]
    assert u[1].isnan().any() and u[[0, 2]].isfinite().all()
    for rows in (z, u, z.T, z.double()):
        assert parts.zero_or_nan(rows).isnan() and parts.zero_or_nan(rows).shape == ()
    large = torch.full((5, 37), 3e38)
    assert parts.zero_or_nan(large) == 0 and parts.zero_or_nan(large).dtype == torch.float32


@pytest.mark.skipif(not native.available(), reason=native.reason())
def test_the_number_of_threads_changes_no_bit() -> None:
    z = torch.randn(900, 130, generator=torch.Generator().manual_seed(3))
    parts, before, results = parts_of("cpp"), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            u, *scales = parts.scaled_rows(z, torch.tensor(0.1), True)
            grad = z.flip(0).clone()
            results.append(
                (u, *scales, parts.gradient_of_rows(grad, u, torch.tensor(0.1), *scales), grad)
            )
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(result, results[0], strict=True))


@each_form
def test_no_temperature_is_seen_in_a_zero_row(parts: Parts) -> None:
    z = torch.zeros(2, 5)
    z[1] = 1
    assert parts.scaled_rows(z, torch.tensor(torch.nan), True)[0].isnan().all()


@pytest.mark.skipif(not native.available(), reason=native.reason())
def test_parts_of_other_rows_are_refused() -> None:
    parts, tau = parts_of("cpp"), torch.tensor(1.0)
    u, *scales = parts.scaled_rows(torch.ones(4, 3), tau, True)
    for grad, factor in ((torch.ones(5, 3), scales[0]), (torch.ones(4, 3), scales[0][:2])):
        with pytest.raises(RuntimeError, match="parts of other rows"):
            parts.gradient_of_rows(grad, u, tau, factor, scales[1])
