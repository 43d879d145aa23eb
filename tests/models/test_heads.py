"""Projectors: layers, norms, what a batch may influence; weights of a seed and a name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssgear.errors import ConfigError
from ssgear.models.heads import mlp, seeded


def kinds(head: nn.Sequential) -> list[str]:
    return [type(module).__name__ for module in head]


def test_layers_and_biases() -> None:
    head = mlp(17, (33, 19, 5))
    one = ["Linear", "BatchNorm1d", "ReLU"]
    assert kinds(head) == [*one, *one, "Linear"]
    assert [m.bias is None for m in head if isinstance(m, nn.Linear)] == [True, True, False]
    assert head(torch.zeros(3, 17)).shape == (3, 5)
    assert kinds(mlp(17, (5,))) == ["Linear"]
    assert kinds(mlp(17, (5, 4), norm="none")) == ["Linear", "ReLU", "Linear"]
    last = mlp(17, (33, 5), last_norm=True)
    assert kinds(last) == [*one, "Linear", "BatchNorm1d"]
    assert all(m.bias is None for m in last if isinstance(m, nn.Linear))


def test_the_value_is_that_of_the_formula() -> None:
    head = mlp(7, (11, 3)).double().eval()
    x = torch.randn(5, 7, dtype=torch.float64)
    w1, _, _, w2, b2 = head.parameters()
    hidden = (x @ w1.mT) / (1.0 + 1e-5) ** 0.5
    torch.testing.assert_close(head(x), hidden.clamp(min=0) @ w2.mT + b2)


@pytest.mark.parametrize("last_norm", [False, True])
def test_group_norm_treats_rows_one_by_one(last_norm: bool) -> None:
    head = mlp(9, (15, 7), norm="group", last_norm=last_norm)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in head.modules())
    x = torch.randn(6, 9)
    torch.testing.assert_close(head(x)[2:3], head(x[2:3]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dims", [(), (8, 0), (-1,)])
def test_impossible_widths(dims: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="widths"):
        mlp(9, dims)


def test_seeded_weights_depend_on_seed_and_name_only() -> None:
    def weights(seed: int, path: str, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        with seeded(seed, path):
            return next(mlp(5, (3,)).parameters())

    assert torch.equal(weights(1, "a", 0), weights(1, "a", 99))
    assert not torch.equal(weights(1, "a", 0), weights(2, "a", 0))
    assert not torch.equal(weights(1, "a", 0), weights(1, "b", 0))
    assert torch.isfinite(weights(2**64 - 1, "a", 0)).all()


def test_seeded_restores_the_generator_even_after_an_error() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with pytest.raises(ValueError, match="x"), seeded(0, "a"):
        torch.rand(7)
        raise ValueError("x")
    assert torch.equal(torch.rand(3), expected)
