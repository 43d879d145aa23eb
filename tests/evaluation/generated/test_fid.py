"""The Frechet distance against a matrix root in float64, and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.evaluation import frechet_distance
from ssgear.evaluation.generated.fid import Moments, frechet_caveat


def plain(a: Tensor, b: Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(sqrtm(s @ t))
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root))


@pytest.mark.parametrize(("rows", "others", "width"), [(400, 300, 7), (61, 83, 24), (500, 90, 31)])
def test_against_a_matrix_root(rows: int, others: int, width: int) -> None:
    torch.manual_seed(rows)
    a = torch.randn(rows, width) @ torch.randn(width, width) + torch.randn(width)
    b = torch.randn(others, width) * torch.rand(width) * 3
    assert frechet_distance(a, b) == pytest.approx(plain(a, b), rel=1e-6)


def test_fewer_rows_than_features() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(9, 40), torch.randn(13, 40) * 2 + 1
    s, t = (x.double() - x.double().mean(0) for x in (a, b))
    s, t = s.T @ s / 8, t.T @ t / 12
    values = torch.linalg.eigvals(s @ t).real.clamp(min=0).sqrt().sum()
    wanted = (a.double().mean(0) - b.double().mean(0)).square().sum() + s.trace() + t.trace()
    assert frechet_distance(a, b) == pytest.approx(float(wanted - 2 * values), rel=1e-5)


def test_closed_forms() -> None:
    a = torch.randn(300, 5, dtype=torch.float64)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 5, rel=1e-9)
    scaled = (a - a.mean(0)) * 3 + a.mean(0)
    assert frechet_distance(a, scaled) == pytest.approx(4 * float(a.var(0).sum()), rel=1e-9)
    assert frechet_distance(a, scaled) == pytest.approx(frechet_distance(scaled, a), rel=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(1, 3), torch.zeros(4, 3), r"a is \(1, 3\)"),
        (torch.zeros(4, 3), torch.zeros(4), r"b is \(4,\)"),
        (torch.zeros(4, 3), torch.zeros(4, 2), "widths 3 and 2"),
        (torch.full((4, 3), torch.nan), torch.zeros(4, 3), "a holds values that are not finite"),
    ],
)
def test_bad_input(a: Tensor, b: Tensor, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        frechet_distance(a, b)


@pytest.mark.parametrize(("rows", "width"), [(311, 17), (23, 40)])
def test_blocks_of_any_size_are_the_whole_at_once(rows: int, width: int) -> None:
    """A mean far from zero would cost the digits of a sum of squares."""
    torch.manual_seed(rows)
    a = (torch.randn(rows, width) @ torch.randn(width, width) + 1000).float()
    b = a[: rows // 2] * 0.9
    for sizes in ((1,) * rows, (3, rows - 3), (rows - 1, 1), (7, 1, 9, rows - 17)):
        pieces = Moments(*torch.split(a, list(sizes)))
        assert pieces.count == rows and len(pieces.scatter_RF) <= max(width, rows + len(sizes))
        covariance = pieces.scatter_RF.T @ pieces.scatter_RF / (rows - 1)
        plain_covariance = torch.from_numpy(np.cov(a.double().numpy(), rowvar=False))
        assert torch.allclose(covariance, plain_covariance, rtol=1e-9, atol=1e-9)
        assert torch.allclose(pieces.mean_F, a.double().mean(0), rtol=1e-12)
        wanted = frechet_distance(a, b)
        assert pieces.distance(Moments(b)) == pytest.approx(wanted, rel=1e-6), sizes


def test_samples_of_gaussians_are_near_the_closed_form() -> None:
    """d^2 of N(m, S) and N(n, T) is known; with S, T diagonal no root of a matrix is needed."""
    torch.manual_seed(0)
    m, n = torch.randn(2, 9, dtype=torch.float64)
    s, t = torch.rand(2, 9, dtype=torch.float64) + 0.3
    turn = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0]
    a, b = torch.randn(2, 60_001, 9, dtype=torch.float64)
    expected = float((m - n).square().sum() + (s - t).square().sum())
    value = frechet_distance((m + s * a) @ turn, (n + t * b) @ turn)
    assert value == pytest.approx(expected, rel=0.02)


def test_few_images_are_a_caveat() -> None:
    assert frechet_caveat(2049, 50_000, 2048) == ""
    for counts in ((2048, 50_000), (50_000, 2048)):
        assert "2,048 images are too few for features of 2,048" in frechet_caveat(*counts, 2048)
    # one distribution: the distance of few images is not that of many
    torch.manual_seed(0)
    a, b = torch.randn(2, 4000, 64)
    assert frechet_distance(a[:64], b[:64]) > 10 * frechet_distance(a, b)
