"""The average of a generator: its rate, its ramp, its buffers, and taking its place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssgear.errors import ConfigError
from ssgear.models.gan.generator_ema import GeneratorEma
from ssgear.models.gan.sampling import sample
from ssgear.models.gan.stylegan2 import StyleGAN2Generator
from ssgear.models.gan.stylegan2_config import StyleGAN2Config


def test_average_forgets_half_in_a_half_life() -> None:
    module = nn.Linear(3, 2)
    ema = GeneratorEma(module, half_life=640, ramp=None)
    start = module.weight.detach().clone()
    with torch.no_grad():
        module.weight.zero_()
    for step in range(10):
        ema.update(64, step * 64)
    torch.testing.assert_close(ema.average()["weight"], start / 2)
    torch.testing.assert_close(ema.average()["bias"], module.bias)


def test_ramp() -> None:
    ema = GeneratorEma(nn.Linear(3, 2))
    assert ema.decay(64, 0) == 0
    assert ema.decay(64, 64_000) == pytest.approx(0.5 ** (64 / 3200))
    assert ema.decay(64, 10_000_000) == ema.decay(64, 99_000_000) == 0.5 ** (64 / 500_000)
    with torch.no_grad():
        ema.weights["bias"].fill_(3)
    ema.update(64, 0)
    assert (ema.average()["bias"] == 3).all()


def test_average_is_in_buffers_and_is_applied_and_taken_back() -> None:
    generator = StyleGAN2Generator(StyleGAN2Config(resolution=8, noise_dim=7, max_width=5))
    ema = GeneratorEma(generator)
    live = {name: weight.detach().clone() for name, weight in generator.named_parameters()}
    before = sample(generator, 2, 0)
    with torch.no_grad():
        for weight in generator.parameters():
            weight.mul_(1.5)
    after = sample(generator, 2, 0)
    with ema.applied():
        assert torch.equal(sample(generator, 2, 0), before)
    assert torch.equal(sample(generator, 2, 0), after)
    assert not list(ema.parameters()) and len(dict(ema.named_buffers())) == len(live)
    other = GeneratorEma(generator)
    other.load_state_dict(ema.state_dict())
    for name, value in other.average().items():
        assert torch.equal(value, live[name])


@pytest.mark.parametrize("settings", [{"half_life": 0.0}, {"ramp": 0.0}, {"half_life": -1.0}])
def test_bad_averages(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        GeneratorEma(nn.Linear(1, 1), **settings)
