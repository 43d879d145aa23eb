from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssgear.evaluation.probes.lbfgs import cholesky_preconditioner, minimize


@pytest.mark.parametrize("rows", [23, 301])
def test_the_preconditioner_is_the_inverse_in_float64(rows: int) -> None:
    features = torch.randn(rows, 37, generator=torch.Generator().manual_seed(rows))
    features = features.double() - features.double().mean(0)
    apply = cholesky_preconditioner(features)(0.09, 0.02)
    gradient = torch.randn(38, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    hessian = 0.09 * features.T @ features / rows + 0.02 * torch.eye(37)
    expected = torch.cat([torch.linalg.inv(hessian) @ gradient[:-1], gradient[-1:] / 0.09])
    torch.testing.assert_close(apply(gradient), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_quadratic_ends_at_its_minimum(scale: float) -> None:
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(17, 17, dtype=torch.float64, generator=generator)
    hessian = scale * (root @ root.T + 0.1 * torch.eye(17))
    target = torch.randn(17, 1, dtype=torch.float64, generator=generator)

    def objective(point: Tensor) -> tuple[float, Tensor]:
        gradient = hessian @ (point - target)
        return float((point - target).mul(gradient).sum() / 2), gradient

    minimum = minimize(
        objective, torch.zeros(17, 1), precondition=lambda gradient: gradient,
        tolerance=1e-9 * scale, iterations=200,
    )  # fmt: skip
    assert minimum.converged and minimum.value < 1e-12 * scale
    torch.testing.assert_close(minimum.point, target, rtol=0, atol=1e-6)


def test_a_minimum_that_is_not_reached_is_not_called_one() -> None:
    def objective(point: Tensor) -> tuple[float, Tensor]:
        return float(point.exp().sum()), point.exp()  # falls for ever

    minimum = minimize(
        objective, torch.zeros(3), precondition=lambda gradient: gradient,
        tolerance=1e-9, iterations=5,
    )  # fmt: skip
    assert not minimum.converged and minimum.evaluations <= 5 * 12 + 1
