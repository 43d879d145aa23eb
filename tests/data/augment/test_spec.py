"""The named specifications, and what none may say."""

from __future__ import annotations

import dataclasses

import pytest

from ssgear.data.augment.spec import AugmentSpec, spread, view_set
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


PUBLISHED = {
    # crop, (brightness, contrast, saturation, hue), blur, solarise, interpolation
    "moco-v2": [((0.2, 1.0), (0.4, 0.4, 0.4, 0.1), 0.5, 0.0, "bilinear")],
    "byol": [
        ((0.08, 1.0), (0.4, 0.4, 0.2, 0.1), 1.0, 0.0, "bicubic"),
        ((0.08, 1.0), (0.4, 0.4, 0.2, 0.1), 0.1, 0.2, "bicubic"),
    ],
    "swav-multicrop": [((0.14, 1.0), (0.8, 0.8, 0.8, 0.2), 0.5, 0.0, "bilinear")] * 2
    + [((0.05, 0.14), (0.8, 0.8, 0.8, 0.2), 0.5, 0.0, "bilinear")] * 6,
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_sets_have_the_published_figures(name):
    """What all of them share is flips, jitter of 80 %, grey of 20 %, sigma 0.1 to 2."""
    found = [
        (spec.crop_scale, spec.strengths, spec.blur, spec.solarise, spec.interpolation)
        for spec in view_set(name)
    ]
    assert found == PUBLISHED[name]
    for spec in view_set(name):
        assert (spec.flip, spec.jitter, spec.grey) == (0.5, 0.8, 0.2)
        assert (spec.blur_sigma, spec.solarise_threshold) == ((0.1, 2.0), 0.5)
        assert spec.mean == (0.485, 0.456, 0.406) and spec.policy is None


def test_the_other_sets():
    assert view_set("barlow") == view_set("byol")
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    expected = (
        dataclasses.replace(each, blur=0.0, mean=mean, std=std) for each in view_set("byol")
    )
    assert view_set("byol-cifar") == tuple(expected)
    (crop,) = view_set("crop-only")
    assert crop == AugmentSpec(crop_scale=(0.08, 1.0), flip=0.5)
    (auto,), (cifar,) = view_set("autoaugment"), view_set("autoaugment-cifar")
    assert (auto.policy, cifar.policy, cifar.mean) == (
        "imagenet",
        "cifar10",
        (0.4914, 0.4822, 0.4465),
    )
    assert dataclasses.replace(auto, policy=None, interpolation="bicubic") == crop
    assert view_set("none") == (AugmentSpec(),)


def test_small_crops_keep_their_proportion():
    large, small = view_set("swav-multicrop")[0], view_set("swav-multicrop")[-1]
    assert [large.side(size) for size in (224, 32)] == [224, 32]
    assert [small.side(size) for size in (224, 96, 64, 32, 8, 2)] == [96, 41, 27, 14, 3, 1]
    with pytest.raises(ArgumentError, match=r"^AugmentSpec\.size_share: 0\.428571 of 1 pixels"):
        small.side(1)


def test_a_set_is_spread_over_the_views_of_a_method():
    one, pair = view_set("simclr"), view_set("byol")
    assert spread(one, 3) == one * 3 and spread(pair, 2) == pair
    for views, count in ((pair, 4), (view_set("swav-multicrop"), 2)):
        with pytest.raises(ConfigError, match=r"^--data\.augmentation: this set has") as caught:
            spread(views, count)
        assert f"{len(views)} views and the method takes {count}; use" in str(caught.value)
    with pytest.raises(ArgumentError, match=r"byol has 2 views that differ; use view_set"):
        AugmentSpec.named("byol")


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
        {"size_share": 0.0},
        {"size_share": 4.5},
        {"policy": "svhn"},
        {"solarise_threshold": 2.0},
        {"interpolation": "nearest"},
        {"std": (1.0, 1.0, 0.0)},
        {"std": (1.0, float("nan"), 1.0)},
        {"mean": (0.5, 0.5, float("inf"))},
        {"mean": (0.5, 0.5)},
    ],
    ids=str,
)
def test_impossible_values_are_named(wrong):
    (field,) = wrong
    with pytest.raises(ArgumentError, match=rf"^AugmentSpec\.{field}: .* is not possible; "):
        AugmentSpec(**wrong)
