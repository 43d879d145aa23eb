"""What is done to a view, with which probabilities and ranges: `AugmentSpec`, and those with names.

A specification holds no randomness and no tensors; `augment.py` draws from it and carries it out.
The order of the operations is fixed: crop, flip, colour jitter, grey, blur, solarise, normalise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ssgear.errors import ArgumentError, ConfigError, did_you_mean
from ssgear.kernels.resample import RADIUS, Interpolation

Range = tuple[float, float]

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
    flip: float = 0.0
    """Probability of a mirror image."""
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
        self._require(0 < self.blur_share <= 1, "blur_share", "use a share in (0, 1]")
        self._require(self.interpolation in RADIUS, "interpolation", "use bilinear or bicubic")
        self._require(len(self.mean) == 3, "mean", "give three values")
        self._require(len(self.std) == 3 and min(self.std) > 0, "std", "give three values above 0")

    @property
    def strengths(self) -> tuple[float, float, float, float]:
        """Return the jitter's strengths: brightness, contrast, saturation, hue."""
        return (self.brightness, self.contrast, self.saturation, self.hue)

    def blur_radius(self, size: int) -> int:
        """Return r of the blur's kernel of 2 r + 1 pixels in a view of that side."""
        return min(max(int(size * self.blur_share / 2), 1), size - 1)

    @classmethod
    def named(cls, name: str) -> AugmentSpec:
        """Return a published augmentation.

        `simclr`: Chen et al. 2020 for ImageNet, colour strength 1. `simclr-cifar`: the same paper's
        appendix B.9 for CIFAR-10, colour strength 0.5 and no blur (solo-learn's recipe for the same
        images keeps strength 0.8 and blurs half of them). `none`: the whole image, nothing random.
        """
        if name not in NAMED:
            known = ", ".join(NAMED)
            raise ConfigError(
                f"--data.augmentation: {name!r} is unknown{did_you_mean(name, NAMED)}; use {known}"
            )
        return NAMED[name]

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
NAMED = {"simclr": SIMCLR, "simclr-cifar": SIMCLR_CIFAR, "none": AugmentSpec()}
