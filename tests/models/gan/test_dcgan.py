"""DCGAN: shapes, conditions, samples that do not see each other, derivatives, bad settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssgear.errors import ArgumentError, ConfigError
from ssgear.models.gan.conditions import UNCONDITIONAL, Condition
from ssgear.models.gan.dcgan import DCGANConfig, DCGANCritic, DCGANGenerator
from ssgear.models.heads import seeded

LABELS, VECTORS = Condition(kind="label", size=5), Condition(kind="vector", size=7)


def config(**settings: Any) -> DCGANConfig:
    small = {"resolution": 16, "noise_dim": 6, "generator_width": 5, "critic_width": 3}
    return DCGANConfig(**{**small, "embedding_dim": 4, **settings})


def given(condition: Condition, rows: int) -> Tensor | None:
    if condition.kind == "label":
        return torch.arange(rows) % condition.size
    return torch.randn(rows, condition.size) if condition else None


@pytest.mark.parametrize("condition", [UNCONDITIONAL, LABELS, VECTORS], ids=lambda c: c.kind)
@pytest.mark.parametrize("resolution", [32, 64, 128])
def test_shapes_and_ranges(resolution: int, condition: Condition) -> None:
    torch.manual_seed(0)
    settings = config(resolution=resolution, condition=condition)
    generator, critic = DCGANGenerator(settings), DCGANCritic(settings)
    c = given(condition, 3)
    images, features = generator.with_features(torch.randn(3, 6), c, at=(4, resolution // 2))
    assert images.shape == (3, 3, resolution, resolution) and images.abs().max() <= 1
    assert {side: tuple(map_.shape) for side, map_ in features.items()} == {
        side: (3, generator.feature_channels[side], side, side) for side in (4, resolution // 2)
    }
    assert critic(images, c).shape == (3,)


def test_widths() -> None:
    settings = DCGANConfig(resolution=64)
    generator = DCGANGenerator(settings)
    assert generator.feature_channels == {4: 512, 8: 256, 16: 128, 32: 64}
    assert DCGANConfig(resolution=128).widths(64) == [64, 128, 256, 512, 512]
    assert DCGANConfig(resolution=128, max_width=100).widths(3) == [3, 6, 12, 24, 48]


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("condition", [UNCONDITIONAL, LABELS], ids=lambda c: c.kind)
def test_a_score_is_that_of_one_sample(norm: Any, condition: Condition) -> None:
    torch.manual_seed(1)
    critic = DCGANCritic(config(critic_norm=norm, condition=condition))
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in critic.modules())
    images, c = torch.randn(3, 3, 16, 16), given(condition, 3)
    one = critic(images[1:2], None if c is None else c[1:2])
    torch.testing.assert_close(critic(images, c)[1:2], one)


@pytest.mark.parametrize("condition", [LABELS, VECTORS], ids=lambda c: c.kind)
def test_the_condition_matters_to_both_networks(condition: Condition) -> None:
    torch.manual_seed(2)
    generator = DCGANGenerator(config(condition=condition, generator_norm="group"))
    critic = DCGANCritic(config(condition=condition))
    noise = torch.randn(1, 6).expand(2, 6)
    c = given(condition, 2)
    one, other = generator(noise, c)
    assert not torch.allclose(one, other)
    scores = critic(one.expand(2, -1, -1, -1), c)
    assert scores[0] != scores[1]


def test_projection_by_hand() -> None:
    torch.manual_seed(3)
    critic = DCGANCritic(config(condition=LABELS)).double()
    images, labels = torch.randn(4, 3, 16, 16).double(), torch.tensor([0, 4, 4, 2])
    h = critic.trunk(images)
    assert critic.embed is not None
    table = critic.embed.weight.T  # a row for every class
    expected = h @ critic.score.weight[0] + critic.score.bias + (table[labels] * h).sum(dim=1)
    torch.testing.assert_close(critic(images, labels), expected)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_gradient_penalty_has_a_right_gradient(norm: Any) -> None:
    torch.manual_seed(4)
    critic = DCGANCritic(config(resolution=8, critic_norm=norm, condition=LABELS)).double()
    images, labels = torch.randn(2, 3, 8, 8).double().requires_grad_(), torch.tensor([1, 3])
    weights = [critic.get_parameter("trunk.0.weight"), critic.score.weight]

    def penalty(*_: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(critic(images, labels).sum(), images, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()

    assert torch.autograd.gradcheck(penalty, weights)


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("resolution", [32, 128])
def test_signals_survive_initialisation(resolution: int, norm: Any) -> None:
    torch.manual_seed(5)
    critic = DCGANCritic(config(resolution=resolution, critic_width=32, critic_norm=norm))
    images = torch.randn(4, 3, resolution, resolution).requires_grad_()
    scores = critic(images)
    (gradient,) = torch.autograd.grad(scores.sum(), images)
    assert gradient.flatten(1).norm(dim=1).min() > 1e-3


def test_weights_follow_the_seed() -> None:
    def build(seed: int) -> Tensor:
        with seeded(seed, "generator"):
            return DCGANGenerator(config()).start.weight.detach()

    assert torch.equal(build(1), build(1)) and not torch.equal(build(1), build(2))


G, D = DCGANGenerator(config(condition=LABELS)), DCGANCritic(config(condition=VECTORS))
Z, X, Y = torch.zeros(2, 6), torch.zeros(2, 3, 16, 16), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: config(resolution=48), ConfigError, "resolution 48, expected one of 8, 16, 32"),
        (lambda: config(resolution=256), ConfigError, "resolution 256"),
        (lambda: config(resolution=0), ConfigError, "resolution 0"),
        (lambda: config(critic_norm="batch"), ConfigError, "unknown critic_norm 'batch'"),
        (lambda: config(generator_norm="bacth"), ConfigError, "did you mean batch"),
        (lambda: config(generator_width=0), ConfigError, "at least 1"),
        (lambda: Condition(kind="label"), ConfigError, "label: size 0"),
        (lambda: Condition(kind="none", size=3), ConfigError, "none: size 3"),
        (lambda: Condition(kind="labels", size=3), ConfigError, "did you mean label"),
        (lambda: G(Z), ArgumentError, "missing: this network takes int64 labels .* below 5"),
        (lambda: G(Z, torch.zeros(3).long()), ArgumentError, r"int64 \(3,\), .* N = 2"),
        (lambda: G(Z, torch.zeros(2)), ArgumentError, "float32"),
        (lambda: G(Z, Y + 4), ArgumentError, "labels 4 to 5, expected 0 to 4"),
        (lambda: G(Z, Y - 1), ArgumentError, "labels -1 to 0"),
        (lambda: G(Z[:, 1:], Y), ArgumentError, r"noise: .*\(2, 5\), expected .*\[N, 6\]"),
        (lambda: G.with_features(Z, Y, at=(5,)), ArgumentError, "at 5 pixels: .* at 4, 8"),
        (lambda: D(X), ArgumentError, r"missing: .*vectors \[N, 7\]"),
        (lambda: D(X, torch.zeros(2, 6)), ArgumentError, r"\(2, 6\)"),
        (lambda: D(X[:, :, 1:], torch.zeros(2, 7)), ArgumentError, r"images: .*\(2, 3, 15, 16\)"),
        (lambda: D(X.byte(), torch.zeros(2, 7)), ArgumentError, "uint8"),
        (lambda: DCGANCritic(config())(X, Y), ArgumentError, "unexpected: this network takes None"),
    ],
)
def test_bad_input(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
