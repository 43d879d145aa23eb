"""One specification of what is done to a view, its random parameters, and the views themselves.

A view is a function of (seed, epoch, sample index, view): `sample` draws its parameters with Philox
(`draws.py`), `augment` makes it of an image, `finish` of a crop that `crop_resize` has cut
elsewhere (`kernels/augment/views.py`); a policy comes from here. Every engine shares these, so a
view does not depend on who makes it, nor on its batch.

    views = augment(images, AugmentSpec.named("simclr"), size=224, seed=0, epoch=3,
                    indices=index, view=0)                       # uint8 [N,3,H,W] -> [N,3,224,224]
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssgear.data.augment.draws import AugmentParams, check_indices, draw, sample
from ssgear.data.augment.policy import apply_policy
from ssgear.data.augment.spec import AugmentSpec
from ssgear.errors import ArgumentError
from ssgear.kernels.augment.params import check_images
from ssgear.kernels.augment.views import AugmentSettings, augment_views, crop_resize
from ssgear.kernels.forms import Implementation

__all__ = ["AugmentParams", "AugmentSpec", "augment", "crop_resize", "finish", "sample"]


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
    them; an AutoAugment policy takes uint8 only. `indices` [N] are their places in the data set,
    `view` is the number of the view. `size` is the view's own side: `spec.side` tells it. `impl` is
    that of `augment_views`: floats are resized by the reference.
    """
    _check(images, spec, indices)
    height, width = images.shape[2:]
    sides = torch.full_like(indices, height), torch.full_like(indices, width)
    params = draw(spec, (seed, epoch, view), indices, *sides)
    if images.is_floating_point():
        images = images.to(torch.promote_types(images.dtype, torch.float32)) * 255
    if spec.policy is None:
        return _made(images, params, spec, size, dtype, channels_last, impl)
    box, (mode, wide) = params.box.to(images.device), (spec.interpolation, spec.antialias)
    crops = crop_resize(images, box, size, interpolation=mode, antialias=wide, impl=impl)
    crops = apply_policy(
        crops.to(torch.uint8),
        params.flip,
        spec.policy,
        seed=seed,
        epoch=epoch,
        indices=indices,
        view=view,
    )
    return _made(crops, params, spec, None, dtype, channels_last, impl)


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
    return _made(crops, params, spec, None, dtype, channels_last, impl)


def _made(
    images: Tensor,
    params: AugmentParams,
    spec: AugmentSpec,
    size: int | None,
    dtype: torch.dtype,
    channels_last: bool,
    impl: Implementation,
) -> Tensor:
    """Return the views of crops where `size` is None, else of images that are cropped to it."""
    settings = AugmentSettings(
        interpolation=spec.interpolation,
        antialias=spec.antialias,
        blur_radius=max(spec.blur_radius(size or min(images.shape[2:])), 0),
        solarise_threshold=spec.solarise_threshold,
        mean=spec.mean,
        std=spec.std,
    )
    return augment_views(
        images,
        params.packed,
        settings,
        size=size,
        dtype=dtype,
        channels_last=channels_last,
        impl=impl,
    )


def _check(images: Tensor, spec: AugmentSpec, indices: Tensor) -> None:
    check_images("augment", images)
    check_indices("augment", indices, len(images))
    if spec.policy is not None and images.dtype != torch.uint8:
        raise ArgumentError(f"augment: AutoAugment takes uint8 images, these are {images.dtype}")
    if spec.policy is not None and torch.compiler.is_compiling():
        raise ArgumentError(
            "augment: AutoAugment cannot be compiled, its operations are chosen on the host, image "
            "by image; call it outside of torch.compile"
        )
