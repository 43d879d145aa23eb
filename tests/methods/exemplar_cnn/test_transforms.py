"""Exemplar-CNN's patches against a formulation of one pixel at a time in float64."""

from __future__ import annotations

import colorsys
import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from ssgear.errors import ArgumentError
from ssgear.methods.exemplar_cnn.transforms import (
    PatchParams,
    PatchSpec,
    augment_patches,
    principal_components,
    sample_patches,
    transform_patches,
)

PUBLISHED = PatchSpec()
STILL = PatchSpec(
    translation=0, scale=(1, 1), rotation=0, projection=(1, 1), power=(1, 1), factor=(1, 1),
    offset=0, hue=0,
)  # fmt: skip


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth * 255).clamp(0, 255).to(torch.uint8)


def drawn(spec: PatchSpec, count: int, **change) -> PatchParams:
    settings = {"seed": 1, "epoch": 0, "indices": torch.arange(count), "view": 0} | change
    return sample_patches(spec, **settings)


def patches_of(images: torch.Tensor, spec: PatchSpec = PUBLISHED, **change) -> torch.Tensor:
    settings = {"size": 9, "seed": 1, "epoch": 0, "view": 0, "indices": torch.arange(len(images))}
    return augment_patches(images, spec, **settings | change)


def reflected(place: float, side: int) -> float:
    """Fold a coordinate back into the image, whose outer edges are -1/2 and side - 1/2."""
    folded = (place + 0.5) % (2 * side)
    folded = min(folded, 2 * side - folded) - 0.5
    return min(max(folded, 0.0), side - 1.0)


