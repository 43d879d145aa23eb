"""What a fused augmentation is told: sixteen numbers for each view, and what all views share.

The numbers of a view are one row of a float32 tensor [N, 16], the same for C++, Triton and the
reference: whole numbers, flags and places in the order are exact in float32.

| column | number |
|---|---|
| 0 to 3 | the box: top, left, height and width, whole pixels of the image |
| 4 | flip: 1 mirrors left and right, 0 does not |
| 5 to 8 | factors of brightness, contrast and saturation; turn of the hue in full circles |
| 9 to 12 | the operation, 0 to 3 as in 5 to 8, done at each of four steps |
| 13 | grey: 1 drops the colours |
| 14 | sigma of the Gaussian blur in pixels of the view, 0 for none |
| 15 | solarise: 1 inverts bright pixels |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels.augment.resample import RADIUS, Interpolation

BOX, JITTER, ORDER = slice(0, 4), slice(5, 9), slice(9, 13)
FLIP, GREY, BLUR, SOLARISE = 4, 13, 14, 15
COLUMNS = 16


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """What all views of a call share."""

    interpolation: Interpolation = "bicubic"
    """Resampling kernel: bicubic or bilinear."""
    antialias: bool = True
    """Widen the kernel when shrinking."""
    blur_radius: int = 0
    """The blur's kernel has 2 r + 1 pixels; r is less than the view's shorter side."""
    solarise_threshold: float = 0.5
    """Pixels at or above this brightness, in [0, 1], are inverted."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Channel means that are subtracted, of images in [0, 1]."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Channel deviations that are divided by."""

    def values(self) -> tuple[Interpolation, bool, int, float, Sequence[float], Sequence[float]]:
        """Return the settings in their order, as operators take them."""
        kernels = (self.interpolation, self.antialias, self.blur_radius)
        return (*kernels, self.solarise_threshold, self.mean, self.std)


def check_images(function: str, images: Tensor, channels: int | None = 3) -> None:
    """Refuse what is no batch of images with pixels: [N, 3, H, W], uint8 or floating-point."""
    wanted = "N, C, H, W" if channels is None else f"N, {channels}, H, W"
    if not isinstance(images, Tensor):
        raise ArgumentError(f"{function}: images are a {type(images).__name__}; give [{wanted}]")
    if images.ndim != 4 or (channels is not None and images.shape[1] != channels):
        raise ArgumentError(f"{function}: images {tuple(images.shape)}; give [{wanted}]")
    if not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ArgumentError(f"{function}: images are {images.dtype}; give uint8, or floating-point")
    if 0 in images.shape[2:]:
        raise ArgumentError(
            f"{function}: images {tuple(images.shape)} have no pixels; give at least 1 x 1"
        )


def check_size(function: str, size: int) -> None:
    """Refuse a side that is not a whole number of pixels, at least one."""
    if not isinstance(size, int | torch.SymInt):
        raise ArgumentError(f"{function}: size {size!r} is not possible; give whole pixels")
    if size < 1:
        raise ArgumentError(f"{function}: size {size} is not possible; use at least 1 pixel")


def check_settings(settings: AugmentSettings, height: int, width: int) -> None:
    """Refuse what cannot be done to views of that size."""
    if settings.interpolation not in RADIUS:
        raise ArgumentError(
            f"augment: interpolation {settings.interpolation!r} is unknown; use bilinear or bicubic"
        )
    if len(settings.mean) != 3 or len(settings.std) != 3 or not min(settings.std) > 0:
        raise ArgumentError(
            f"augment: mean {settings.mean} and std {settings.std}; give three values each, and "
            "deviations above 0"
        )
    if not 0 <= settings.blur_radius < max(min(height, width), 1):
        raise ArgumentError(
            f"augment: blur_radius {settings.blur_radius} in views of {height} x {width}; "
            "use one from 0 to below the shorter side"
        )


def check_params(params: Tensor, count: int) -> None:
    """Refuse what is not float32 [count, 16]."""
    if params.shape != (count, COLUMNS) or params.dtype != torch.float32:
        raise ArgumentError(
            f"augment: params {tuple(params.shape)} {params.dtype} for {count} images; "
            f"give float32 [{count}, {COLUMNS}]"
        )


def check_values(params: Tensor, height: int, width: int, resize: bool) -> None:
    """Refuse boxes outside an image of that size, and orders that are none.

    C++ asks this itself, in a hundredth of the time. Nothing is read from a GPU: that would hold
    up the host.
    """
    if params.device.type != "cpu":
        return
    order = params[:, ORDER].sort(dim=1).values
    wrong = (order != torch.arange(4.0)).any(1)
    if resize:
        box = params[:, BOX]
        corner, side = box.chunk(2, dim=1)
        outside = (corner < 0) | (side < 1) | (corner + side > torch.tensor([height, width]))
        wrong |= outside.any(1) | (box != box.round()).any(1)
    if bool(wrong.any()):
        row = int(wrong.int().argmax())
        place, steps = params[row, BOX].tolist(), params[row, ORDER].tolist()
        raise ArgumentError(
            f"augment: view {row} has the box {place} of an image of {height} x {width} and the "
            f"order {steps}; give whole pixels inside the image, and each of 0 to 3 once"
        )


@dataclass(frozen=True, kw_only=True)
class Case:
    """Shape and settings of one input."""

    count: int
    """Number of images."""
    height: int
    """Of the images, in pixels."""
    width: int
    """Of the images, in pixels."""
    size: int | None
    """Side of the views; None for crops that are not resized."""
    settings: AugmentSettings = AugmentSettings()
    """What all views share."""
    whole: bool = False
    """Whether every box is the whole image."""

    def make(self, device: str = "cpu", seed: int = 0) -> tuple[Tensor, Tensor]:
        """Return images [N, 3, H, W] uint8 and packed parameters, functions of the seed.

        Every operation happens to about half of the views, by itself and with the others; the
        first box is the whole image, the second a pixel.
        """
        generator = torch.Generator().manual_seed(seed + self.count + self.height)
        coarse = torch.rand(self.count, 3, 5, 5, generator=generator)
        images = torch.nn.functional.interpolate(coarse, (self.height, self.width), mode="bicubic")
        images += 0.1 * torch.rand(images.shape, generator=generator)
        draws = torch.rand(self.count, 20, generator=generator)
        shape = torch.tensor([float(self.height), float(self.width)])
        side = (draws[:, 0:2] * shape).ceil().clamp(min=1)
        side[0::7], side[1::7] = shape, 1.0
        if self.whole:
            side[:] = shape
        corner = (draws[:, 2:4] * (shape - side + 1)).floor()
        factors = torch.cat((0.3 + 1.4 * draws[:, 4:7], draws[:, 7:8] - 0.5), dim=1)
        neutral = torch.tensor([1.0, 1.0, 1.0, 0.0])
        params = torch.cat(
            (
                corner,
                side,
                (draws[:, 8:9] < 0.5).float(),
                torch.where(draws[:, 9:13] < 0.7, factors, neutral),
                draws[:, 13:17].argsort(dim=1).float(),
                (draws[:, 17:18] < 0.2).float(),
                torch.where(draws[:, 18:19] < 0.5, 0.02 + 4 * draws[:, 18:19], 0.0),
                (draws[:, 19:20] < 0.3).float(),
            ),
            dim=1,
        )
        pixels = (images * 255).clamp(0, 255).to(torch.uint8)
        return pixels.to(device), params.to(device)


CASES = (
    Case(count=1, height=1, width=1, size=1),
    Case(count=3, height=1, width=5, size=4),
    Case(count=24, height=32, width=32, size=32),
    Case(count=24, height=33, width=47, size=17, settings=AugmentSettings(blur_radius=1)),
    Case(count=24, height=21, width=19, size=45, settings=AugmentSettings(blur_radius=2)),
    Case(count=9, height=5, width=7, size=13, settings=AugmentSettings(interpolation="bilinear")),
    Case(count=14, height=97, width=301, size=9, settings=AugmentSettings(blur_radius=8)),
    Case(count=14, height=130, width=61, size=24, settings=AugmentSettings(antialias=False)),
    Case(count=14, height=31, width=40, size=31, whole=True),
    Case(count=24, height=29, width=35, size=None, settings=AugmentSettings(blur_radius=3)),
    Case(count=24, height=64, width=64, size=64, settings=AugmentSettings(blur_radius=3)),
    Case(count=3, height=256, width=256, size=224, settings=AugmentSettings(blur_radius=11)),
)
"""One pixel, lines, growing and shrinking, wide kernels, crops, and the sizes of training."""

TRITON_CHECKS = (
    Case(count=16, height=40, width=33, size=32, settings=AugmentSettings(blur_radius=1)),
    Case(count=8, height=90, width=70, size=77, settings=AugmentSettings(blur_radius=3)),
)
"""What the Triton form is held to before its first use: a view by one program, and in tiles."""
