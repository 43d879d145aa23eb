"""Momentum copies: the update by hand, batch statistics of their own, buffers, both modes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from ssgear.errors import ConfigError
from ssgear.models.momentum import MomentumCopy, momentum_at


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3))


def test_weights_after_three_steps_are_those_of_the_formula() -> None:
    module = network()
    momentum = MomentumCopy(module, base=0.9)
    expected = {name: weight.detach().double() for name, weight in module.named_parameters()}
    for step in range(3):
        with torch.no_grad():
            for weight in module.parameters():
                weight.add_(torch.randn_like(weight))
        momentum.update(step / 3)
        m = 1 - 0.1 * (1 + math.cos(math.pi * step / 3)) / 2
        for name, weight in module.named_parameters():
            expected[name] = m * expected[name] + (1 - m) * weight.detach().double()
    for name, weight in momentum.weights().items():
        torch.testing.assert_close(weight.double(), expected[name], rtol=1e-6, atol=1e-6)


def test_schedule() -> None:
    assert momentum_at(0.99, 1.0, 0.0) == pytest.approx(0.99)
    assert momentum_at(0.99, 1.0, 0.5) == pytest.approx(0.995)
    assert momentum_at(0.99, 1.0, 1.0) == momentum_at(0.99, 1.0, 1.2) == 1.0
    assert momentum_at(0.99, 0.999, 1.0) == pytest.approx(0.999)
    assert momentum_at(0.99, 0.99, 0.7) == 0.99


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_impossible_momentum(value: float) -> None:
    with pytest.raises(ConfigError, match=r"--method\.momentum: .* use a value in \[0, 1\]"):
        MomentumCopy(network(), base=value)
    with pytest.raises(ConfigError, match=r"--method\.final-momentum: .* use a value in"):
        MomentumCopy(network(), final=value)


def test_it_computes_what_a_deep_copy_would_and_leaves_the_network_alone() -> None:
    module = network()
    momentum, twin = MomentumCopy(module), copy.deepcopy(module)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.7)
    before = copy.deepcopy(module.state_dict())
    for training in (True, True, False):
        module.train(training)
        twin.train(training)
        x, y = torch.randn(2, 6, 5)
        out = momentum(x, y)
        for got, view in zip(out, (x, y), strict=True):
            assert not got.requires_grad
            torch.testing.assert_close(got, twin(view).detach())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    # its running statistics are of its own passes
    for name, value in twin.named_buffers():
        torch.testing.assert_close(momentum.get_buffer(name.replace(".", "/")), value)
    assert momentum.get_buffer("1/num_batches_tracked") == 4


def test_a_compiled_network_is_called_with_the_weights_that_follow() -> None:
    module = network()
    momentum, twin = MomentumCopy(module), copy.deepcopy(module)
    module.compile(backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.7)
    for _ in range(2):
        x = torch.randn(6, 5)
        module(x).sum().backward()
        torch.testing.assert_close(momentum(x)[0], twin(x).detach())
    for name, value in twin.named_buffers():
        torch.testing.assert_close(momentum.get_buffer(name.replace(".", "/")), value)


def test_everything_is_in_float32_buffers() -> None:
    module = network().to(torch.bfloat16)
    momentum = MomentumCopy(module)
    assert not list(momentum.parameters()) and not list(momentum.children())
    weights = momentum.weights()
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert len(dict(momentum.named_buffers())) == len(list(module.parameters())) + 3
    # small steps do not vanish, as they would in bfloat16
    with torch.no_grad():
        module[0].weight.fill_(1.0)
        weights["0.weight"].zero_()
    MomentumCopy.update(momentum, 0.0)
    torch.testing.assert_close(weights["0.weight"], torch.full((7, 5), 0.01))


def test_a_copy_inside_a_module_moves_and_is_saved_with_it() -> None:
    holder = nn.Module()
    holder.network = network()
    holder.momentum = MomentumCopy(holder.network)
    assert sum(name.startswith("momentum.") for name, _ in holder.named_buffers()) == 8
    other = copy.deepcopy(holder)
    with torch.no_grad():
        other.network[0].weight.zero_()
    other.momentum.update(0.0)
    assert torch.equal(holder.momentum.get_buffer("0/weight"), holder.network[0].weight)
    torch.testing.assert_close(
        other.momentum.get_buffer("0/weight"), holder.network[0].weight.detach() * 0.99
    )
