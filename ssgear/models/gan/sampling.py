"""Images from a generator by number: image i is a function of (seed, i) and the weights only.

    images = sample(generator, 64, seed=0)                # with `GeneratorEma.applied()` around it
    pixels = sample_uint8(generator, 50_000, seed=0)      # the same as uint8, in blocks

Noise is Philox by (seed, i). The network always runs on blocks of the same size, cut at the same
numbers, because a convolution may round otherwise at another batch size: image i has the same bits
whether 1 or 10000 are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import philox
from ssgear.models.gan.dcgan import DCGANGenerator
from ssgear.models.gan.stylegan2 import StyleGAN2Generator
from ssgear.models.modes import evaluating

Generator = DCGANGenerator | StyleGAN2Generator
BLOCK = 512
"""Images of `sample_uint8` that are there in float32 at a time, a multiple of `sample`'s block."""


def noise(generator: Generator, numbers_N: Tensor, seed: int) -> Tensor:
    """Return the standard normal noise [N, Z], float32, of images `numbers_N` (int64)."""
    key = philox.derive_key(seed, "sample")
    return philox.normal(key, numbers_N, generator.noise_dim)


def to_uint8(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def sample(
    generator: Generator,
    count: int,
    seed: int,
    truncation: float = 1.0,
    *,
    condition: Tensor | None = None,
    start: int = 0,
    batch_size: int = 32,
) -> Tensor:
    """Return the images numbered start, ..., start + count - 1, float32 [count, 3, R, R].

    They are clipped to [-1, 1]. The generator is put into eval mode meanwhile.

    Args:
        generator: Where it is, there it runs.
        count: Number of images, at least 0.
        seed: Seed of the noise.
        truncation: Share psi of the styles' distance to their average that is kept; StyleGAN2 only.
        condition: Labels int64 [count] or vectors [count, size] for these images.
        start: Number of the first image.
        batch_size: Images in a block. Another one may change the last bits of an image.

    Raises:
        ArgumentError: For numbers out of range, a condition that is missing or of another shape,
            and truncation of a generator without styles.
    """
    _check(generator, count, start, batch_size, truncation)
    generator.config.condition.check(condition, count)
    weight = next(generator.parameters())
    device = weight.device
    first = start // batch_size * batch_size
    blocks = [torch.zeros(0, 3, generator.resolution, generator.resolution, device=device)]
    with evaluating(generator):
        for begin in range(first, start + count if count else first, batch_size):
            numbers = torch.arange(begin, begin + batch_size)
            wanted = (numbers >= start) & (numbers < start + count)
            rows = (numbers - start).clamp(0, count - 1)  # what is not wanted takes any condition
            chosen = None if condition is None else condition[rows.to(condition.device)].to(device)
            inputs = noise(generator, numbers, seed).to(weight)
            blocks.append(_images(generator, inputs, chosen, truncation)[wanted.to(device)])
    return torch.cat(blocks)


@torch.no_grad()
def sample_uint8(
    generator: Generator,
    count: int,
    seed: int,
    *,
    condition: Callable[[slice], Tensor | None] | None = None,
) -> Tensor:
    """Return the images numbered 0, ..., count - 1 as uint8 [count, 3, R, R] on the CPU.

    They are those of `sample`, to the bit. No more than `BLOCK` of them, and of their conditions,
    are there in float32 at a time. `condition` returns that of some rows.
    """
    pixels = torch.empty(count, 3, generator.resolution, generator.resolution, dtype=torch.uint8)
    for start in range(0, count, BLOCK):
        rows = slice(start, min(start + BLOCK, count))
        given = None if condition is None else condition(rows)
        size = rows.stop - start
        pixels[rows] = to_uint8(sample(generator, size, seed, condition=given, start=start)).cpu()
    return pixels


@torch.no_grad()
def render(
    generator: Generator,
    noise_NZ: Tensor,
    condition: Tensor | None = None,
    truncation: float = 1.0,
) -> Tensor:
    """Return the images of some noise, float32 [N, 3, R, R], clipped to [-1, 1].

    The generator is put into eval mode meanwhile.
    """
    _check_truncation(generator, truncation)
    with evaluating(generator):
        return _images(generator, noise_NZ, condition, truncation)


def _images(
    generator: Generator, inputs: Tensor, condition: Tensor | None, truncation: float
) -> Tensor:
    if isinstance(generator, StyleGAN2Generator):
        images = generator(inputs, condition, truncation=truncation)
    else:
        images = generator(inputs, condition)
    clipped: Tensor = images.float().clamp(-1, 1)
    return clipped


def _check(
    generator: Generator, count: int, start: int, batch_size: int, truncation: float
) -> None:
    if count < 0 or start < 0 or batch_size < 1:
        raise ArgumentError(
            f"count={count}, start={start}, batch_size={batch_size}: expected count and start "
            "of at least 0, batch_size of at least 1"
        )
    _check_truncation(generator, truncation)


def _check_truncation(generator: Generator, truncation: float) -> None:
    if truncation != 1 and not isinstance(generator, StyleGAN2Generator):
        raise ArgumentError(f"truncation={truncation}: a DCGAN has no styles; leave it at 1")
