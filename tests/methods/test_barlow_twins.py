"""Barlow Twins as a method: its loss by hand, its refusals, who gets gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.config import presets
from ssgear.config.schema import ModelConfig
from ssgear.data.loaders.batch import Batch
from ssgear.errors import ConfigError
from ssgear.methods.barlow_twins import BarlowTwins
from ssgear.methods.base import Embeddings
from ssgear.models.encoders import build_encoder
from ssgear.optim import build_optimizer

ROWS, SIDE = 6, 16


def build(**settings: Any) -> BarlowTwins:
    torch.manual_seed(0)
    encoder = build_encoder(ModelConfig(name="resnet_tiny", norm="group"), SIDE, seed=0)
    return BarlowTwins(BarlowTwins.Config(**{"projector_dims": (9, 5), **settings}), encoder)


def make_batch(views: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(3)
    pixels = [torch.randn(ROWS, 3, SIDE, SIDE, generator=generator) for _ in range(views)]
    return Batch(views=pixels, index=torch.arange(ROWS), position=torch.arange(ROWS))


def correlation(z1: Tensor, z2: Tensor) -> Tensor:
    """Pearson's, by numbers of one pair of features at a time."""
    rows = [
        [torch.corrcoef(torch.stack((z1[:, i], z2[:, j])))[0, 1] for j in range(z2.shape[1])]
        for i in range(z1.shape[1])
    ]
    return torch.tensor(rows, dtype=torch.float64)


def by_hand(z1: Tensor, z2: Tensor, lambd: float) -> float:
    c = correlation(z1.double(), z2.double())
    off = c - torch.diag(c.diagonal())
    return float((1 - c.diagonal()).square().sum() + lambd * off.square().sum())


def test_the_loss_is_that_of_the_projections() -> None:
    method, batch = build(lambd=0.3, loss_scale=0.5), make_batch()
    z1, z2 = method.embed(method.phases[0], batch).online
    loss = method.loss(method.phases[0], batch).total
    # the variances are those of a few rows, and batch norm's epsilon shows
    assert loss.item() == pytest.approx(0.5 * by_hand(z1.detach(), z2.detach(), 0.3), rel=2e-2)


def test_three_views_are_three_pairs() -> None:
    method, batch = build(), make_batch(views=3)
    z = [each.detach() for each in method.embed(method.phases[0], batch).online]
    pairs = [
        method.loss_of(method.phases[0], Embeddings(pair), batch).total
        for pair in ((z[0], z[1]), (z[0], z[2]), (z[1], z[2]))
    ]
    whole = method.loss_of(method.phases[0], Embeddings(tuple(z)), batch).total
    torch.testing.assert_close(whole, torch.stack(pairs).mean())


def test_both_views_and_every_weight_get_gradients() -> None:
    method, batch = build(), make_batch()
    zs = method.embed(method.phases[0], batch)
    for z in zs.online:
        z.retain_grad()
    method.loss_of(method.phases[0], zs, batch).total.backward()
    assert all(z.grad is not None and z.grad.abs().max() > 0 for z in zs.online)
    without = [name for name, weight in method.named_parameters() if weight.grad is None]
    assert without == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lambd": -0.1}, "--method.lambd: -0.1 is not possible; use 0 or more"),
        ({"lambd": float("nan")}, "--method.lambd: nan"),
        ({"lambd": 1e39}, "--method.lambd: 1e\\+39 is not possible"),
        ({"loss_scale": 0.0}, "--method.loss-scale: 0.0 is not possible; use a value above 0"),
        ({"projector_dims": ()}, r"--method.projector-dims: \(\) is not possible"),
        ({"projector_dims": (8, 0)}, "--method.projector-dims"),
    ],
)
def test_settings_that_define_no_loss_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        BarlowTwins.Config(**settings)


def test_the_imagenet_recipe_takes_the_papers_steps() -> None:
    """0.2 and 1.5e-6 per 256 images for weights, 0.0048 for norms and biases, by a scaled loss."""
    recipe = presets.layer("barlow-twins-imagenet").settings
    lr, scale, batches = recipe["optim.lr"], recipe["method.loss_scale"], 2048 / 256
    assert (lr, lr * scale) == pytest.approx((0.2 * batches, 0.0048 * batches))
    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, 7, 5, generator=generator)
    weight, gradient = 100 * weight, gradient * 1e-4  # decay and gradient are of one size

    def step(decay: float, by: float) -> Tensor:
        moved = torch.nn.Parameter(weight.clone())
        moved.grad = by * gradient
        given = {"lr": lr, "weight_decay": decay, "momentum": 0.9, "eta": 0.001, "clip": False}
        build_optimizer([("weight", moved)], name="lars", **given).step()
        return moved.detach() - weight

    found, papers = step(recipe["optim.weight_decay"], scale), step(1.5e-6, 1.0)
    torch.testing.assert_close(found, papers, rtol=0.01, atol=0.0)
    assert not torch.allclose(step(1.5e-6, scale), papers, rtol=0.1)
