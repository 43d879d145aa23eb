"""One specification of what is done to a view, its random parameters, and the views themselves.

A view is a function of (seed, epoch, sample index, view): `sample` draws its parameters with Philox
(`kernels/philox.py`), `augment` makes it of an image, `finish` of a crop that `crop_resize` has cut
elsewhere (`kernels/augment.py`). Every engine shares these, so a view does not depend on who makes
it, nor on its batch.

    views = augment(images, AugmentSpec.named("simclr"), size=224, seed=0, epoch=3,
                    indices=index, view=0)                       # uint8 [N,3,H,W] -> [N,3,224,224]
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssgear.data.augment_spec import AugmentSpec
from ssgear.errors import ArgumentError
from ssgear.kernels import colour, philox
from ssgear.kernels.augment import (
    AugmentSettings,
    Implementation,
    augment_views,
    crop_resize,
)

__all__ = ["AugmentParams", "AugmentSpec", "augment", "crop_resize", "finish", "sample"]

TRIES = 10
"""Boxes that are tried before the central crop is taken, as in torchvision."""


@dataclass(frozen=True, kw_only=True)
class AugmentParams:
    """The random parameters of n views; row i of every field belongs to image i."""

    box: Tensor
    """[n, 4] float32: top, left, height, width of the crop, whole pixels of the image."""
    flip: Tensor
    """[n] bool: mirror left and right."""
    jitter: Tensor
    """[n, 4] float32: factors of brightness, contrast and saturation, turn of the hue."""
    order: Tensor
    """[n, 4] int64: the operation (0 to 3, as in `jitter`) done at each of four steps."""
    grey: Tensor
    """[n] bool: drop the colours."""
    blur: Tensor
    """[n] float32: sigma of the Gaussian blur in pixels, 0 for none."""
    solarise: Tensor
    """[n] bool: invert bright pixels."""

    def __len__(self) -> int:
        """Return the number of views n."""
        return len(self.flip)

    def rows(self, part: slice | Tensor) -> AugmentParams:
        """Return the parameters of some of the views."""
        return self._map(lambda rows: rows[part])

    def to(self, device: torch.device | str) -> AugmentParams:
        """Return the same on a device."""
        return self._map(lambda rows: rows.to(device))

    def _map(self, change: Callable[[Tensor], Tensor]) -> AugmentParams:
        fields = dataclasses.fields(self)
        return AugmentParams(**{field.name: change(getattr(self, field.name)) for field in fields})


def sample(
    spec: AugmentSpec,
    *,
    seed: int,
    epoch: int,
    indices: Tensor,
    view: int,
    heights: Tensor,
    widths: Tensor,
) -> AugmentParams:
    """Draw the parameters of one view of the images at `indices` [n] int64 of the data set.

    `heights` and `widths` [n] are the images' sizes in pixels. Row i depends on the seed, the
    epoch, the view and indices[i] only. A draw keeps its place whatever the specification, so that
    two that differ in one entry share all other draws.
    """
    key = philox.derive_key(seed, epoch, view, "augment")
    draws = philox.uniform(key, indices, 16 + 2 * TRIES)
    strength = draws.new_tensor(spec.strengths)
    neutral = draws.new_tensor(colour.IDENTITY)
    low = torch.where(neutral > 0, (neutral - strength).clamp(min=0), -strength)
    factors = low + (neutral + strength - low) * draws[:, 5:9]
    sigma = spec.blur_sigma[0] + (spec.blur_sigma[1] - spec.blur_sigma[0]) * draws[:, 9]
    return AugmentParams(
        box=_boxes(spec, draws[:, 14:16], draws[:, 16:], heights, widths),
        flip=draws[:, 0] < spec.flip,
        jitter=torch.where(draws[:, 1:2] < spec.jitter, factors, neutral),
        order=draws[:, 10:14].argsort(dim=1, stable=True),
        grey=draws[:, 2] < spec.grey,
        blur=torch.where(draws[:, 3] < spec.blur, sigma, 0.0),
        solarise=draws[:, 4] < spec.solarise,
    )


def augment(
    images: Tensor,
    spec: AugmentSpec,
    *,
    size: int,
    seed: int,
    epoch: int,
    indices: Tensor,
    view: int,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    impl: Implementation = "auto",
) -> Tensor:
    """Return one view [N, 3, size, size] of each image, normalised (as uint8: not normalised).

    `images` are uint8 [N, 3, H, W], or float in [0, 1] and then differentiable with respect to
    them. `indices` [N] are their places in the data set, `view` is the number of the view. `impl`
    is that of `augment_views`: floats are resized by the reference.
    """
    _check(images, indices)
    height, width = images.shape[2:]
    params = sample(
        spec,
        seed=seed,
        epoch=epoch,
        indices=indices,
        view=view,
        heights=torch.full_like(indices, height),
        widths=torch.full_like(indices, width),
    )
    if images.is_floating_point():
        images = images.to(torch.promote_types(images.dtype, torch.float32)) * 255
    return augment_views(
        images,
        _packed(params),
        _settings(spec, size),
        size=size,
        dtype=dtype,
        channels_last=channels_last,
        impl=impl,
    )


def finish(
    crops: Tensor,
    params: AugmentParams,
    spec: AugmentSpec,
    dtype: torch.dtype = torch.float32,
    *,
    channels_last: bool = False,
    impl: Implementation = "auto",
) -> Tensor:
    """Return views of crops [N, 3, h, w] in [0, 255] (uint8 or float): all that follows."""
    return augment_views(
        crops,
        _packed(params),
        _settings(spec, min(crops.shape[2:])),
        size=None,
        dtype=dtype,
        channels_last=channels_last,
        impl=impl,
    )


def _packed(params: AugmentParams) -> Tensor:
    """Return the parameters as float32 [n, 16], the form of `kernels/augment_packed.py`."""
    p = params
    columns = (p.box, p.flip, p.jitter, p.order, p.grey, p.blur, p.solarise)
    return torch.column_stack([each.float() for each in columns])


def _settings(spec: AugmentSpec, size: int) -> AugmentSettings:
    """Return what the views of that (shorter) side share."""
    return AugmentSettings(
        interpolation=spec.interpolation,
        antialias=spec.antialias,
        blur_radius=max(spec.blur_radius(size), 0),
        solarise_threshold=spec.solarise_threshold,
        mean=spec.mean,
        std=spec.std,
    )


def _boxes(
    spec: AugmentSpec, place: Tensor, tries: Tensor, heights: Tensor, widths: Tensor
) -> Tensor:
    """Return the crops, as torchvision's RandomResizedCrop chooses them, all tries at once."""
    height, width = heights.to(place.device).double(), widths.to(place.device).double()
    if spec.crop_scale is None:
        nothing = torch.zeros_like(height)
        return torch.stack((nothing, nothing, height, width), dim=1).float()
    (small, large), (narrow, wide) = spec.crop_scale, spec.crop_ratio
    # float64: a rounding that fell otherwise on another device would move the whole crop
    area_draw, ratio_draw = tries.double().chunk(2, dim=1)
    area = (small + (large - small) * area_draw) * (height * width)[:, None]
    ratio = (math.log(narrow) + math.log(wide / narrow) * ratio_draw).exp()
    central_height = torch.minimum(height, (width / narrow).round())
    central_width = torch.minimum(width, (height * wide).round())
    tall = torch.cat(((area / ratio).sqrt().round(), central_height[:, None]), dim=1)
    broad = torch.cat(((area * ratio).sqrt().round(), central_width[:, None]), dim=1)
    fits = (tall > 0) & (tall <= height[:, None]) & (broad > 0) & (broad <= width[:, None])
    first = fits.int().argmax(dim=1, keepdim=True)
    tall, broad = tall.gather(1, first)[:, 0], broad.gather(1, first)[:, 0]
    spare = torch.stack((height - tall, width - broad), dim=1)
    corner = torch.where(first == TRIES, spare / 2, place.double() * (spare + 1)).floor()
    return torch.stack((*corner.unbind(1), tall, broad), dim=1).float()


def _check(images: Tensor, indices: Tensor) -> None:
    if images.shape[:1] != indices.shape or indices.dtype != torch.int64:
        raise ArgumentError(
            f"augment: indices {tuple(indices.shape)} {indices.dtype} for images "
            f"{tuple(images.shape)}; give one int64 for each"
        )
    if images.ndim != 4:
        raise ArgumentError(f"augment: images {tuple(images.shape)}; give [N, 3, H, W]")
