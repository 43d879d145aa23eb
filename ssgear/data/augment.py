"""One specification of what is done to a view, its random parameters, and the reference engine.

A view is a function of (seed, epoch, sample index, view): `sample` draws its parameters with Philox
(`kernels/philox.py`), `crop_resize` cuts and scales, `finish` does flip, colour, blur, solarise,
normalise and turn. Every engine shares these, so a view does not depend on who makes it, nor on its
batch.

    views = augment(images, AugmentSpec.named("simclr"), size=224, seed=0, epoch=3,
                    indices=index, view=0)                       # uint8 [N,3,H,W] -> [N,3,224,224]
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ssgear.data import colour
from ssgear.data.augment_spec import AugmentSpec
from ssgear.data.policy import apply_policy
from ssgear.data.resample import crop_resize
from ssgear.errors import ArgumentError
from ssgear.kernels import philox

__all__ = ["AugmentParams", "AugmentSpec", "augment", "crop_resize", "finish", "sample"]

TRIES = 10
"""Boxes that are tried before the central crop is taken, as in torchvision."""
BLOCK_PIXELS = 2**16
"""Output pixels that are worked on at a time: what a processor's cache holds."""


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
    impl: Literal["auto", "reference"] = "auto",
) -> Tensor:
    """Return one view [N, 3, size, size] of each image, normalised.

    `images` are uint8 [N, 3, H, W], or float in [0, 1] and then differentiable with respect to
    them; an AutoAugment policy takes uint8 only. `indices` [N] are their places in the data set,
    `view` is the number of the view. `size` is the view's own side: `spec.side` tells it.
    """
    _check(images, spec, indices, size, impl)
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
    boxes = params.box.to(images.device)
    wide = torch.promote_types(images.dtype, torch.float32)

    def crop(rows: Tensor) -> Tensor:
        chosen = images.index_select(0, rows)
        return crop_resize(
            chosen if chosen.dtype == torch.uint8 else chosen.to(wide) * 255,
            boxes.index_select(0, rows),
            size,
            interpolation=spec.interpolation,
            antialias=spec.antialias,
        )

    if spec.policy is not None:
        crops = crop(torch.arange(len(images), device=images.device)).to(torch.uint8)
        crops = apply_policy(
            crops, params.flip, spec.policy, seed=seed, epoch=epoch, indices=indices, view=view
        )
        return finish(crops, params, spec, dtype)
    return turned(_in_blocks(crop, (size, size), images, params, spec, dtype), spec.turn)


def finish(
    crops: Tensor, params: AugmentParams, spec: AugmentSpec, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return views of crops [N, 3, h, w] in [0, 255] (uint8 or float): all that follows."""
    height, width = crops.shape[2:]
    wide = torch.promote_types(crops.dtype, torch.float32)

    def crop(rows: Tensor) -> Tensor:
        return crops.index_select(0, rows).to(wide)

    return turned(_in_blocks(crop, (height, width), crops, params, spec, dtype), spec.turn)


def turned(views: Tensor, turn: int) -> Tensor:
    """Return views [..., h, w] after `turn` quarter turns counterclockwise, in their own memory."""
    return views.rot90(turn, (-2, -1)).contiguous() if turn else views


def _in_blocks(
    crop: Callable[[Tensor], Tensor],
    shape: tuple[int, int],
    like: Tensor,
    params: AugmentParams,
    spec: AugmentSpec,
    dtype: torch.dtype,
) -> Tensor:
    """Make the views a few at a time, those that turn their hue at the same step together."""
    params = params.to("cpu")  # what decides which rows are touched; one transfer
    views = torch.empty(len(params), 3, *shape, dtype=dtype, device=like.device)
    hue_step = (params.order == colour.HUE).int().argmax(dim=1)
    group = torch.where(_jittered(params), hue_step, -1)
    block = max(BLOCK_PIXELS // (shape[0] * shape[1]), 1)
    for step in sorted(set(group.tolist())):
        for rows in (group == step).nonzero()[:, 0].split(block):
            there = rows.to(like.device)
            made = _finish(crop(there), params.rows(rows), spec)
            views = views.index_copy_(0, there, made.to(dtype))
    return views


def _jittered(params: AugmentParams) -> Tensor:
    return (params.jitter != torch.tensor(colour.IDENTITY)).any(1)


def _finish(images: Tensor, params: AugmentParams, spec: AugmentSpec) -> Tensor:
    """Do all that follows crop and resize.

    Either no row is jittered, or all are and turn their hue at the same step.
    """

    def touch(images: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        rows = chosen.nonzero()[:, 0]
        if not len(rows):
            return images
        there = rows.to(images.device)
        return images.index_copy(0, there, change(images.index_select(0, there), rows))

    images = touch(images, params.flip, lambda some, _: some.flip(-1))
    if bool(_jittered(params).any()):
        images = colour.jitter(images, params.jitter, params.order)
    images = touch(images, params.grey, lambda some, _: colour.grey(some))
    radius = spec.blur_radius(min(images.shape[2:]))
    images = touch(
        images,
        params.blur > 0,
        lambda some, rows: colour.gaussian_blur(some, params.blur[rows], radius),
    )
    threshold = spec.solarise_threshold
    images = touch(images, params.solarise, lambda some, _: colour.solarise(some, threshold))
    mean, std = (images.new_tensor(row).reshape(1, 3, 1, 1) * 255 for row in (spec.mean, spec.std))
    return (images - mean).mul_(1 / std)


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


def _check(images: Tensor, spec: AugmentSpec, indices: Tensor, size: int, impl: str) -> None:
    if impl not in ("auto", "reference"):
        raise ArgumentError(f"augment: impl {impl!r} is unknown; use auto or reference")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ArgumentError(f"augment: images {tuple(images.shape)}; give [N, 3, H, W]")
    if not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ArgumentError(f"augment: images are {images.dtype}; give uint8, or float in [0, 1]")
    if spec.policy is not None and images.dtype != torch.uint8:
        raise ArgumentError(f"augment: AutoAugment takes uint8 images, these are {images.dtype}")
    if indices.shape != images.shape[:1] or indices.dtype != torch.int64:
        raise ArgumentError(
            f"augment: indices {tuple(indices.shape)} {indices.dtype} for {len(images)} images; "
            "give one int64 for each"
        )
    if size < 1:
        raise ArgumentError(f"augment: size {size} is not possible; use at least 1 pixel")
