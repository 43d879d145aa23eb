"""WGAN-GP learns a ring of eight Gaussians, all modes, and holds the critic's slope near 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ssgear.losses import gradient_penalty
from ssgear.losses.adversarial import critic_loss, generator_loss

MODES, RADIUS, STD = 8, 2.0, 0.1
ROWS, N_CRITIC, STEPS, PENALTY = 128, 5, 700, 2.0


def centres() -> Tensor:
    angle = torch.arange(MODES) * (2 * math.pi / MODES)
    return RADIUS * torch.stack((angle.cos(), angle.sin()), dim=1)


def ring(rows: int, draws: torch.Generator) -> Tensor:
    mode = torch.randint(0, MODES, (rows,), generator=draws)
    return centres()[mode] + STD * torch.randn(rows, 2, generator=draws)


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2),
        nn.Linear(64, outputs),
    )  # fmt: skip


def train(penalty: float) -> tuple[nn.Module, nn.Module, torch.Generator]:
    torch.manual_seed(0)
    draws = torch.Generator().manual_seed(1)
    maker, critic = network(4, 2), network(2, 1)
    makers, critics = (
        torch.optim.Adam(module.parameters(), lr=5e-3, betas=(0.0, 0.9))
        for module in (maker, critic)
    )
    for step in range(STEPS):
        for optimizer in (makers, critics):
            optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / STEPS)
        for _ in range(N_CRITIC):
            real = ring(ROWS, draws)
            fake = maker(torch.randn(ROWS, 4, generator=draws)).detach()
            eps = torch.rand(ROWS, generator=draws)
            loss = critic_loss("wgan", critic(real), critic(fake))
            loss = loss + penalty * gradient_penalty(critic, real, fake, eps=eps)
            critics.zero_grad()
            loss.backward()
            critics.step()
        made = maker(torch.randn(ROWS, 4, generator=draws))
        makers.zero_grad()
        generator_loss("wgan", None, critic(made)).backward()
        makers.step()
    return maker, critic, draws


def test_all_modes_are_found() -> None:
    maker, critic, draws = train(PENALTY)
    made = maker(torch.randn(4000, 4, generator=draws)).detach()
    away, mode = torch.cdist(made, centres()).min(dim=1)
    near = away < 6 * STD  # neighbouring modes are 15 STD apart
    counts = mode[near].bincount(minlength=MODES)
    assert near.float().mean() > 0.6, near.float().mean()
    assert counts.min() > 4000 / MODES / 3, counts.tolist()
    eps = torch.rand(1000, 1, generator=draws)
    mixed = torch.lerp(ring(1000, draws), made[:1000], eps).requires_grad_()
    (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed)
    norms = slope.norm(dim=1)
    assert 0.85 < norms.mean() < 1.2 and norms.std() < 0.3, (norms.mean(), norms.std())
