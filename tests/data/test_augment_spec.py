"""The named specifications, and what none may say."""

from __future__ import annotations

import dataclasses

import pytest

from ssgear.data.augment import AugmentSpec
from ssgear.errors import ArgumentError, ConfigError


def test_simclr_is_the_published_set():
    spec = AugmentSpec.named("simclr")
    assert spec.crop_scale == (0.08, 1.0) and spec.crop_ratio == (3 / 4, 4 / 3)
    assert (spec.flip, spec.jitter, spec.grey, spec.blur, spec.solarise) == (0.5, 0.8, 0.2, 0.5, 0)
    assert spec.strengths == (0.8, 0.8, 0.8, 0.2)
    assert spec.blur_sigma == (0.1, 2.0)
    assert [2 * spec.blur_radius(size) + 1 for size in (8, 32, 64, 96, 224)] == [3, 3, 7, 9, 23]


def test_cifar_has_half_the_colour_and_no_blur():
    spec = AugmentSpec.named("simclr-cifar")
    assert spec.strengths == (0.4, 0.4, 0.4, 0.1) and spec.blur == 0
    assert dataclasses.replace(
        spec,
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        blur=0.5,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ) == AugmentSpec.named("simclr")


def test_an_unknown_name_says_the_option_and_the_nearest():
    with pytest.raises(ConfigError) as caught:
        AugmentSpec.named("simclr-cifra")
    message = str(caught.value)
    assert message.startswith("--data.augmentation: 'simclr-cifra'")
    assert "did you mean simclr-cifar?" in message and "\n" not in message


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.5},
        {"grey": -0.1},
        {"blur": float("nan")},
        {"brightness": -1.0},
        {"hue": 0.6},
        {"crop_scale": (0.5, 0.1)},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.5, 1.5)},
        {"crop_ratio": (4 / 3, 3 / 4)},
        {"blur_sigma": (0.0, 1.0)},
        {"blur_share": 0.0},
        {"solarise_threshold": 2.0},
        {"interpolation": "nearest"},
        {"std": (1.0, 1.0, 0.0)},
        {"mean": (0.5, 0.5)},
    ],
    ids=str,
)
def test_impossible_values_are_named(wrong):
    (field,) = wrong
    with pytest.raises(ArgumentError, match=rf"^AugmentSpec\.{field}: .* is not possible; "):
        AugmentSpec(**wrong)
