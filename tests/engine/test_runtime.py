"""What a group's optimiser takes from the run's settings, and what it does with gradients."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssgear.config import cli
from ssgear.config.schema import OptimConfig
from ssgear.distributed import World
from ssgear.engine.build import prepare
from ssgear.engine.runtime import TorchRuntime, optimizer_of
from ssgear.methods.base import Group, Phase
from ssgear.optim import build_optimizer
from tests.engine.training import SMALL


def test_lars_takes_trust_and_clipping_from_the_settings() -> None:
    group = Group("encoder", {"encoder": nn.Linear(3, 2)})
    default = optimizer_of(group, OptimConfig(name="lars")).param_groups
    assert [(g["eta"], g["clip"]) for g in default] == [(0.02, True)] * 2
    settings = OptimConfig(name="lars", lars_eta=0.001, lars_clip=False)
    published = optimizer_of(group, settings).param_groups
    assert [(g["eta"], g["clip"]) for g in published] == [(0.001, False)] * 2


def test_a_gradient_in_another_memory_order_moves_the_same_weights(tmp_path: Path) -> None:
    moved = []
    for order in (torch.channels_last, torch.contiguous_format):
        run = prepare(cli.parse([*SMALL, "--output", str(tmp_path / str(order))]))
        encoder, (phase,) = run.method.encoder, run.method.phases
        encoder(torch.rand(4, 3, 32, 32)).square().sum().backward()
        weights = {name: p for name, p in encoder.named_parameters() if p.ndim == 4}
        assert not all(p.is_contiguous() for p in weights.values())
        for weight in weights.values():
            assert weight.grad is not None
            weight.grad = weight.grad.contiguous(memory_format=order)
        run.runtime.schedule(phase, 10, 100, 0)
        assert run.runtime.step(phase)
        run.log.close()
        moved.append(weights)
    for name, weight in moved[0].items():
        torch.testing.assert_close(moved[1][name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_weights_that_a_loss_reaches_late_have_had_gradients_of_zero(name: str) -> None:
    first, second = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)
    group = Group("encoder", {"first": first, "second": second})
    settings = OptimConfig(name=name, lr=0.1, weight_decay=0.3)
    other = [nn.Parameter(part.weight.detach().clone()) for part in (first, second)]
    reference = build_optimizer(
        [("first", other[0]), ("second", other[1])],
        name=name,
        lr=0.1,
        weight_decay=0.3,
        momentum=settings.momentum,
    )
    runtime = TorchRuntime(SimpleNamespace(groups=(group,)), settings, World())  # type: ignore[arg-type]
    phase = Phase(name="encoder", group="encoder")
    for seen in (0, 0, 1, 0):  # the loss sees one of them at a time
        runtime.backward(phase, (first, second)[seen](torch.ones(1, 3)).square().sum())
        assert runtime.step(phase)
        (torch.ones(1, 3) @ other[seen].T).square().sum().backward()
        other[1 - seen].grad = torch.zeros(2, 3)
        reference.step()
        reference.zero_grad()
    torch.testing.assert_close(first.weight, other[0])
    torch.testing.assert_close(second.weight, other[1])
