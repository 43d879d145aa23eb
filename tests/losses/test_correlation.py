"""Barlow Twins' loss against the published expression in float64, by autograd, and over ranks."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.losses import barlow_twins
from tests.ranks import Ranks

LAMBDA = 0.0051


def views(rows: int = 13, width: int = 7) -> tuple[Tensor, Tensor]:
    """Two views in float64 that are alike, with means and deviations of their own."""
    generator = torch.Generator().manual_seed(rows)
    base, noise = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.1, 3, width, dtype=torch.float64)
    return base * scale + 5, (base + 0.5 * noise) * scale - 2


def published(z1: Tensor, z2: Tensor, lambd: float) -> Tensor:
    """Algorithm 1 of the paper, by batch norm and a loop over the entries."""
    norm = torch.nn.BatchNorm1d(z1.shape[1], affine=False).double()
    c = norm(z1).T @ norm(z2) / len(z1)
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(len(c)):
        for j in range(len(c)):
            loss = loss + ((1 - c[i, i]) ** 2 if i == j else lambd * c[i, j] ** 2)
    return loss


def value_and_gradients(z1: Tensor, z2: Tensor, lambd: float, **options: object) -> list[Tensor]:
    z1, z2 = z1.clone().requires_grad_(), z2.clone().requires_grad_()
    loss = barlow_twins(z1, z2, lambd=lambd, **options)  # type: ignore[arg-type]
    return [loss.detach(), *torch.autograd.grad(3 * loss, (z1, z2))]


@pytest.mark.parametrize("lambd", [0.0, LAMBDA, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_the_published_ones(lambd: float, dtype: torch.dtype) -> None:
    z1, z2 = (view.requires_grad_() for view in views())
    wanted = published(z1, z2, lambd)
    gradients = torch.autograd.grad(3 * wanted, (z1, z2))
    found = value_and_gradients(z1.detach().to(dtype), z2.detach().to(dtype), lambd)
    tight = {"rtol": 1e-4, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 1e-6, "atol": 1e-9}
    assert found[0].dtype == torch.float32
    for mine, theirs in zip(found, (wanted.detach(), *gradients), strict=True):
        torch.testing.assert_close(mine.double(), theirs, **tight)


def test_views_that_agree_cost_what_is_off_the_diagonal() -> None:
    z, _ = views(rows=400, width=3)
    assert barlow_twins(z, z, lambd=0.0) < 1e-5  # what EPS leaves
    assert barlow_twins(z, -z, lambd=0.0) == pytest.approx(12, rel=1e-3)  # 3 entries of (1 + 1)^2


def test_a_feature_that_is_constant_gives_finite_gradients() -> None:
    z1, z2 = views()
    z1[:, 2] = 4.0
    found = value_and_gradients(z1, z2, LAMBDA)
    assert all(torch.isfinite(each).all() for each in found)


def test_computes_in_float32_under_autocast() -> None:
    z1, z2 = (view.float() for view in views())
    with torch.autocast("cpu", torch.bfloat16):
        inside = value_and_gradients(z1, z2, LAMBDA)
    for one, other in zip(inside, value_and_gradients(z1, z2, LAMBDA), strict=True):
        assert torch.equal(one, other)
    assert value_and_gradients(z1.bfloat16(), z2.bfloat16(), LAMBDA)[1].dtype == torch.bfloat16


def on_rank(z1: Tensor, z2: Tensor, bounds: tuple[int, ...]) -> list[Tensor]:
    part = slice(*bounds[dist.get_rank() : dist.get_rank() + 2])
    return value_and_gradients(z1[part], z2[part], LAMBDA, group=dist.group.WORLD)


@pytest.mark.parametrize("bounds", [(0, 7, 14), (0, 3, 14), (0, 1, 14)])
def test_two_ranks_equal_one_process(bounds: tuple[int, ...], pair: Ranks) -> None:
    """The value on each rank is that of the whole; the mean of the gradients over ranks too."""
    z1, z2 = views(rows=14)
    whole = value_and_gradients(z1, z2, LAMBDA)
    parts = pair.run(on_rank, z1, z2, bounds)
    for part in parts:
        torch.testing.assert_close(part[0], whole[0], rtol=1e-6, atol=0)
    for view in (1, 2):
        gathered = torch.cat([part[view] for part in parts]) / 2
        torch.testing.assert_close(gathered, whole[view], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("z1", "z2", "lambd", "said"),
    [
        (torch.zeros(1, 4), torch.zeros(1, 4), 0.1, "at least 2"),
        (torch.zeros(3, 4), torch.zeros(2, 4), 0.1, "row i of both"),
        (torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4), 0.1, "z1 is torch.int64"),
        (torch.zeros(3, 4), torch.zeros(3), 0.1, r"z2 is torch.float32 \[3\]; use"),
        (torch.zeros(3, 4), torch.zeros(3, 4), "much", "lambd='much'; use 0 or more"),
        (torch.zeros(3, 4), torch.zeros(3, 4), -1.0, "lambd=-1.0; use 0 or more"),
        (torch.zeros(3, 4), torch.zeros(3, 4), float("nan"), "lambd=nan"),
    ],
)
def test_what_has_no_loss_is_refused(z1: Tensor, z2: Tensor, lambd: float, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        barlow_twins(z1, z2, lambd=lambd)


def test_a_group_that_is_none_is_refused() -> None:
    with pytest.raises(ArgumentError, match="barlow_twins: group is a str"):
        barlow_twins(torch.zeros(3, 4), torch.zeros(3, 4), group="all")  # type: ignore[arg-type]


def test_a_second_derivative_is_refused_and_a_graph_alone_is_not() -> None:
    z1, z2 = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).unbind()
    z1.requires_grad_()
    (plain,) = torch.autograd.grad(barlow_twins(z1, z2), z1)
    (grad,) = torch.autograd.grad(barlow_twins(z1, z2), z1, create_graph=True)
    assert torch.equal(grad, plain)
    with pytest.raises(ArgumentError, match="barlow_twins: has no second derivative"):
        grad.square().sum().backward()


@pytest.mark.parametrize("bad", [3e19, 1e38, math.inf, math.nan])
def test_a_column_beyond_float32_is_seen(bad: float) -> None:
    z1, z2 = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).unbind()
    z1[:, 1] *= bad
    z1.requires_grad_()
    loss = barlow_twins(z1, z2)
    loss.backward()
    assert loss.isnan() and z1.grad is not None and z1.grad[:, 1].isnan().all()
