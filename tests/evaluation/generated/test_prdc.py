from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances

from ssgear.errors import ArgumentError
from ssgear.evaluation.generated import prdc as room
from ssgear.evaluation.generated.prdc import PRDC, prdc


def naive(real: np.ndarray, made: np.ndarray, k: int, density_k: int) -> PRDC:
    """The published definitions, one distance after the other."""

    def radius(rows: np.ndarray, number: int, k: int) -> float:
        others = np.delete(rows, number, axis=0)
        return float(np.sort(np.linalg.norm(others - rows[number], axis=1))[k - 1])

    def share(found: list[bool]) -> float:
        return sum(found) / len(found)

    apart = pairwise_distances(real, made)
    real_balls = [radius(real, i, k) for i in range(len(real))]
    made_balls = [radius(made, j, k) for j in range(len(made))]
    wide_balls = [radius(real, i, density_k) for i in range(len(real))]
    rows, columns = range(len(real)), range(len(made))
    return PRDC(
        precision=float(
            np.mean([any(apart[i, j] <= real_balls[i] for i in rows) for j in columns])
        ),
        recall=float(np.mean([any(apart[i, j] <= made_balls[j] for j in columns) for i in rows])),
        density=sum(apart[i, j] <= wide_balls[i] for i in rows for j in columns)
        / (density_k * len(made)),
        coverage=share([any(apart[i, j] <= wide_balls[i] for j in columns) for i in rows]),
    )


def features(shift: float = 0.9, spread: float = 1.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    real = torch.randn(53, 7, generator=generator)
    return real, shift + spread * torch.randn(38, 7, generator=generator)


@pytest.mark.parametrize(("k", "density_k"), [(3, 5), (5, 2), (1, 1)])
def test_it_is_the_naive_one_whatever_the_blocks(
    k: int, density_k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = features()
    expected = naive(real.double().numpy(), made.double().numpy(), k, density_k)
    assert 0.1 < expected.precision < 1 and 0.1 < expected.coverage < 1
    for rows, columns in ((512, 4096), (9, 11), (11, 4)):
        monkeypatch.setattr(room, "ROWS", rows)
        monkeypatch.setattr(room, "COLUMNS", columns)
        found = prdc(real, made, manifold_k=k, density_k=density_k)
        assert vars(found) == pytest.approx(vars(expected), abs=1e-12)


def published(real: np.ndarray, made: np.ndarray, nearest_k: int) -> PRDC:
    """The formulas of the package `prdc` (Naeem et al. 2020), one k for all four."""

    def kth_value(distances: np.ndarray, k: int) -> np.ndarray:
        indices = np.argpartition(distances, k, axis=-1)[..., :k]
        return np.take_along_axis(distances, indices, axis=-1).max(axis=-1)

    # a row is its own nearest neighbour, hence one more
    real_radii = kth_value(pairwise_distances(real, real), nearest_k + 1)
    made_radii = kth_value(pairwise_distances(made, made), nearest_k + 1)
    distances = pairwise_distances(real, made)
    inside_real = distances < real_radii[:, None]
    return PRDC(
        precision=float(inside_real.any(axis=0).mean()),
        recall=float((distances < made_radii[None]).any(axis=1).mean()),
        density=float(inside_real.sum(axis=0).mean() / nearest_k),
        coverage=float((distances.min(axis=1) < real_radii).mean()),
    )


@pytest.mark.parametrize("k", [1, 3, 5, 11])
def test_it_is_the_published_package(k: int) -> None:
    for real, made in (features(), features(0.2, 0.7)[::-1]):
        expected = published(real.double().numpy(), made.double().numpy(), k)
        result = prdc(real, made, manifold_k=k, density_k=k)
        assert vars(result) == pytest.approx(vars(expected), abs=1e-12)


def test_rows_that_are_almost_the_same() -> None:
    """The oracle subtracts; a product of matrices has no digit left of such distances."""
    generator = torch.Generator().manual_seed(6)
    # of four rows that are the same and of rows that differ in their last bits
    real = torch.randn(9, 40, generator=generator).repeat_interleave(4, 0)
    step = 2**-20
    real[::3] += step
    made = torch.cat((real[::2], real[::5] + step, real[:7] + 1))
    # as it subtracts row by row, it says the same of a rim whatever the order
    expected = naive_by_subtraction(real.double(), made.double(), 3, 5)
    assert 0.3 < expected.precision < 1 and 0.1 < expected.density < 2
    assert vars(prdc(real, made)) == pytest.approx(vars(expected), abs=1e-12)


def naive_by_subtraction(real: torch.Tensor, made: torch.Tensor, k: int, density_k: int) -> PRDC:
    def apart(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a[:, None] - b[None]).square().sum(2).sqrt()

    def balls(rows: torch.Tensor, k: int) -> torch.Tensor:
        return apart(rows, rows).sort(1).values[:, k]

    found, rim = apart(real, made), 1e-12
    small, wide = (found <= balls(real, each)[:, None] + rim for each in (k, density_k))
    return PRDC(
        precision=float(small.any(0).double().mean()),
        recall=float((found <= balls(made, k) + rim).any(1).double().mean()),
        density=float(wide.sum()) / (density_k * len(made)),
        coverage=float(wide.any(1).double().mean()),
    )


def test_collapse_costs_recall_and_coverage_and_noise_costs_precision() -> None:
    real, same = features(0, 1)
    alike = prdc(real, same)
    collapsed = prdc(real, features(0, 0.05)[1])
    wild = prdc(real, features(0, 6)[1])
    assert collapsed.precision == 1 and collapsed.coverage < 0.7 * alike.coverage
    assert collapsed.recall < 0.1 and wild.precision < 0.2 and wild.density < 0.2
    identical = prdc(real, real)
    assert identical.precision == identical.recall == identical.coverage == 1


def test_bad_arguments_are_named() -> None:
    real, made = features()
    with pytest.raises(ArgumentError, match="5 made rows have no 5-th neighbour"):
        prdc(real, made[:5])
    with pytest.raises(ArgumentError, match=r"made is \(38, 6\)"):
        prdc(real, made[:, 1:])
    with pytest.raises(ArgumentError, match="real holds values that are not finite"):
        prdc(real / 0, made)
