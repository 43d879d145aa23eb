"""Image i is a function of (seed, i), to the bit at one block size, and samples change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.models.gan import sampling
from ssgear.models.gan.conditions import UNCONDITIONAL, Condition
from ssgear.models.gan.dcgan import DCGANConfig, DCGANGenerator
from ssgear.models.gan.sampling import Generator, noise, sample, sample_uint8, to_uint8
from ssgear.models.gan.stylegan2 import StyleGAN2Generator
from ssgear.models.gan.stylegan2_config import StyleGAN2Config

LABELS = Condition(kind="label", size=5)


def stylegan2(condition: Condition = UNCONDITIONAL) -> StyleGAN2Generator:
    torch.manual_seed(0)
    settings = StyleGAN2Config(
        resolution=16, condition=condition, noise_dim=7, style_dim=6, mapping_layers=2, max_width=5
    )
    generator = StyleGAN2Generator(settings)
    generator.track(torch.randn(6), decay=0.0)
    return generator


def dcgan(condition: Condition = UNCONDITIONAL) -> DCGANGenerator:
    torch.manual_seed(0)
    settings = DCGANConfig(resolution=16, condition=condition, noise_dim=7, generator_width=5)
    generator = DCGANGenerator(settings)
    for _ in range(3):
        generator(torch.randn(9, 7), None if not condition else torch.zeros(9).long())
    return generator


@pytest.mark.parametrize("build", [stylegan2, dcgan])
def test_image_i_depends_on_the_seed_and_i_only(build: Callable[..., Generator]) -> None:
    generator = build(LABELS)
    labels = torch.arange(23) % 5
    every = sample(generator, 23, 3, condition=labels, batch_size=8)
    assert every.shape == (23, 3, 16, 16) and every.abs().max() <= 1
    for start, count in ((0, 1), (5, 9), (22, 1), (8, 8)):
        part = slice(start, start + count)
        some = sample(generator, count, 3, condition=labels[part], start=start, batch_size=8)
        assert torch.equal(some, every[part]), (start, count)
    for batch_size in (1, 5, 64):
        other = sample(generator, 23, 3, condition=labels, batch_size=batch_size)
        torch.testing.assert_close(other, every, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(sample(generator, 1, 4, condition=labels[:1]), every[:1])
    assert sample(generator, 0, 3, condition=labels[:0], start=5).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("build", [stylegan2, dcgan])
def test_uint8_images_are_made_block_by_block(
    build: Callable[..., Generator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits of all at once, while no call of `sample` is asked for more than a block."""
    monkeypatch.setattr(sampling, "BLOCK", 64)
    asked: list[tuple[int, int]] = []

    def watched(generator: Generator, count: int, seed: int, **rest: Any) -> Tensor:
        asked.append((rest["start"], count))
        return sample(generator, count, seed, **rest)

    monkeypatch.setattr(sampling, "sample", watched)
    generator, labels = build(LABELS), torch.arange(150) % 5
    made = sample_uint8(generator, 150, 3, condition=labels.__getitem__)
    assert asked == [(0, 64), (64, 64), (128, 22)]
    assert torch.equal(made, to_uint8(sample(generator, 150, 3, condition=labels)))
    assert sample_uint8(generator, 0, 3).shape == (0, 3, 16, 16)


def test_images_are_those_of_the_noise() -> None:
    generator = stylegan2()
    drawn = noise(generator, torch.arange(3, 7), 11)
    expected = generator(drawn, truncation=0.7).clamp(-1, 1)
    torch.testing.assert_close(sample(generator, 4, 11, 0.7, start=3), expected)
    assert not torch.allclose(sample(generator, 4, 11, start=3), expected)


@pytest.mark.parametrize("training", [True, False])
def test_sampling_leaves_the_generator_as_it_was(training: bool) -> None:
    generator = dcgan().train(training)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    state = torch.get_rng_state()
    images = sample(generator, 3, 0)
    assert generator.training is training and not images.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample(stylegan2(), -1, 0), "count=-1"),
        (lambda: sample(stylegan2(), 1, 0, batch_size=0), "batch_size=0"),
        (lambda: sample(dcgan(), 1, 0, 0.7), "truncation=0.7: a DCGAN has no styles"),
        (lambda: sample(stylegan2(LABELS), 3, 0), "condition is missing"),
        (lambda: sample(stylegan2(LABELS), 3, 0, condition=torch.zeros(2).long()), "N = 3"),
        (lambda: sample(dcgan(), 1, 0, condition=torch.zeros(1).long()), "unexpected"),
    ],
)
def test_bad_arguments(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call()
