"""DiffAugment against pixel loops, slices of padded images and counted draws; what all share.

The fixtures draw by name as `Batch.draw` does; one test uses that itself.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from ssgear.data.loaders.batch import Batch
from ssgear.errors import ArgumentError, ConfigError
from ssgear.models.gan.critic_augment import (
    Ada,
    CriticAugment,
    DiffAugment,
    Draw,
    NoAugment,
    build_critic_augment,
)

CHANGERS = pytest.mark.parametrize(
    "augment", [DiffAugment(), Ada(p=0.7)], ids=["diffaugment", "ada"]
)


def images_of(rows: int, side: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(rows, 3, side, side, generator=generator) * 2 - 1).to(dtype)


def keyed(rows: int, seed: int = 0) -> Draw:
    """Draws that depend on nothing but the seed and the name."""

    def draw(name: str, shape: Sequence[int]) -> Tensor:
        generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
        return torch.rand(rows, *shape, generator=generator)

    return draw


def cut(draw: Draw, rows: slice) -> Draw:
    return lambda name, shape: draw(name, shape)[rows]


def by_hand(draws: Sequence[Sequence[float]]) -> Draw:
    return lambda name, shape: torch.tensor(draws, dtype=torch.float32)


def level(number: int, count: int) -> float:
    """A draw in the middle of those that stand for `number` of `count`."""
    return (number + 0.5) / count


def batch_of(rows: int, step: int = 0) -> Batch:
    place = torch.arange(rows)
    return Batch(views=[], index=place, position=place, step=step, seed=3, phase="critic")


# DiffAugment


def test_draws_of_one_half_change_nothing_but_a_hole() -> None:
    images = images_of(2, 7)
    half: Draw = lambda name, shape: torch.full((2, *shape), 0.5)  # noqa: E731
    assert torch.equal(DiffAugment(("color", "translation"))(images, half), images)
    changed = DiffAugment()(images, half)
    assert torch.equal(changed, DiffAugment(("cutout",))(images, half))
    assert (changed == 0).sum() == 2 * 3 * 4 * 4  # int(7 / 2 + 0.5)


def test_color_equals_a_loop_over_pixels() -> None:
    images = images_of(3, 5, torch.float64)
    draws = [[0.5, 0.5, 0.5], [0.9, 0.2, 0.7], [0.0, 0.95, 0.05]]
    changed = DiffAugment(("color",))(images, by_hand(draws))
    for image, row, mine in zip(
        images.tolist(), torch.tensor(draws).tolist(), changed, strict=True
    ):
        brightness, saturation, contrast = row[0] - 0.5, 2 * row[1], row[2] + 0.5
        pixels = [[c + brightness for c in rgb] for rgb in zip(*map(flat, image), strict=True)]
        for rgb in pixels:
            grey = sum(rgb) / 3
            rgb[:] = [grey + saturation * (c - grey) for c in rgb]
        mean = sum(map(sum, pixels)) / (3 * len(pixels))
        plain = torch.tensor([[mean + contrast * (c - mean) for c in rgb] for rgb in pixels])
        torch.testing.assert_close(mine.flatten(1).T, plain.double(), atol=1e-6, rtol=0)


def flat(rows: list[list[float]]) -> list[float]:
    return list(itertools.chain.from_iterable(rows))


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """Pad by zeros on every side and cut out."""
    side, pad = image.shape[-1], max(abs(down), abs(right))
    wide = F.pad(image, (pad, pad, pad, pad))
    return wide[..., pad - down : pad - down + side, pad - right : pad - right + side]


@pytest.mark.parametrize(("side", "most"), [(9, 1), (11, 1), (12, 2), (4, 1), (20, 3), (32, 4)])
def test_translation_equals_a_slice_of_the_padded_image(side: int, most: int) -> None:
    count = 2 * most + 1
    shifts = list(itertools.product(range(-most, most + 1), repeat=2))
    images = images_of(len(shifts), side)
    draws = [[level(down + most, count), level(right + most, count)] for down, right in shifts]
    changed = DiffAugment(("translation",))(images, by_hand(draws))
    for (down, right), image, mine in zip(shifts, images, changed, strict=True):
        assert torch.equal(mine, shifted(image, down, right)), (down, right)


@pytest.mark.parametrize("side", [5, 6, 7, 8])
def test_cutout_equals_a_hole_cut_by_hand(side: int) -> None:
    hole = int(side / 2 + 0.5)
    places = side + 1 if hole % 2 == 0 else side  # what randint chooses from
    centres = list(itertools.product(range(places), repeat=2))
    images = images_of(len(centres), side) + 3  # nothing is 0 by itself
    draws = [[level(y, places), level(x, places)] for y, x in centres]
    changed = DiffAugment(("cutout",))(images, by_hand(draws))
    for (y, x), image, mine in zip(centres, images, changed, strict=True):
        plain = image.clone()
        top, left = y - hole // 2, x - hole // 2
        plain[:, max(top, 0) : top + hole, max(left, 0) : left + hole] = 0
        assert torch.equal(mine, plain), (y, x)


@pytest.mark.parametrize("extreme", [0.0, 1 - 2.0**-24])
def test_the_outermost_draws_stay_within_the_limits(extreme: float) -> None:
    images = images_of(1, 32) + 3
    draw = by_hand([[extreme] * 2])
    sign = -1 if extreme == 0 else 1
    moved = DiffAugment(("translation",))(images, draw)
    assert torch.equal(moved, shifted(images, 4 * sign, 4 * sign))
    assert (DiffAugment(("cutout",))(images, draw) == 0).sum() == 3 * 8 * 8


def test_strengths_are_uniform_within_their_limits() -> None:
    rows = 20_000
    ramp = torch.linspace(-1, 1, 8).expand(rows, 3, 8, 8)
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(rows, 3, 1, 1)

    def spread(values: Tensor) -> tuple[float, float]:
        return float(values.min()), float(values.max())

    draw = keyed(rows)
    changed = DiffAugment(("color",))(ramp, draw)
    brightness = changed.mean(dim=(1, 2, 3))
    contrast = changed.std(dim=(1, 2, 3)) / ramp[0].std()
    changed = DiffAugment(("color",))(red, draw)
    saturation = (changed[:, 0] - changed[:, 1])[:, 0, 0] / contrast
    for values, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0, 2)):
        seen = spread(values)
        assert seen == pytest.approx((low, high), abs=2e-3), seen
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.02)
        assert float(values.std()) == pytest.approx((high - low) / 12**0.5, abs=0.01)


def test_policies_are_done_in_the_order_given() -> None:
    images, draw = images_of(4, 8), keyed(4)
    one, other = DiffAugment(("cutout", "color")), DiffAugment(("color", "cutout"))
    by_steps = DiffAugment(("color",))(DiffAugment(("cutout",))(images, draw), draw)
    assert torch.equal(one(images, draw), by_steps)
    assert not torch.equal(other(images, draw), by_steps)


# what all augmentations share


@CHANGERS
def test_the_name_decides_the_changes(augment: CriticAugment) -> None:
    images, draw = images_of(9, 7), batch_of(9).draw
    first = augment(images, draw, name="real")
    assert torch.equal(augment(images, draw, name="real"), first)
    assert not torch.equal(augment(images, draw, name="fake"), first)
    assert not torch.equal(augment(images, batch_of(9, step=1).draw, name="real"), first)


@CHANGERS
def test_pairs_share_their_draws_only_if_asked(augment: CriticAugment) -> None:
    images, draw = images_of(9, 7), keyed(9)
    one, other = augment.pair(images, images, draw, same=True)
    assert torch.equal(one, other)
    one, other = augment.pair(images, images, draw)
    assert not torch.equal(one, other)
    assert torch.equal(one, augment(images, draw, name="critic_augment.real"))
    assert torch.equal(other, augment(images, draw, name="critic_augment.fake"))


@CHANGERS
def test_a_row_does_not_depend_on_the_others(augment: CriticAugment) -> None:
    images, batch = images_of(6, 9), batch_of(6)
    together = augment(images, batch.draw)
    for row in range(6):
        part = slice(row, row + 1)
        alone = augment(images[part], batch.rows(part).draw)
        torch.testing.assert_close(alone, together[part], atol=1e-6, rtol=0)


@CHANGERS
@pytest.mark.parametrize("row", [0, 1])
def test_first_and_second_derivatives(augment: CriticAugment, row: int) -> None:
    draw = cut(keyed(2), slice(row, row + 1))
    images = images_of(1, 4, torch.float64).requires_grad_()

    def squared(given: Tensor) -> Tensor:
        return augment(given, draw).square()  # a linear map alone has no second derivative

    assert gradcheck(squared, (images,))
    assert gradgradcheck(squared, (images,))


@CHANGERS
def test_gradients_reach_every_synthetic_image(augment: CriticAugment) -> None:
    images = images_of(9, 7).requires_grad_()
    (gradient,) = torch.autograd.grad(augment(images, keyed(9)).square().sum(), images)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().sum(dim=1) > 0).all()


@CHANGERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_costs_no_precision(augment: CriticAugment, dtype: torch.dtype) -> None:
    images, draw = images_of(9, 31).to(dtype), keyed(9)
    exact = augment(images.double(), draw)
    with torch.autocast("cpu", torch.bfloat16):
        changed = augment(images, draw)
    assert changed.dtype == dtype
    tolerance = 1e-4 if dtype == torch.float32 else 2.0**-8
    torch.testing.assert_close(changed.double(), exact, atol=tolerance, rtol=tolerance)


@CHANGERS
def test_no_images_are_no_error(augment: CriticAugment) -> None:
    assert augment(images_of(0, 5), keyed(0)).shape == (0, 3, 5, 5)


@CHANGERS
@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 1, 8, 8),
        torch.zeros(2, 3, 8, 7),
        torch.zeros(3, 8, 8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
    ],
    ids=["grey", "not square", "no batch", "whole numbers"],
)
def test_images_of_another_shape_are_refused(augment: CriticAugment, images: Tensor) -> None:
    with pytest.raises(ArgumentError, match=r"images: .*expected floating-point \[N, 3, R, R\]"):
        augment(images, keyed(2))


@CHANGERS
@pytest.mark.parametrize("wrong", [lambda shape: (1, *shape), lambda shape: (2, *shape, 1)])
def test_draws_of_another_shape_are_refused(
    augment: CriticAugment, wrong: Callable[[Sequence[int]], tuple[int, ...]]
) -> None:
    with pytest.raises(ArgumentError, match=r"draw\('real\.\w+', \(\d+,\)\).*for 2 images"):
        augment(images_of(2, 5), lambda name, shape: torch.rand(wrong(shape)), name="real")


def test_build() -> None:
    assert isinstance(build_critic_augment("none"), NoAugment)
    assert build_critic_augment("diffaugment").policies == ("color", "translation", "cutout")
    assert build_critic_augment("ada", ("color", "blit")).policies == ("color", "blit")
    images = images_of(2, 5)
    assert build_critic_augment("none")(images, keyed(2)) is images


@pytest.mark.parametrize(
    ("name", "policies", "message"),
    [
        ("diffaugmnt", None, r"'diffaugmnt' \(did you mean diffaugment\?\); known: none, "),
        ("diffaugment", ("colour",), r"policy of DiffAugment 'colour' \(did you mean color\?\)"),
        ("ada", ("translation",), r"policy of Ada 'translation'; known: blit, geom, color"),
        ("none", ("color",), r"policy of NoAugment 'color'"),
        ("ada", ("geom", "blit", "geom"), r"policy 'geom' of Ada is given twice"),
    ],
)
def test_wrong_names_are_refused(name: str, policies: Sequence[str] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_critic_augment(name, policies)
