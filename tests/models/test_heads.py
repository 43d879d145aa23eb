"""Projectors: layers, norms, what a batch may influence; weights of a seed and a name."""

from __future__ import annotations

from typing import Literal

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


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_last_norm_without_scale_and_shift(norm: Literal["batch", "group"]) -> None:
    head = mlp(9, (15, 7), norm=norm, last_norm=True, last_affine=False)
    assert [(name, p.shape[0]) for name, p in head.named_parameters()] == [
        ("0.weight", 15), ("1.weight", 15), ("1.bias", 15), ("3.weight", 7),
    ]  # fmt: skip
    out = head(100 * torch.randn(64, 9))
    axis = 0 if norm == "batch" else 1
    torch.testing.assert_close(out.mean(axis), torch.zeros(out.shape[1 - axis]), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        out.var(axis, correction=0), torch.ones(out.shape[1 - axis]), rtol=1e-3, atol=0
    )


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
