"""The margin loss by hand, its gradient, and wrong arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ssgear.errors import ArgumentError
from ssgear.losses import contrastive_margin


def test_by_hand() -> None:
    first = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    second = torch.tensor([[3.0, 4.0], [0.3, 0.4], [3.0, 4.0], [1.0, 2.0]])
    dissimilar = torch.tensor([False, True, True, True])
    # similar at 5; dissimilar at 0.5, at 5 (far enough) and at 1 (half of the margin)
    expected = (25 / 2 + 1.5**2 / 2 + 0 + 1**2 / 2) / 4
    assert float(contrastive_margin(first, second, dissimilar, margin=2.0)) == expected


def test_gradient_against_float64_formulation() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randn(9, 3, dtype=torch.float64, generator=generator).requires_grad_()
        for _ in range(2)
    )
    dissimilar = torch.arange(9) % 2
    loss = contrastive_margin(first, second, dissimilar, margin=1.7)
    (gradient,) = torch.autograd.grad(loss, first)
    for row in range(9):
        away = (first[row] - second[row]).detach()
        d = float(away.norm())
        pull = 1.0 if dissimilar[row] == 0 else -max(0.0, 1.7 - d) / d
        torch.testing.assert_close(gradient[row], pull * away / 9)


def test_rows_that_coincide_have_a_finite_gradient() -> None:
    rows = torch.ones(2, 2, requires_grad=True)
    loss = contrastive_margin(rows, torch.ones(2, 2), torch.tensor([0, 1]))
    assert float(loss.detach()) == pytest.approx(0.25, abs=1e-5)
    (gradient,) = torch.autograd.grad(loss, rows)
    assert torch.equal(gradient, torch.zeros(2, 2))


def test_a_pair_very_far_apart_is_far_enough() -> None:
    rows = torch.tensor([[3e19], [0.5]], requires_grad=True)
    loss = contrastive_margin(rows, torch.zeros(2, 1), torch.tensor([1, 1]))
    assert float(loss.detach()) == pytest.approx(0.0625)
    (gradient,) = torch.autograd.grad(loss, rows)
    torch.testing.assert_close(gradient, torch.tensor([[0.0], [-0.25]]))


@pytest.mark.parametrize(
    ("first", "second", "dissimilar", "margin", "said"),
    [
        ((2, 3), (2, 4), (2,), 1.0, r"rows of shape \(2, 3\) and \(2, 4\)"),
        ((0, 3), (0, 3), (0,), 1.0, "N and D at least 1"),
        ((2, 3), (2, 3), (3,), 1.0, r"dissimilar is torch.float32 \[3\] for 2 pairs"),
        ((2, 3), (2, 3), (2,), 0.0, "margin 0.0; give a number above 0"),
    ],
)
def test_wrong_arguments(
    first: tuple[int, ...],
    second: tuple[int, ...],
    dissimilar: tuple[int],
    margin: float,
    said: str,
) -> None:
    with pytest.raises(ArgumentError, match=said):
        contrastive_margin(
            torch.zeros(first), torch.zeros(second), torch.zeros(dissimilar), margin=margin
        )


ROWS, ALL = torch.zeros(2, 3), torch.ones(2)


@pytest.mark.parametrize(
    ("arguments", "margin", "said"),
    [
        (([[0.0]], ROWS, ALL), 1.0, "first is a list; use a floating-point tensor"),
        ((ROWS, ROWS.long(), ALL), 1.0, "second is torch.int64"),
        ((ROWS, ROWS, [1, 1]), 1.0, "dissimilar is a list for 2 pairs"),
        ((ROWS, ROWS.to("meta"), ALL), 1.0, "second on meta .* to one device"),
        ((ROWS, ROWS, ALL.to("meta")), 1.0, "dissimilar on meta; bring them"),
        ((ROWS, ROWS, ALL), "wide", "margin 'wide'; give a number above 0"),
        ((ROWS, ROWS, ALL), 10**400, "margin 1000.*; give a number above 0"),
    ],
)
def test_what_are_no_rows_or_no_number(
    arguments: tuple[Any, Any, Any], margin: Any, said: str
) -> None:
    with pytest.raises(ArgumentError, match=said):
        contrastive_margin(*arguments, margin=margin)
