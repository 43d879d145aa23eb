"""Losses against the formulas by hand, the zero-centred penalty, and a ring of eight Gaussians."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ssgear.errors import ArgumentError
from ssgear.losses.adversarial import (
    LOSSES,
    adversarial_loss,
    critic_loss,
    generator_loss,
    zero_centred_penalty,
)

REAL, FAKE = [0.3, -1.2, 2.5], [-0.7, 1.9, 0.1]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


PAIRS = list(zip(REAL, FAKE, strict=True))
BY_HAND = {
    "wgan": (mean(FAKE) - mean(REAL), -mean(FAKE)),
    "logistic": (
        mean([softplus(f) for f in FAKE]) + mean([softplus(-r) for r in REAL]),
        mean([softplus(-f) for f in FAKE]),
    ),
    "hinge": (
        mean([max(0.0, 1 + f) for f in FAKE]) + mean([max(0.0, 1 - r) for r in REAL]),
        -mean(FAKE),
    ),
    "rpgan": (
        mean([softplus(f - r) for r, f in PAIRS]),
        mean([softplus(r - f) for r, f in PAIRS]),
    ),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_formulas(kind: str) -> None:
    real, fake = torch.tensor(REAL, dtype=torch.float64), torch.tensor(FAKE, dtype=torch.float64)
    on_critic, on_generator = BY_HAND[kind]
    assert critic_loss(kind, real, fake).item() == pytest.approx(on_critic, rel=1e-12)
    assert generator_loss(kind, real, fake).item() == pytest.approx(on_generator, rel=1e-12)
    column = critic_loss(kind, real[:, None], fake[:, None])
    assert column.shape == () and column.item() == pytest.approx(on_critic, rel=1e-12)
    assert critic_loss(kind, real.bfloat16(), fake.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("kind", LOSSES)
def test_critic_and_generator_pull_apart(kind: str) -> None:
    real = torch.zeros(3, requires_grad=True)
    fake = torch.zeros(3, requires_grad=True)
    on_real, on_fake = torch.autograd.grad(critic_loss(kind, real, fake), (real, fake))
    assert (on_real < 0).all() and (on_fake > 0).all()
    (pushed,) = torch.autograd.grad(generator_loss(kind, real, fake), fake)
    assert (pushed < 0).all()


def test_only_a_paired_loss_reads_real_scores_on_the_generators_side() -> None:
    fake = torch.tensor(FAKE)
    for kind in LOSSES:
        if adversarial_loss(kind).paired:
            with pytest.raises(ArgumentError, match="d_real is None"):
                generator_loss(kind, None, fake)
        else:
            assert generator_loss(kind, None, fake).isfinite()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: critic_loss("wgan-gp", torch.zeros(2), torch.zeros(2)), "did you mean wgan"),
        (lambda: generator_loss("hing", None, torch.zeros(2)), "did you mean hinge"),
        (lambda: critic_loss("hinge", torch.zeros(2, 3), torch.zeros(2)), r"d_real: .*\(2, 3\)"),
        (lambda: critic_loss("hinge", torch.zeros(2), torch.zeros(())), "d_fake: "),
        (lambda: critic_loss("hinge", torch.zeros(2).long(), torch.zeros(2)), "int64"),
        (lambda: critic_loss("rpgan", torch.zeros(2), torch.zeros(3)), "2 real and 3 synthetic"),
        (lambda: generator_loss("rpgan", torch.zeros(1), torch.zeros(3)), "1 real and 3"),
        (lambda: zero_centred_penalty(torch.sum, torch.zeros(2, 2), gamma=-1), "gamma=-1"),
        (lambda: zero_centred_penalty(torch.sum, torch.zeros(2, 2), gamma=1, interval=0), "interv"),
        (lambda: zero_centred_penalty(torch.sum, torch.zeros(2).int(), gamma=1), "int32"),
        (lambda: zero_centred_penalty(torch.sum, torch.zeros(2, 2), gamma=1), "critic: "),
    ],
)
def test_bad_arguments(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_zero_centred_penalty_by_hand() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 3, dtype=torch.float64)

    def critic(x: Tensor, scale: float = 1.0) -> Tensor:
        return scale * (x @ weight.T).square() / 2  # gradient: scale (x w) w

    expected = (x @ weight.T).square().mean() * weight.square().sum()
    penalty = zero_centred_penalty(critic, x, gamma=0.6)
    torch.testing.assert_close(penalty, 0.3 * expected)
    torch.testing.assert_close(
        zero_centred_penalty(critic, x, gamma=0.6, condition=2.0), 4 * 0.3 * expected
    )
    (ours,) = torch.autograd.grad(penalty, weight)
    (theirs,) = torch.autograd.grad(0.3 * expected, weight)
    torch.testing.assert_close(ours, theirs)


def test_a_lazy_penalty_is_the_same_on_average() -> None:
    x = torch.randn(4, 3, requires_grad=True)

    def critic(x: Tensor) -> Tensor:
        return x.square().sum(dim=1)

    every = zero_centred_penalty(critic, x, gamma=1.0)
    lazy = [zero_centred_penalty(critic, x, gamma=1.0, interval=4, step=step) for step in range(8)]
    assert [bool(value > 0) for value in lazy] == [True, False, False, False] * 2
    torch.testing.assert_close(torch.stack(lazy).mean(), every)
    every.backward()
    assert x.grad is None  # the images are leaves inside


def mlp(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs)
    )


def ring(count: int) -> Tensor:
    angle = torch.randint(8, (count,)) * (math.tau / 8)
    return torch.stack((angle.cos(), angle.sin()), dim=1) * 2 + 0.05 * torch.randn(count, 2)


def gradient_norm(critic: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient.norm(dim=1)


@pytest.mark.slow
def test_wgan_gp_covers_a_ring_of_gaussians() -> None:
    """All eight modes, none with too few samples, and a critic of slope about 1 in between."""
    torch.manual_seed(0)
    generator, critic = mlp(4, 2), mlp(2, 1)
    on_generator = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.9))
    on_critic = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.0, 0.9))

    def mixed(real: Tensor, fake: Tensor) -> Tensor:
        eps = torch.rand(len(real), 1)
        return eps * real + (1 - eps) * fake

    for _ in range(600):
        for _ in range(5):
            real, fake = ring(128), generator(torch.randn(128, 4)).detach()
            slope = gradient_norm(critic, mixed(real, fake))
            loss = critic_loss("wgan", critic(real), critic(fake)) + (slope - 1).square().mean()
            on_critic.zero_grad()
            loss.backward()
            on_critic.step()
        on_generator.zero_grad()
        generator_loss("wgan", None, critic(generator(torch.randn(128, 4)))).backward()
        on_generator.step()
    with torch.no_grad():
        samples = generator(torch.randn(4000, 4))
    angles = torch.arange(8) * (math.tau / 8)
    modes = torch.stack((angles.cos(), angles.sin()), dim=1) * 2
    distance, nearest = torch.cdist(samples, modes).min(dim=1)
    counts = torch.bincount(nearest[distance < 0.3], minlength=8)
    slope = gradient_norm(critic, mixed(ring(2000), samples[:2000])).mean().item()
    assert (counts > 60).all() and counts.sum() > 1400, counts
    assert 0.8 < slope < 1.25, slope
