"""The kernel distance against the definition in float64, torchmetrics, and a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ssgear.errors import ArgumentError, DataError
from ssgear.evaluation.generated import kid as room
from ssgear.evaluation.generated.kid import kernel_distance, kernel_distance_whole


def features(rows: int = 61, others: int = 47, width: int = 13) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    a = torch.randn(rows, width, generator=generator)
    return a, 0.3 + 1.4 * torch.randn(others, width, generator=generator)


def dense(a: Tensor, b: Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()
    (n, width), m = x.shape, len(y)
    k, h, c = ((p @ q.T / width + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    first = sum(k[i, j] for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    second = sum(h[i, j] for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return float(first + second - 2 * c.sum() / (n * m))


@pytest.mark.parametrize("side", [2048, 20, 7, 1])
def test_all_pairs_are_the_definition(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SIDE", side)
    a, b = features()
    assert kernel_distance_whole(a, b) == pytest.approx(dense(a, b), rel=1e-10)
    assert kernel_distance_whole(b, a) == pytest.approx(dense(a, b), rel=1e-10)


def test_subsets_are_those_of_torchmetrics() -> None:
    published = pytest.importorskip("torchmetrics.image.kid")
    a, b = features()
    result = kernel_distance(a, b, subset_size=31, subsets=9, seed=4)
    generator = torch.Generator().manual_seed(4)
    values = []
    for _ in range(9):
        x = a[torch.randperm(61, generator=generator)[:31]].double()
        y = b[torch.randperm(47, generator=generator)[:31]].double()
        values.append(float(published.poly_mmd(x, y)))
    assert result.value == pytest.approx(np.mean(values), rel=1e-9)
    assert result.deviation == pytest.approx(np.std(values), rel=1e-9)
    assert kernel_distance(a, b, subset_size=31, subsets=9, seed=4) == result
    assert kernel_distance(a, b, subset_size=31, subsets=9).value != result.value


def test_it_is_unbiased() -> None:
    """Sets of one distribution are at 0 on average, however few images; some are below."""
    generator = torch.Generator().manual_seed(0)
    values = [kernel_distance_whole(*torch.randn(2, 9, 5, generator=generator)) for _ in range(600)]
    assert min(values) < 0
    assert abs(np.mean(values)) < 3 * np.std(values) / 600**0.5
    a, b = features(1501, 1203, 5)
    whole = kernel_distance_whole(a, b)
    parts = kernel_distance(a, b, subset_size=200, subsets=60)
    assert parts.value == pytest.approx(whole, abs=4 * parts.deviation / 60**0.5)


def test_a_closed_form() -> None:
    # width 1, rows of x = 1 and x = -1 in equal numbers, against zeros: the kernel is (x y + 1)^3
    x = torch.tensor([1.0, -1.0] * 4)[:, None]
    zeros = torch.zeros(5, 1)
    # of 56 ordered pairs 24 are alike (8) and 32 unlike (0); between the sets and of zeros it is 1
    assert kernel_distance_whole(x, zeros) == pytest.approx(24 * 8 / 56 + 1 - 2)


def test_bad_input_is_refused() -> None:
    a, b = features()
    with pytest.raises(ArgumentError, match=r"must be between 2 and 47, .* \(got 1000\)"):
        kernel_distance(a, b)
    with pytest.raises(ArgumentError, match=r"subsets must be positive \(got 0\)"):
        kernel_distance(a, b, subset_size=5, subsets=0)
    with pytest.raises(ArgumentError, match="widths 13 and 12 differ"):
        kernel_distance_whole(a, b[:, 1:])
    with pytest.raises(ArgumentError, match=r"a is \(1, 13\); give \[N, F\] with N >= 2"):
        kernel_distance_whole(a[:1], b)
    with pytest.raises(DataError, match="features are not finite"):
        kernel_distance_whole(a, b / 0)
