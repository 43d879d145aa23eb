"""Adversarial losses by name, and the zero-centred gradient penalty (R1 and R2).

    kind        critic minimises                                   generator minimises
    wgan        mean(d_fake) - mean(d_real)                        -mean(d_fake)
    logistic    mean(softplus(d_fake)) + mean(softplus(-d_real))   mean(softplus(-d_fake))
    hinge       mean(relu(1 + d_fake)) + mean(relu(1 - d_real))    -mean(d_fake)
    rpgan       mean(softplus(d_fake - d_real)), over pairs        mean(softplus(d_real - d_fake))

Arjovsky et al. 2017 (arXiv 1701.07875), Goodfellow et al. 2014 (non-saturating, 1406.2661), Lim &
Ye 2017 (1705.02894), Jolicoeur-Martineau 2018 and Huang et al. 2025 (R3GAN, 2501.05441). The
objective is docs/math.md 2. Shapes: N rows; every loss is a scalar, float32 or wider.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ssgear.errors import ArgumentError, did_you_mean
from ssgear.kernels.gradient_penalty.pieces import sample_norm_penalty

Critic = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class AdversarialLoss:
    """The two sides of one game, each a function of (d_real_N, d_fake_N)."""

    critic: Callable[[Tensor, Tensor], Tensor]
    """What the critic minimises."""
    generator: Callable[[Tensor, Tensor], Tensor]
    """What the generator minimises."""
    paired: bool = False
    """Whether row i of the real scores is compared with row i of the synthetic ones."""


LOSSES = {
    "wgan": AdversarialLoss(
        critic=lambda real, fake: fake.mean() - real.mean(),
        generator=lambda real, fake: -fake.mean(),
    ),
    "logistic": AdversarialLoss(
        critic=lambda real, fake: F.softplus(fake).mean() + F.softplus(-real).mean(),
        generator=lambda real, fake: F.softplus(-fake).mean(),
    ),
    "hinge": AdversarialLoss(
        critic=lambda real, fake: F.relu(1 + fake).mean() + F.relu(1 - real).mean(),
        generator=lambda real, fake: -fake.mean(),
    ),
    "rpgan": AdversarialLoss(
        critic=lambda real, fake: F.softplus(fake - real).mean(),
        generator=lambda real, fake: F.softplus(real - fake).mean(),
        paired=True,
    ),
}
"""Name -> loss. `paired` ones need the real scores on the generator's side too."""


def adversarial_loss(kind: str) -> AdversarialLoss:
    """Return the loss of that name; a name that nothing goes by is an `ArgumentError`."""
    if kind not in LOSSES:
        raise ArgumentError(
            f"unknown adversarial loss {kind!r}{did_you_mean(str(kind), LOSSES)}; "
            f"known: {', '.join(LOSSES)}"
        )
    return LOSSES[kind]


def critic_loss(kind: str, d_real: Tensor, d_fake: Tensor) -> Tensor:
    """Return what the critic minimises, a scalar.

    Args:
        kind: Name in `LOSSES`.
        d_real: Scores of real images, floating-point [N] or [N, 1].
        d_fake: Scores of synthetic images, alike; for a paired loss of the same N.

    Raises:
        ArgumentError: For an unknown name, scores of another shape, and pairs that do not match.
    """
    loss = adversarial_loss(kind)
    real_N, fake_N = _scores(d_real, "d_real"), _scores(d_fake, "d_fake")
    _check_pairs(kind, loss, real_N, fake_N)
    return loss.critic(real_N, fake_N)


def generator_loss(kind: str, d_real: Tensor | None, d_fake: Tensor) -> Tensor:
    """Return what the generator minimises, a scalar.

    Args:
        kind: Name in `LOSSES`.
        d_real: Scores of real images [N] or [N, 1]; only a paired loss reads them, None elsewhere.
        d_fake: Scores of synthetic images, alike.

    Raises:
        ArgumentError: As `critic_loss`, and where a paired loss gets no real scores.
    """
    loss = adversarial_loss(kind)
    fake_N = _scores(d_fake, "d_fake")
    if not loss.paired:
        return loss.generator(fake_N, fake_N)
    if d_real is None:
        raise ArgumentError(f"{kind}: d_real is None, but it compares synthetic with real scores")
    real_N = _scores(d_real, "d_real")
    _check_pairs(kind, loss, real_N, fake_N)
    return loss.generator(real_N, fake_N)


def zero_centred_penalty(
    critic: Critic,
    images: Tensor,
    *,
    gamma: float,
    condition: Any = None,
    interval: int = 1,
    step: int = 0,
) -> Tensor:
    """Return gamma / 2 mean_i ||d critic(x_i) / d x_i||^2: R1 at real images, R2 at synthetic ones.

    Mescheder et al. 2018 (arXiv 1801.04406). A lazy penalty (Karras et al. 2020, arXiv 1912.04958)
    counts every `interval` steps, `interval` times as much, and is zero between. The images are
    leaves here: gradients reach the critic's weights only.

    Args:
        critic: Called as critic(images), or critic(images, condition); returns [N] or [N, 1].
        images: Floating-point [N, ...].
        gamma: Weight, at least 0.
        condition: What the critic is conditioned on; None: it is not.
        interval: Steps between two penalties, at least 1.
        step: Number of this step, from 0.

    Raises:
        ArgumentError: For numbers out of range and images that are not floating-point.
    """
    if gamma < 0 or interval < 1:
        raise ArgumentError(
            f"gamma={gamma}, interval={interval}: expected gamma >= 0, interval >= 1"
        )
    if not images.is_floating_point() or images.ndim < 2:
        raise ArgumentError(
            f"images: {images.dtype} {tuple(images.shape)}, expected floating-point [N, ...]"
        )
    if step % interval:
        return images.new_zeros((), dtype=torch.promote_types(images.dtype, torch.float32))
    leaf = images.detach().requires_grad_()
    scores_N = _scores(critic(leaf) if condition is None else critic(leaf, condition), "critic")
    (gradient,) = torch.autograd.grad(scores_N.sum(), leaf, create_graph=True)
    return sample_norm_penalty(gradient, 0.0) * (0.5 * gamma * interval)


def _scores(scores: Tensor, name: str) -> Tensor:
    """Return scores as [N]; [N] beside [N, 1] would broadcast to every pair."""
    if (
        not scores.is_floating_point()
        or scores.ndim not in (1, 2)
        or scores.shape[1:] not in ((), (1,))
    ):
        raise ArgumentError(
            f"{name}: {scores.dtype} {tuple(scores.shape)}, expected floating-point scores [N]"
        )
    return scores.to(torch.promote_types(scores.dtype, torch.float32)).reshape(-1)


def _check_pairs(kind: str, loss: AdversarialLoss, real_N: Tensor, fake_N: Tensor) -> None:
    if loss.paired and len(real_N) != len(fake_N):
        raise ArgumentError(
            f"{kind}: {len(real_N)} real and {len(fake_N)} synthetic scores; it compares them in "
            "pairs and needs as many of each"
        )
