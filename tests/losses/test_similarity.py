"""Losses of BYOL and SimSiam: against float64 and autograd, and what gets no gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.losses import byol, negative_cosine

Loss = Callable[[Tensor, Tensor], Tensor]
BOTH = pytest.mark.parametrize("loss", [byol, negative_cosine])


def rows(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    p, t = torch.randn(2, 13, 7, generator=generator)
    return p.to(dtype).requires_grad_(), t.to(dtype).requires_grad_()


def truth(loss: Loss, p: Tensor, t: Tensor) -> Tensor:
    """Return the loss from distances of unit rows, or from angles."""
    p, t = p.double(), t.detach().double()
    p, t = p / p.norm(dim=1, keepdim=True), t / t.norm(dim=1, keepdim=True)
    if loss is byol:
        return ((p - t) ** 2).sum(1).mean()
    return -torch.einsum("nd,nd->", p, t) / len(p)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_value_and_gradient(loss: Loss, dtype: torch.dtype) -> None:
    p, t = rows(dtype)
    value = loss(p, t)
    value.backward()
    expected = truth(loss, p64 := p.detach().double().requires_grad_(), t)
    expected.backward()
    assert value.dtype == torch.float32 and value.shape == ()
    torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-6)
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-7, torch.bfloat16: 1e-3}[dtype]
    torch.testing.assert_close(p.grad.double(), p64.grad, rtol=1e-2, atol=tolerance)
    assert p.grad.dtype == dtype and t.grad is None


@BOTH
def test_autocast_does_not_touch_them(loss: Loss) -> None:
    p, t = rows()
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(p, t) == loss(p, t).float()
        inside = loss(p, t)
    assert inside == loss(p, t)


@BOTH
def test_zero_rows_and_large_numbers(loss: Loss) -> None:
    p, t = (each.detach().clone() for each in rows())
    p[0], p[1], t[1] = 0, p[1] * 1e30, t[1] * 1e-30
    loss(p.requires_grad_(), t).backward()
    assert p.grad.isfinite().all() and (p.grad[0] == 0).all()
    torch.testing.assert_close(loss(p, t).double(), truth(loss, p[1:], t[1:]).detach() * 12 / 13
                               + (2 / 13 if loss is byol else 0), rtol=1e-6, atol=1e-6)  # fmt: skip


@BOTH
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_nan_in_nan_out(loss: Loss, bad: float, which: int) -> None:
    pair = [each.detach().clone() for each in rows()]
    pair[which][3, 2] = bad
    pair[0].requires_grad_()
    value = loss(*pair)
    value.backward()
    assert value.isnan() and pair[0].grad.isnan().any()


@BOTH
@pytest.mark.parametrize(
    ("p", "t", "said"),
    [
        (torch.ones(3, 2), torch.ones(2, 3), r"shape \[3, 2\] and targets \[2, 3\]; use two of"),
        (torch.ones(3), torch.ones(3), "use two of"),
        (torch.ones(0, 3), torch.ones(0, 3), "use two of"),
        (torch.ones(3, 2).long(), torch.ones(3, 2), "predictions is torch.int64; use a floating"),
        (torch.ones(3, 2), [1.0], "targets is a list; use a floating"),
        (torch.ones(3, 2), torch.ones(3, 2, device="meta"), "on cpu and targets on meta; bring"),
    ],
)
def test_refusals(loss: Loss, p: Tensor, t: Tensor, said: str) -> None:
    with pytest.raises(ArgumentError, match=said) as caught:
        loss(p, t)
    assert str(caught.value).startswith(f"{loss.__name__}: ")
