"""Small methods in float64 on random views, and steps of plain SGD on them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssgear import registry
from ssgear.config.schema import ModelConfig
from ssgear.data.augment.spec import view_set
from ssgear.data.loaders.batch import Batch
from ssgear.methods.base import Facts, Method, check_groups
from ssgear.models.encoders import build_encoder
from ssgear.models.momentum import MomentumCopy

SIDE, ROWS = 8, 6


def build(
    name: str,
    *,
    batch_size: int = ROWS,
    norm: str = "batch",
    num_classes: int | None = None,
    **settings: Any,
) -> Any:
    """Build a method by its name, in float64."""
    torch.manual_seed(0)
    encoder = build_encoder(ModelConfig(name="resnet_tiny", norm=norm), SIDE, seed=0)  # type: ignore[arg-type]
    kind = registry.load("methods", name)
    facts = Facts(
        augmentation=view_set("byol"),
        num_images=24,
        epochs=2,
        num_classes=num_classes,
        batch_size=batch_size,
    )
    method: Method = kind.build(kind.Config(**settings), encoder, facts).double()
    check_groups(method)
    return method


def batch(step: int = 0, *, views: int = 2, progress: float = 0.25) -> Batch:
    """Return random views."""
    generator = torch.Generator().manual_seed(step)
    shape = (ROWS, 3, SIDE, SIDE)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(views)]
    rows = torch.arange(ROWS)
    return Batch(views=made, index=rows, position=rows, step=step, progress=progress)


def gradients(method: Method, total: Tensor) -> dict[str, Tensor | None]:
    """Return the gradient of every parameter, None where there is none."""
    method.zero_grad(set_to_none=True)
    total.backward()
    return {name: weight.grad for name, weight in method.named_parameters()}


def same(found: dict[str, Tensor | None], wanted: dict[str, Tensor | None]) -> None:
    """Expect equal gradients."""
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-8, msg=lambda text, name=name: f"{name}: {text}"
        )


def train(
    method: Method, before: Callable[[Batch], None], after: Callable[[float], None], steps: int = 3
) -> None:
    """Take steps of SGD as the trainer does; say each batch before it and progress after it."""
    (phase,) = method.phases
    for step in range(steps):
        progress = step / steps
        given = batch(step, progress=progress)
        before(given)
        terms = method.loss(phase, given)
        found = gradients(method, terms.total)
        with torch.no_grad():
            for name, weight in method.named_parameters():
                weight.sub_(found[name], alpha=0.1)
        method.after_step(phase, terms.carry, progress)
        after(progress)


def m_of(base: float, progress: float, final: float = 1.0) -> float:
    """Return the momentum on its way from `base` to `final`."""
    return final - (final - base) * (math.cos(math.pi * progress) + 1) / 2


class Follower:
    """A momentum encoder as a deep copy, moved by the formula."""

    def __init__(self, *modules: nn.Module) -> None:
        self.live = modules
        self.network = copy.deepcopy(nn.Sequential(*modules))

    @torch.no_grad()
    def __call__(self, view: Tensor) -> Tensor:
        out: Tensor = self.network(view)
        return out

    def expect(self, momentum: MomentumCopy) -> None:
        """Compare weights and statistics."""
        for name, value in self.network.state_dict().items():
            found = momentum.get_buffer(name.replace(".", "/"))
            torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-7, msg=name)

    @torch.no_grad()
    def follow(self, m: float) -> None:
        live = nn.Sequential(*self.live).named_parameters()
        for (_, mine), (_, weight) in zip(self.network.named_parameters(), live, strict=True):
            mine.copy_(m * mine + (1 - m) * weight)


def unit(z: Tensor) -> Tensor:
    """Return rows of length 1."""
    return z / z.norm(dim=1, keepdim=True)


def classify(q: Tensor, candidates: Tensor, tau: float, right: Tensor) -> Tensor:
    """Return the cross-entropy of picking the candidate `right` [n] for every row."""
    return F.cross_entropy(unit(q) @ unit(candidates).T / tau, right)


def pick_first(q: Tensor, k: Tensor, rest: Tensor, tau: float) -> Tensor:
    """Return MoCo's loss: the key against the queue."""
    logits = (
        torch.cat(((unit(q) * unit(k)).sum(1, keepdim=True), unit(q) @ unit(rest).T), dim=1) / tau
    )
    return (logits.logsumexp(1) - logits[:, 0]).mean()
