"""Sinkhorn against a plain loop of matrix scalings in float64; SwAV's loss by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ssgear.errors import ArgumentError
from ssgear.losses import sinkhorn, swav
from tests.ranks import Ranks


def scores_of(rows: int = 45, prototypes: int = 11, width: int = 64) -> Tensor:
    """Cosines of random embeddings and prototypes, float64 [rows, prototypes]."""
    generator = torch.Generator().manual_seed(rows)
    z, c = (
        torch.randn(rows + prototypes, width, generator=generator)
        .double()
        .split([rows, prototypes])
    )
    return F.normalize(z) @ F.normalize(c).T


def scaled(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The paper's listing: scale rows and columns of exp(scores / epsilon) in turn."""
    q = (scores / epsilon).exp()
    q /= q.sum()
    rows, prototypes = q.shape
    for _ in range(iterations):
        for k in range(prototypes):
            q[:, k] /= q[:, k].sum() * prototypes
        for n in range(rows):
            q[n] /= q[n].sum() * rows
    return q * rows


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_are_those_of_plain_scaling(iterations: int, dtype: torch.dtype) -> None:
    scores = scores_of()
    codes = sinkhorn(scores.to(dtype), iterations=iterations)
    assert codes.dtype == dtype
    exact = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(
        codes.double(), scaled(scores, 0.05, iterations), rtol=exact, atol=exact
    )


def test_marginals_after_three_steps() -> None:
    """Rows sum to 1; the share of each prototype is 1 / K to 1e-3."""
    codes = sinkhorn(scores_of(512, 30, 128).float())
    assert float((codes.sum(1) - 1).abs().max()) < 1e-5
    assert float((codes.mean(0) - 1 / 30).abs().max()) < 1e-3
    crowded = torch.zeros(90, 6)
    crowded[:, 0] = 0.4  # every row likes one prototype best: equal shares all the same
    assert float((sinkhorn(crowded).mean(0) - 1 / 6).abs().max()) < 1e-3


def test_scores_of_any_size_give_finite_codes() -> None:
    scores = scores_of().float()
    for factor in (1e-8, 1.0, 1e3):
        codes = sinkhorn(scores * factor, epsilon=0.01)
        assert torch.isfinite(codes).all()
        torch.testing.assert_close(codes.sum(1), torch.ones(45), rtol=1e-3, atol=1e-3)
    assert not sinkhorn(scores.requires_grad_()).requires_grad


def test_half_precision_and_autocast_are_computed_in_float32() -> None:
    scores = scores_of().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        codes = sinkhorn(scores)
    assert codes.dtype == torch.float32
    assert torch.equal(codes, sinkhorn(scores.float()))


def on_rank(scores: Tensor, bounds: tuple[int, ...]) -> Tensor:
    part = slice(*bounds[dist.get_rank() : dist.get_rank() + 2])
    return sinkhorn(scores[part], group=dist.group.WORLD)


@pytest.mark.parametrize("bounds", [(0, 22, 45), (0, 1, 45)])
def test_two_ranks_equal_one_process(bounds: tuple[int, ...], pair: Ranks) -> None:
    scores = scores_of()
    parts = pair.run(on_rank, scores, bounds)
    torch.testing.assert_close(torch.cat(parts), sinkhorn(scores), rtol=1e-9, atol=1e-12)


def test_swapped_prediction_of_two_views_by_hand() -> None:
    """Two rows, two prototypes, tau 1: every term written out."""
    first = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # softmax 3/4 1/4, 1/2 1/2
    second = torch.tensor([[0.0, math.log(9.0)], [math.log(4.0), 0.0]])  # 1/10 9/10, 4/5 1/5
    q1, q2 = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.25, 0.75], [0.0, 1.0]])
    from_second = -(math.log(0.1) + 0.5 * math.log(0.8) + 0.5 * math.log(0.2)) / 2
    from_first = -(0.25 * math.log(0.75) + 0.75 * math.log(0.25) + math.log(0.5)) / 2
    loss = swav([first, second], [q1, q2], temperature=1.0)
    assert loss.item() == pytest.approx((from_first + from_second) / 2, rel=1e-6)


def test_multi_crop_is_the_mean_over_pairs_of_code_and_other_view() -> None:
    scores = [scores_of(rows)[:9] for rows in (45, 44, 43, 42)]
    codes = [sinkhorn(each) for each in scores[:2]]
    pairs = [
        -(codes[c][n] * (scores[v][n] / 0.1).softmax(0).log()).sum()
        for c in range(2) for v in range(4) if v != c for n in range(9)
    ]  # fmt: skip
    wanted = torch.stack(pairs).mean()
    torch.testing.assert_close(swav(scores, codes).double(), wanted, rtol=1e-6, atol=0)


def test_no_gradient_goes_into_codes_and_each_view_gets_one() -> None:
    scores = [scores_of(rows)[:9].requires_grad_() for rows in (45, 44, 43)]
    code = scores_of(9).softmax(1).requires_grad_()
    swav(scores, [code, code]).backward()
    assert code.grad is None
    assert all(each.grad is not None and each.grad.abs().max() > 0 for each in scores)
    alone = [each.detach().requires_grad_() for each in scores[:2]]
    swav(alone, [code]).backward()  # the one view with a code predicts no other
    assert alone[0].grad is None or alone[0].grad.abs().max() == 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda s: sinkhorn(s, epsilon=0), "epsilon=0; use a positive number"),
        (lambda s: sinkhorn(s, iterations=0), "iterations=0; use at least 1"),
        (lambda s: sinkhorn(s, group="all"), "sinkhorn: group is a str"),
        (lambda s: sinkhorn(s[0]), r"scores are torch.float64 \[[0-9]+\]; use a floating-point"),
        (lambda s: sinkhorn(s.long()), "scores are torch.int64"),
        (lambda s: swav([s], [s]), "use 2 or more"),
        (lambda s: swav([s, s], []), "0 codes for 2 views"),
        (lambda s: swav([s, s[:3]], [s]), r"scores\[1\]"),
        (lambda s: swav([s, s], [s[:3]]), r"codes\[0\]"),
        (lambda s: swav([s, s], [s], temperature=-1), "temperature=-1"),
        (lambda s: swav(s, [s]), "scores are torch.float64 .* a list of one tensor for each view"),
        (lambda s: swav([s, s], iter([s])), "codes are a list_iterator; give a list"),
        (lambda s: swav([[1.0], [2.0]], [[1.0]]), r"scores\[0\] is a list"),
        (lambda s: swav([s[0], s[0]], [s[0]]), r"scores\[0\] is torch.float64 \[[0-9]+\]; use"),
        (lambda s: swav([s[:0], s[:0]], [s[:0]]), r"\[0, [0-9]+\]; use a floating-point tensor"),
        (lambda s: swav([s, s.to("meta")], [s]), r"scores\[1\] is on meta"),
        (lambda s: swav([s, s], [s.to("meta")]), r"codes\[0\] is on meta"),
    ],
)  # fmt: skip
def test_what_has_no_codes_or_loss_is_refused(call, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ArgumentError, match=said):
        call(scores_of())
