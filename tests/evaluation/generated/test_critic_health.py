"""When a critic has failed: constructed scores of every game, sound ones and failed ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssgear.evaluation.generated.critic_health import (
    WINDOW,
    CriticReading,
    Failure,
    constant_loss,
    critic_failure,
)
from ssgear.losses.adversarial import LOSSES, critic_loss
from ssgear.methods.base import CriticGame

BATCH = 64
KINDS = tuple(LOSSES)


def play(
    kind: str,
    *,
    gap: float,
    spread: float = 0.7,
    centre: float = 0.0,
    penalty: float = 0.0,
    steps: int = WINDOW,
    seed: int = 0,
) -> list[CriticReading]:
    """Readings of batches whose scores are normal, real ones `gap` above synthetic ones."""
    generator = torch.Generator().manual_seed(seed)

    def scores(mean: float) -> Tensor:
        return mean + spread * torch.randn(BATCH, generator=generator, dtype=torch.float64)

    found = []
    for _ in range(steps):
        real, fake = scores(centre + gap / 2), scores(centre - gap / 2)
        found.append(
            CriticReading(
                loss=float(critic_loss(kind, real, fake)),
                d_real=float(real.mean()),
                d_fake=float(fake.mean()),
                penalty=penalty,
            )
        )
    return found


def judge(kind: str, readings: list[CriticReading], gp_weight: float = 10.0) -> str | None:
    failure = critic_failure(readings, CriticGame(kind=kind, resolution=32, gp_weight=gp_weight))
    assert failure is None or isinstance(failure, Failure)
    return None if failure is None else failure.kind


@pytest.mark.parametrize(
    ("kind", "loss"),
    [("logistic", 2 * math.log(2)), ("hinge", 2), ("rpgan", math.log(2)), ("wgan", 0)],
)
def test_no_constant_score_has_less_loss(kind: str, loss: float) -> None:
    assert constant_loss(kind) == pytest.approx(loss)
    for score in (-3.0, -0.5, 0.2, 7.0):
        alike = torch.full((5,), score, dtype=torch.float64)
        assert float(critic_loss(kind, alike, alike)) >= loss - 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [0.4, 1.0, 2.0])
def test_a_game_that_goes_on_is_left_alone(kind: str, gap: float) -> None:
    """Gaps and spreads as healthy runs on the embedded images log them."""
    for seed in range(20):
        assert judge(kind, play(kind, gap=gap, seed=seed)) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("centre", [0.0, -1.4])
def test_a_constant_critic_is_blind(kind: str, centre: float) -> None:
    readings = play(kind, gap=0.0, spread=0.0, centre=centre)
    assert judge(kind, readings) == "blind"
    assert judge(kind, readings[1:]) is None  # too few to judge


@pytest.mark.parametrize("kind", KINDS)
def test_a_critic_that_prefers_synthetic_images_is_blind(kind: str) -> None:
    assert judge(kind, play(kind, gap=-0.5)) == "blind"


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_noise_alone_are_blind(kind: str) -> None:
    """Without a gap its mean is within two standard errors in 19 of 20 windows, or below."""
    found = [judge(kind, play(kind, gap=0.0, seed=seed)) for seed in range(40)]
    assert set(found) <= {"blind", None} and found.count("blind") >= 32


@pytest.mark.parametrize("kind", ["logistic", "hinge", "rpgan"])
def test_certainty_is_a_victory(kind: str) -> None:
    assert judge(kind, play(kind, gap=16.0)) == "won"
    assert judge(kind, play(kind, gap=3.0)) is None


def test_a_wasserstein_critic_wins_by_distance_only() -> None:
    assert judge("wgan", play("wgan", gap=50.0)) is None
    assert judge("wgan", play("wgan", gap=4 * math.sqrt(3) * 32 - 1)) is None
    assert judge("wgan", play("wgan", gap=4 * math.sqrt(3) * 32 + 1)) == "exploded"


@pytest.mark.parametrize("kind", KINDS)
def test_a_penalty_beyond_all_measure_is_an_explosion(kind: str) -> None:
    weight = 10.0 if kind == "wgan" else constant_loss(kind)
    assert judge(kind, play(kind, gap=1.0, penalty=9.9 * weight)) is None
    assert judge(kind, play(kind, gap=1.0, penalty=10.1 * weight)) == "exploded"
    assert judge("wgan", play("wgan", gap=1.0, penalty=1e9), gp_weight=0) is None  # there is none


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_scores_that_run_apart_are_an_explosion(kind: str, gap: float) -> None:
    """Whether the critic is right or wrong: no images are so far apart."""
    assert judge(kind, play(kind, gap=gap, spread=300.0)) == "exploded"


@pytest.mark.parametrize("kind", ["logistic", "hinge", "rpgan"])
def test_scores_of_any_size_that_tell_nothing_are_an_explosion(kind: str) -> None:
    """Noise of a thousand around one mean: the loss is hundreds of times a constant score's."""
    for seed in range(5):
        assert judge(kind, play(kind, gap=0.0, spread=1e3, seed=seed)) == "exploded"
    assert judge(kind, play(kind, gap=0.0, spread=2.0)) == "blind"


@pytest.mark.parametrize("centre", [-1e5, 1e5])
def test_scores_that_run_away_together(centre: float) -> None:
    """Their place means something for logistic and hinge alone."""
    for kind in ("logistic", "hinge"):
        failure = critic_failure(
            play(kind, gap=1.0, centre=centre), CriticGame(kind=kind, resolution=32)
        )
        assert failure is not None and failure.kind == "exploded"
        assert "its scores have run away" in failure.text and f"{centre:.3g}" in failure.text
    for kind in ("wgan", "rpgan"):
        assert judge(kind, play(kind, gap=1.0, centre=centre)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_critic_that_is_trained_too_fast_explodes(kind: str) -> None:
    """Its own scores, as it makes them, not constructed ones; one that is not stays sound."""
    assert judge(kind, trained(kind, lr=300.0)) == "exploded"
    assert judge(kind, trained(kind, lr=1e-4)) != "exploded"


def trained(kind: str, *, lr: float) -> list[CriticReading]:
    """Readings of a critic of two layers that learns images of noise from darker ones by Adam."""
    generator = torch.Generator().manual_seed(0)
    critic = torch.nn.Sequential(
        torch.nn.Linear(3 * 32 * 32, 8), torch.nn.LeakyReLU(0.2), torch.nn.Linear(8, 1)
    )
    with torch.no_grad():
        for weight in critic.parameters():
            weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    optimizer = torch.optim.Adam(critic.parameters(), lr=lr, betas=(0.0, 0.9))
    found = []
    for _ in range(WINDOW + 10):
        real, fake = (torch.rand(2, 32, 3072, generator=generator) * 2 - 1).unbind()
        d_real, d_fake = critic(real), critic(fake - 0.1)
        loss = critic_loss(kind, d_real, d_fake)
        found.append(
            CriticReading(
                loss=loss.item(), d_real=d_real.mean().item(), d_fake=d_fake.mean().item()
            )
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_wild_steps_decide_nothing(kind: str) -> None:
    readings = play(kind, gap=1.0)
    wild = CriticReading(loss=1e6, d_real=1e6, d_fake=-1e6, penalty=1e9)
    readings[3] = readings[11] = wild
    assert judge(kind, readings) is None


def test_only_the_last_readings_count() -> None:
    before = play("hinge", gap=0.0, spread=0.0, steps=50)
    assert judge("hinge", [*before, *play("hinge", gap=1.0)]) is None
    assert judge("hinge", [*play("hinge", gap=1.0, steps=50), *before]) == "blind"
