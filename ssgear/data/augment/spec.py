"""What is done to a view, with which probabilities and ranges: `AugmentSpec`, and named sets.

A specification holds no randomness and no tensors; `views.py` draws from it and carries it out.
The order of the operations is fixed: crop, flip, AutoAugment's policy, colour jitter, grey, blur,
solarise, normalise. A *set* is what `--data.augmentation` names: one specification
where all views are made alike, else one for each view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from ssgear.errors import ArgumentError, ConfigError, did_you_mean
from ssgear.kernels.augment.resample import RADIUS, Interpolation

Range = tuple[float, float]
Policy = Literal["cifar10", "imagenet"]
POLICIES: tuple[Policy, ...] = ("cifar10", "imagenet")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True)
class AugmentSpec:
    """One view's augmentation. The defaults take the whole image and only scale and normalise."""

    crop_scale: Range | None = None
    """Share of the image's area that a random crop covers; None takes the whole image."""
    crop_ratio: Range = (3 / 4, 4 / 3)
    """Width over height of a random crop, uniform in its logarithm."""
    interpolation: Interpolation = "bicubic"
    """Resampling kernel: bicubic or bilinear."""
    antialias: bool = True
    """Widen the kernel when shrinking, as Pillow does."""
    size_share: float = 1.0
    """Side of the view as a share of the run's; multi-crop's small views have less than 1, what a
    method cuts its own views from (`Pretext.seen`) more."""
    flip: float = 0.0
    """Probability of a mirror image."""
    policy: Policy | None = None
    """AutoAugment's policy, learned on cifar10 or imagenet; of the engines only torch has it."""
    jitter: float = 0.0
    """Probability of the colour jitter; its four operations come in random order."""
    brightness: float = 0.0
    """The brightness factor is uniform in 1 - b to 1 + b (not below 0)."""
    contrast: float = 0.0
    """The contrast factor, likewise."""
    saturation: float = 0.0
    """The saturation factor, likewise."""
    hue: float = 0.0
    """The hue turns by up to this share of the colour circle either way, at most 0.5."""
    grey: float = 0.0
    """Probability of dropping the colours."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: Range = (0.1, 2.0)
    """Range of the blur's sigma in pixels of the view."""
    blur_share: float = 0.1
    """Width of the blur's kernel as a share of the view's side; made odd, at least 3 pixels."""
    solarise: float = 0.0
    """Probability of inverting bright pixels."""
    solarise_threshold: float = 0.5
    """Pixels at or above this brightness, in [0, 1], are inverted."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Channel means that are subtracted, of images in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Channel deviations that are divided by."""

    def __post_init__(self) -> None:
        """Refuse probabilities outside [0, 1], inverted ranges and deviations of 0."""
        for name in ("flip", "jitter", "grey", "blur", "solarise", "solarise_threshold"):
            self._require(0 <= getattr(self, name) <= 1, name, "use a value in [0, 1]")
        for name in ("brightness", "contrast", "saturation"):
            strength = getattr(self, name)
            self._require(0 <= strength < math.inf, name, "use 0 or more")
        self._require(0 <= self.hue <= 0.5, "hue", "use a value in [0, 0.5]")
        for name in ("crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            self._require(0 < low <= high < math.inf, name, "use (low, high) with 0 < low <= high")
        low, high = self.crop_scale or (1, 1)
        self._require(
            0 < low <= high <= 1, "crop_scale", "use (low, high) with 0 < low <= high <= 1"
        )
        for name, most in (("blur_share", 1), ("size_share", 4)):
            self._require(0 < getattr(self, name) <= most, name, f"use a share in (0, {most}]")
        self._require(
            self.policy is None or self.policy in POLICIES, "policy", "use cifar10 or imagenet"
        )
        self._require(self.interpolation in RADIUS, "interpolation", "use bilinear or bicubic")
        for name, wanted in (("mean", "give three values"), ("std", "give three values above 0")):
            values = getattr(self, name)
            right = len(values) == 3 and all(map(math.isfinite, values))
            self._require(right and (name == "mean" or min(values) > 0), name, wanted)

    @property
    def strengths(self) -> tuple[float, float, float, float]:
        """Return the jitter's strengths: brightness, contrast, saturation, hue."""
        return (self.brightness, self.contrast, self.saturation, self.hue)

    def numbers(self) -> tuple[float, ...]:
        """Return what the draws of `draws.py` need: probabilities, strengths, ranges, the crop."""
        (softest, blurriest), (narrow, wide) = self.blur_sigma, self.crop_ratio
        shared = (
            self.flip,
            self.jitter,
            self.grey,
            self.blur,
            self.solarise,
            *self.strengths,
            softest,
            blurriest - softest,
        )
        if self.crop_scale is None:
            return tuple(map(float, shared))
        small, large = self.crop_scale
        logarithms = math.log(narrow), math.log(wide / narrow)
        return tuple(map(float, (*shared, small, large - small, narrow, wide, *logarithms)))

    def side(self, size: int) -> int:
        """Return the view's side in pixels where the run's views have `size`."""
        side = round(size * self.size_share)
        if side < 1:
            raise ArgumentError(
                f"AugmentSpec.size_share: {self.size_share:g} of {size} pixels is less than one; "
                "use a larger share or larger views"
            )
        return side

    def blur_radius(self, size: int) -> int:
        """Return r of the blur's kernel of 2 r + 1 pixels in a view of that side."""
        return min(max(int(size * self.blur_share / 2), 1), size - 1)

    @classmethod
    def named(cls, name: str) -> AugmentSpec:
        """Return the one specification of a set whose views are all made alike (`view_set`)."""
        views = view_set(name)
        if len(views) > 1:
            raise ArgumentError(
                f"AugmentSpec.named: {name} has {len(views)} views that differ; "
                f"use view_set({name!r})"
            )
        return views[0]

    def _require(self, condition: bool, name: str, right: str) -> None:
        if not condition:
            value = getattr(self, name)
            raise ArgumentError(f"AugmentSpec.{name}: {value} is not possible; {right}")


SIMCLR = AugmentSpec(
    crop_scale=(0.08, 1.0),
    flip=0.5,
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grey=0.2,
    blur=0.5,
)
SIMCLR_CIFAR = replace(
    SIMCLR,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    blur=0.0,
    mean=CIFAR_MEAN,
    std=CIFAR_STD,
)
MOCO_V2 = replace(
    SIMCLR,
    crop_scale=(0.2, 1.0),
    interpolation="bilinear",
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
)
BYOL_FIRST = replace(SIMCLR, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, blur=1.0)
BYOL_SECOND = replace(BYOL_FIRST, blur=0.1, solarise=0.2)
BYOL_CIFAR_FIRST = replace(BYOL_FIRST, blur=0.0, mean=CIFAR_MEAN, std=CIFAR_STD)
BYOL_CIFAR_SECOND = replace(BYOL_CIFAR_FIRST, solarise=0.2)
SWAV_LARGE = replace(SIMCLR, crop_scale=(0.14, 1.0), interpolation="bilinear")
SWAV_SMALL = replace(SWAV_LARGE, crop_scale=(0.05, 0.14), size_share=96 / 224)
CROP_ONLY = AugmentSpec(crop_scale=(0.08, 1.0), flip=0.5)
AUTOAUGMENT = replace(CROP_ONLY, interpolation="bilinear", policy="imagenet")
AUTOAUGMENT_CIFAR = replace(AUTOAUGMENT, policy="cifar10", mean=CIFAR_MEAN, std=CIFAR_STD)
SETS: dict[str, tuple[AugmentSpec, ...]] = {
    "simclr": (SIMCLR,),
    "simclr-cifar": (SIMCLR_CIFAR,),
    "moco-v2": (MOCO_V2,),
    "byol": (BYOL_FIRST, BYOL_SECOND),
    "byol-cifar": (BYOL_CIFAR_FIRST, BYOL_CIFAR_SECOND),
    "barlow": (BYOL_FIRST, BYOL_SECOND),
    "swav-multicrop": (SWAV_LARGE,) * 2 + (SWAV_SMALL,) * 6,
    "crop-only": (CROP_ONLY,),
    "autoaugment": (AUTOAUGMENT,),
    "autoaugment-cifar": (AUTOAUGMENT_CIFAR,),
    "none": (AugmentSpec(),),
}


def view_set(name: str) -> tuple[AugmentSpec, ...]:
    """Return a published set: one specification for all views, or one for each.

    `simclr`: Chen et al. 2020 (arXiv 2002.05709) for ImageNet, colour strength 1. `simclr-cifar`:
    its appendix B.9 for CIFAR-10, colour strength 0.5 and no blur (solo-learn's recipe for the same
    images keeps strength 0.8 and blurs half of them). `moco-v2`: Chen et al. 2020 (arXiv
    2003.04297). `byol`: Grill et al. 2020 (arXiv 2006.07733, table 6), a pair; brightness is
    multiplied, where the authors' code adds to it. `byol-cifar`: the same without blur, as
    solo-learn has it for CIFAR-10. `barlow`: Zbontar et al. 2021 (arXiv 2103.03230), BYOL's
    figures. `swav-multicrop`: Caron et al. 2020 (arXiv 2006.09882), two views and six of 96/224 of
    their side. `crop-only`: docs/math.md 3, crop and flip. `autoaugment`,
    `autoaugment-cifar`: Cubuk et al. 2019 (arXiv 1805.09501) by torchvision's policies for ImageNet
    and CIFAR-10, after crop and flip; without the Cutout and the padding of the latter. `none`: the
    whole image, nothing random.

    Raises:
        ConfigError: there is no set of that name.
    """
    if name not in SETS:
        known = ", ".join(SETS)
        raise ConfigError(
            f"--data.augmentation: {name!r} is unknown{did_you_mean(name, SETS)}; use {known}"
        )
    return SETS[name]


def spread(views: tuple[AugmentSpec, ...], count: int) -> tuple[AugmentSpec, ...]:
    """Return the specifications of `count` views: a set of one is repeated, another must fit.

    Raises:
        ConfigError: the set has another number of views.
    """
    if len(views) == 1:
        return views * count
    if len(views) != count:
        raise ConfigError(
            f"--data.augmentation: this set has {len(views)} views and the method takes {count}; "
            f"use a set of one, such as simclr, or of {count}"
        )
    return views
