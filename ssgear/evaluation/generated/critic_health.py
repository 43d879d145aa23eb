"""Whether a critic still teaches its generator anything, from what a run logs of it.

    failure = critic_failure(readings, game)       # None while all is well, or too few readings

A critic fails in three ways, each held against what its loss says of itself (docs/math.md 2):

* **blind**: its loss is no better than that of a constant score, L0 (logistic 2 log 2, hinge 2,
  rpgan log 2), and D(real) - D(fake) is within its own noise. L0 - L of the best critic is twice
  the Jensen-Shannon divergence of real and synthetic images for logistic (Goodfellow et al. 2014,
  arXiv 1406.2661), twice their total variation for hinge: 1 - L / L0 is what it tells apart.
* **won**: L is below 5 % of L0. Real and synthetic images are told apart with certainty, so that
  its loss has hardly a gradient left.
* **exploded**: its penalty or its loss is ten times what a constant score costs, or its scores have
  run away: D(real) and D(fake) are farther apart than twice the diagonal of the cube of all images,
  2 sqrt(3) R for R pixels, which no critic with gradients of norm 1 can score, right or wrong.
  Scores that run away together show in the loss of logistic and hinge, whose zero is a place; for
  wgan and rpgan only their difference is anything, and it is well while it tells images apart.

wgan has no L0 and no certainty: a large gap is a large distance. It is blind where its gap is not
above its noise. Medians over the window, so that no single step decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch

from ssgear.losses.adversarial import adversarial_loss
from ssgear.methods.base import CriticGame

WINDOW = 20
"""Readings that a verdict needs."""
BLIND_SHARE = 0.98
"""Of L0: a critic with at least this loss tells nothing, if its gap is noise too."""
BLIND_GAP = 0.01
"""Gap that is nothing whatever its noise, in units of the margin; not for wgan, which has none."""
WON_SHARE = 0.05
"""Of L0: a critic with less loss is certain of everything."""
NOISE = 2.0
"""Standard errors of the median gap that are noise."""
EXPLODED = 10.0
"""Times L0, or for wgan times the penalty's weight (gradients of norm 4): too large a penalty, or
too large a loss where there is an L0."""

Kind = Literal["blind", "won", "exploded"]


@dataclass(frozen=True, kw_only=True)
class CriticReading:
    """What was logged of one step."""

    loss: float
    """What the critic minimises, without its penalty."""
    d_real: float
    """Mean score of real images."""
    d_fake: float
    """Mean score of synthetic images."""
    penalty: float = 0.0
    """Weighted penalty."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How a critic failed."""

    kind: Kind
    text: str
    """With the figures that show it, in the middle of a sentence."""


def critic_failure(readings: Sequence[CriticReading], game: CriticGame) -> Failure | None:
    """Judge the last `WINDOW` readings; fewer say nothing."""
    window = readings[-WINDOW:]
    if len(window) < WINDOW:
        return None
    return _exploded(window, game) or _blind(window, game) or _won(window, game)


def constant_loss(kind: str) -> float:
    """Return L0, the smallest loss of a critic that scores every image alike; 0 for wgan."""
    zero = torch.zeros(1, dtype=torch.float64)
    return float(adversarial_loss(kind).critic(zero, zero))


def _exploded(window: Sequence[CriticReading], game: CriticGame) -> Failure | None:
    best = constant_loss(game.kind)
    limit = EXPLODED * (best or game.gp_weight)
    penalty = median(each.penalty for each in window)
    if limit and penalty > limit:
        text = f"its penalty is {penalty:.3g}, above {limit:.3g}: it outweighs the game"
        return Failure(kind="exploded", text=text)
    gap = median(abs(each.d_real - each.d_fake) for each in window)
    farthest = 2 * math.sqrt(3) * game.resolution
    if gap > 2 * farthest:
        text = (
            f"D(real) and D(fake) are {gap:.3g} apart, but images at most {farthest:.3g}: its "
            "gradients are far above 1"
        )
        return Failure(kind="exploded", text=text)
    loss = median(each.loss for each in window)
    if best and loss > EXPLODED * best:
        real, fake = (median(scores) for scores in zip(*_scores(window), strict=True))
        text = (
            f"its loss is {loss:.3g}, {loss / best:.3g} times a constant score's, with D(real) "
            f"{real:.3g} and D(fake) {fake:.3g}: its scores have run away"
        )
        return Failure(kind="exploded", text=text)
    return None


def _scores(window: Sequence[CriticReading]) -> list[tuple[float, float]]:
    return [(each.d_real, each.d_fake) for each in window]


def _blind(window: Sequence[CriticReading], game: CriticGame) -> Failure | None:
    gaps = [each.d_real - each.d_fake for each in window]
    gap = median(gaps)
    # of a median, by the median deviation, as if normal: a wild step must not pass for noise
    error = 1.2533 * 1.4826 * median(abs(each - gap) for each in gaps) / math.sqrt(len(gaps))
    wgan = game.kind == "wgan"
    if gap > max(NOISE * error, 0.0 if wgan else BLIND_GAP):
        return None
    share = 1.0 if wgan else median(each.loss for each in window) / constant_loss(game.kind)
    if share < BLIND_SHARE:
        return None
    text = f"D(real) - D(fake) is {gap:.2g} with a standard error of {error:.2g}"
    if not wgan:
        text += f", and its loss is {100 * share:.0f} % of a constant score's"
    return Failure(kind="blind", text=text)


def _won(window: Sequence[CriticReading], game: CriticGame) -> Failure | None:
    best = constant_loss(game.kind)
    loss = median(each.loss for each in window)
    if not best or loss >= WON_SHARE * best:
        return None
    text = (
        f"its loss is {loss:.2g}, {100 * loss / best:.1f} % of a constant score's: it is certain "
        "of every image"
    )
    return Failure(kind="won", text=text)