def pixel_at(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Bilinear in float64; image [3, H, W]."""
    height, width = image.shape[1:]
    y, x = reflected(y, height), reflected(x, width)
    top, left = math.floor(y), math.floor(x)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, over = y - top, x - left
    upper = (1 - over) * image[:, top, left] + over * image[:, top, right]
    lower = (1 - over) * image[:, below, left] + over * image[:, below, right]
    return (1 - down) * upper + down * lower


def recoloured(colour: np.ndarray, spec: PatchSpec, params: dict[str, np.ndarray]) -> np.ndarray:
    mean = np.array(spec.mean)
    deviation = colour - mean
    stretched = mean.copy()
    for axis, factor in zip(np.array(spec.components), params["projection"], strict=True):
        stretched += factor * (axis @ deviation) * axis
    red, green, blue = np.clip(stretched, 0, 1)
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    chroma = max(red, green, blue) - min(red, green, blue)
    power, factor, offset = params["power"], params["factor"], params["offset"]
    saturation = np.clip(saturation ** power[0] * factor[0] + offset[0], 0, 1)
    saturation *= min(255 * chroma, 1)
    value = np.clip(value ** power[1] * factor[1] + offset[1], 0, 1)
    return np.array(colorsys.hsv_to_rgb((hue + params["hue"]) % 1, saturation, value))


def one_by_one(image: torch.Tensor, params: dict, spec: PatchSpec, size: int) -> np.ndarray:
    pixels = image.double().numpy() / 255
    height, width = pixels.shape[1:]
    middle = np.array([(height - 1) / 2, (width - 1) / 2])
    patch = np.empty((3, size, size))
    cos, sin = math.cos(params["angle"]), math.sin(params["angle"])
    turn = np.array([[cos, sin], [-sin, cos]])  # of (y, x)
    for row in range(size):
        for column in range(size):
            step = np.array([row, column]) - (size - 1) / 2
            place = middle + size * params["shift"] + params["scale"] * (turn @ step)
            colour = recoloured(pixel_at(pixels, *place), spec, params)
            patch[:, row, column] = (colour - spec.mean) / spec.std
    return patch


def row_of(params: PatchParams, row: int) -> dict[str, np.ndarray]:
    names = [field.name for field in dataclasses.fields(params)]
    return {name: getattr(params, name)[row].double().numpy() for name in names}


@pytest.mark.parametrize(("height", "width", "size"), [(23, 31, 11), (9, 9, 9), (7, 26, 12)])
def test_patches_are_those_of_a_formulation_in_float64(height, width, size):
    """The last sizes reach far beyond the image, which is reflected there."""
    images = pictures(7, height, width)
    params = drawn(PUBLISHED, len(images))
    ours = transform_patches(images, params, PUBLISHED, size=size)
    for row, image in enumerate(images):
        theirs = one_by_one(image, row_of(params, row), PUBLISHED, size)
        np.testing.assert_allclose(ours[row].numpy(), theirs, rtol=0, atol=2e-4)


def test_nothing_to_do_leaves_the_middle():
    images = pictures(4, 21, 15)
    ours = patches_of(images, STILL, size=9)
    mean, std = (torch.tensor(row).view(3, 1, 1) for row in (STILL.mean, STILL.std))
    expected = (images[:, :, 6:15, 3:12] / 255 - mean) / std
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    exact = patches_of(images.float() / 255, STILL, size=9)
    torch.testing.assert_close(exact, ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"shift": [[2 / 8, 1 / 8]]}, lambda image: image[:, 6:14, 5:13]),
        ({"angle": [math.pi / 2]}, lambda image: image[:, 4:12, 4:12].rot90(1, (1, 2))),
        ({"scale": [2.0]}, lambda image: image.unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4))),
    ],
    ids=["moved", "turned", "larger"],
)
def test_each_movement_by_hand(change, expected):
    """Down and right, counterclockwise, and twice the region: the mean of two by two pixels."""
    images = pictures(1, 16, 16)
    params = drawn(STILL, 1)
    params = dataclasses.replace(params, **{k: torch.tensor(v) for k, v in change.items()})
    spec = dataclasses.replace(STILL, mean=(0.0,) * 3, std=(1.0,) * 3)
    ours = transform_patches(images, params, spec, size=8)
    torch.testing.assert_close(ours[0], expected(images[0].float() / 255), rtol=0, atol=1e-5)


def test_grey_stays_grey():
    grey = pictures(5, 20, 20)[:, :1].expand(-1, 3, -1, -1)
    spec = dataclasses.replace(PUBLISHED, mean=(0.4,) * 3, std=(1.0,) * 3, projection=(1.0, 1.0))
    patches = patches_of(grey, spec)
    assert (patches.amax(1) - patches.amin(1)).max() < 1e-4
    assert patches.std() > 0.05


def test_draws_fill_the_published_ranges():
    params = drawn(PUBLISHED, 10_000)

    def fits(values: torch.Tensor, low: float, high: float) -> None:
        assert stats.kstest(values.flatten().double(), "uniform", (low, high - low)).pvalue > 1e-3

    for column in range(2):
        fits(params.shift[:, column], -0.2, 0.2)
        fits(params.power[:, column].log(), math.log(0.25), math.log(4))
        fits(params.factor[:, column].log(), math.log(0.7), math.log(1.4))
        fits(params.offset[:, column], -0.1, 0.1)
    for column in range(3):
        fits(params.projection[:, column].log(), math.log(0.5), math.log(2))
    fits(params.scale.log(), math.log(0.7), math.log(1.4))
    fits(params.angle.rad2deg(), -20, 20)
    fits(params.hue, -0.1, 0.1)
    columns = [getattr(params, field.name) for field in dataclasses.fields(params)]
    together = torch.cat([column.reshape(10_000, -1) for column in columns], dim=1).T
    assert (together.corrcoef() - torch.eye(14)).abs().max() < 0.05, "draws of their own"


def test_seed_epoch_view_and_index_each_matter_and_the_batch_does_not():
    images = pictures(1, 20, 20).expand(6, -1, -1, -1)
    base = patches_of(images)
    assert torch.equal(base, patches_of(images)) and base.dtype == torch.float32
    assert len(base.flatten(1).unique(dim=0)) == 6
    for change in ({"seed": 2}, {"epoch": 1}, {"view": 1}):
        assert ((base - patches_of(images, **change)).abs().amax((1, 2, 3)) > 0.01).all(), change
    some = torch.tensor([4, 1])
    alone = patches_of(images[some], indices=some)
    torch.testing.assert_close(alone, base[some], rtol=0, atol=1e-6)
    assert patches_of(images[:0]).shape == (0, 3, 9, 9)


def test_principal_components_are_those_of_the_covariance():
    images = pictures(6, 17, 13)
    colours = images.double().numpy().transpose(1, 0, 2, 3).reshape(3, -1)
    axes = np.array(principal_components(images))
    projected = axes @ (colours - colours.mean(1, keepdims=True))
    covariance = np.cov(projected)
    assert np.allclose(covariance, np.diag(np.diag(covariance)), atol=1e-6 * covariance[0, 0])
    assert np.all(np.diff(np.diag(covariance)) < 0)
    PatchSpec(components=principal_components(images))


@pytest.mark.parametrize(
    "wrong",
    [
        {"translation": -0.1},
        {"translation": float("nan")},
        {"scale": (1.4, 0.7)},
        {"scale": (0.0, 1.0)},
        {"rotation": 181.0},
        {"projection": (2.0, 0.5)},
        {"power": (0.0, 4.0)},
        {"factor": (1.0, float("inf"))},
        {"offset": 1.5},
        {"hue": 0.6},
        {"components": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))},
        {"components": ((1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))},
        {"std": (0.0, 1.0, 1.0)},
    ],
    ids=str,
)
def test_impossible_values_are_named(wrong):
    (field,) = wrong
    with pytest.raises(ArgumentError, match=rf"^PatchSpec\.{field}: .* is not possible; "):
        PatchSpec(**wrong)


def test_what_it_cannot_take():
    images = pictures(2, 12, 12)
    for given, change, message in (
        (images[:, :1], {}, r"give \[N, 3, H, W\]"),
        (images.int(), {}, "give uint8, or float"),
        (images, {"size": 0}, "at least 1 pixel"),
        (images, {"indices": torch.arange(3)}, "3 indices for 2 images"),
    ):
        with pytest.raises(ArgumentError, match=message):
            patches_of(given, **change)


def test_autocast_changes_no_colour() -> None:
    images = pictures(4, 20, 20) // 64 + 120  # near grey, where saturation is of differences
    with torch.autocast("cpu", torch.bfloat16):
        inside = patches_of(images)
    assert inside.dtype == torch.float32 and torch.equal(inside, patches_of(images))
