"""The augmentation in plain PyTorch, from images and packed parameters to views.

What the fused forms of `views.py` are held to, and what works where they do not: on any device,
and for float images with a gradient. Views are made a few at a time, those that turn their hue at
the same step together: on a row it depends on that row alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssgear.kernels.augment import colour
from ssgear.kernels.augment.params import (
    BLUR,
    BOX,
    FLIP,
    GREY,
    JITTER,
    ORDER,
    SOLARISE,
    AugmentSettings,
)
from ssgear.kernels.augment.resample import crop_resize

BLOCK_PIXELS = 2**16
"""Output pixels that are worked on at a time: what a processor's cache holds."""


def views_reference(
    images: Tensor, params: Tensor, settings: AugmentSettings, size: int | None, dtype: torch.dtype
) -> Tensor:
    """Return views [N, 3, size, size] of images [N, 3, H, W] in [0, 255], in `dtype`.

    With `size` None images are crops already, and keep their height and width.
    """
    shape = (images.shape[2], images.shape[3]) if size is None else (size, size)
    params = params.to("cpu")  # what decides which rows are touched; one transfer
    boxes = params[:, BOX].to(images.device)
    wide = torch.promote_types(images.dtype, torch.float32)
    views = torch.empty(len(params), 3, *shape, dtype=dtype, device=images.device)
    hue_step = (params[:, ORDER] == colour.HUE).int().argmax(dim=1)
    group = torch.where(_jittered(params), hue_step, -1)
    block = max(BLOCK_PIXELS // (shape[0] * shape[1]), 1)
    for step in sorted(set(group.tolist())):
        for rows in (group == step).nonzero()[:, 0].split(block):
            there = rows.to(images.device)
            crops = images.index_select(0, there)
            if size is None:
                crops = crops.to(wide)
            else:
                crops = crop_resize(
                    crops,
                    boxes.index_select(0, there),
                    size,
                    interpolation=settings.interpolation,
                    antialias=settings.antialias,
                )
            made = _finish(crops, params[rows], settings)
            views = views.index_copy_(0, there, _last(made, settings, dtype))
    return views


def _jittered(params: Tensor) -> Tensor:
    return (params[:, JITTER] != torch.tensor(colour.IDENTITY)).any(1)


def _finish(images: Tensor, params: Tensor, settings: AugmentSettings) -> Tensor:
    """Do all that stands between crop and normalisation.

    Either no row is jittered, or all are and turn their hue at the same step.
    """

    def touch(images: Tensor, chosen: Tensor, change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        rows = (chosen > 0).nonzero()[:, 0]
        if not len(rows):
            return images
        there = rows.to(images.device)
        return images.index_copy(0, there, change(images.index_select(0, there), rows))

    images = touch(images, params[:, FLIP], lambda some, _: some.flip(-1))
    if bool(_jittered(params).any()):
        images = colour.jitter(images, params[:, JITTER], params[:, ORDER].long())
    images = touch(images, params[:, GREY], lambda some, _: colour.grey(some))
    radius = settings.blur_radius
    sigma = params[:, BLUR]
    images = touch(
        images, sigma, lambda some, rows: colour.gaussian_blur(some, sigma[rows], radius)
    )
    threshold = settings.solarise_threshold
    return touch(images, params[:, SOLARISE], lambda some, _: colour.solarise(some, threshold))


def _last(images: Tensor, settings: AugmentSettings, dtype: torch.dtype) -> Tensor:
    """Return the views as they leave: whole pixels for uint8, else normalised."""
    if dtype == torch.uint8:
        return images.add(0.5).floor_().clamp_(0, 255).to(dtype)
    statistics = (settings.mean, settings.std)
    mean, std = (images.new_tensor(row).reshape(1, 3, 1, 1) * 255 for row in statistics)
    return (images - mean).mul_(1 / std).to(dtype)
