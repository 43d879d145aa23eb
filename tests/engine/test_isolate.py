from __future__ import annotations

import torch
from torch import nn

from ssgear.engine.isolate import frozen_statistics, only
from ssgear.methods.base import Group
from ssgear.optim import Ema


def test_only_sends_gradients_to_one_group_and_through_the_other() -> None:
    first, second = Group("a", {"m": nn.Linear(3, 3)}), Group("b", {"m": nn.Linear(3, 1)})
    x = torch.randn(5, 3)
    with only(first, (first, second)):
        second.parts["m"](first.parts["m"](x)).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in first.parameters())
    assert all(p.grad is None and p.requires_grad for p in second.parameters())


def test_frozen_statistics_use_the_batch_and_update_nothing() -> None:
    norm = nn.BatchNorm1d(4)
    x = torch.randn(16, 4) * 3 + 1
    with frozen_statistics(norm):
        frozen = norm(x)
    assert torch.equal(norm.running_mean, torch.zeros(4)) and norm.num_batches_tracked == 0
    assert torch.equal(frozen, norm(x))
    assert norm.num_batches_tracked == 1


def test_ema_follows_its_formula_and_is_put_back() -> None:
    module = nn.Linear(2, 2)
    average = Ema(module, 0.9)
    expected = module.weight.detach().double().clone()
    for _ in range(5):
        with torch.no_grad():
            module.weight += torch.randn(2, 2)
        average.update()
        expected = 0.9 * expected + 0.1 * module.weight.detach().double()
    live = module.weight.detach().clone()
    with average.applied():
        torch.testing.assert_close(module.weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(module.weight, live)
