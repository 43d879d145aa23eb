"""The fused augmentation: uint8 images in, views out, every operation in one pass over an image.

    views = augment_views(images, params, AugmentSettings(mean=..., std=...), size=224)

Crop and resize, flip, colour jitter, grey, blur, solarise, normalise; what is done to each view
stands in `params` [N, 16] (`augment_packed.py`), drawn elsewhere. `cpp` is csrc/augment.cpp,
`reference` augment_reference.py; `CASES` are the inputs of the tests and the benchmark.

A view moves 3 bytes for every pixel of its box and 12 for every pixel of the view (float32); what
stands between stays in the cache: up to 12 bytes a pixel of the view, and less than 100 KB more.
Arithmetic is what limits it: at 32 px, with a box of 23 px, about 75,000 operations (half of them
the resize, a fifth the hue); a blur of sigma 1 adds 40 for each number of the view.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ssgear.errors import ArgumentError, did_you_mean
from ssgear.kernels import native, resample, transforms
from ssgear.kernels.augment_packed import (
    BOX,
    CASES,
    COLUMNS,
    JITTER,
    ORDER,
    AugmentSettings,
    Case,
    check_params,
    check_settings,
)
from ssgear.kernels.augment_reference import views_reference
from ssgear.kernels.resample import Interpolation

__all__ = ["CASES", "COLUMNS", "AugmentSettings", "Case", "augment_views", "choose", "crop_resize"]

Implementation = Literal["auto", "reference", "cpp"]
FASTEST_FIRST = ("cpp", "reference")
"""All forms."""
CPP_VIEWS = (torch.float32, torch.bfloat16, torch.uint8)


def augment_views(
    images: Tensor,
    params: Tensor,
    settings: AugmentSettings,
    *,
    size: int | None,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    impl: Implementation = "auto",
) -> Tensor:
    """Return one view [N, 3, size, size] of each image.

    Row i depends on row i of `images` and `params` alone: not on the batch, nor on threads. The
    crop of uint8 images is the same bits in every form, and so is all of `cpp` on every processor
    of an architecture; between the forms colours and blur differ by less than 1e-3 of 255.

    Args:
        images: [N, 3, H, W] in [0, 255], of any strides: uint8, or floating-point.
        params: What is done to each view, float32 [N, 16]: see `augment_packed.py`.
        settings: What all views share.
        size: Side of the views; None: images are crops already, keep their H and W, and the boxes
            are not read.
        dtype: Floating-point for normalised views; uint8 for pixels, rounded and not normalised.
        channels_last: Whether views lie in memory with channels last.
        impl: reference (plain PyTorch; the only one that floats reach with a gradient, and that
            resizes them), cpp (CPU), or auto: the fastest that can.

    Raises:
        ArgumentError: In one line, for arguments that do not fit together.
    """
    _check(images, size)
    height, width = images.shape[2:] if size is None else (size, size)
    check_settings(settings, height, width)
    check_params(params, images, resize=size is not None)
    if choose(impl, images, size, dtype) == "cpp":
        return _views_cpp(images, params, settings, (height, width), size, dtype, channels_last)
    views = views_reference(images, params, settings, size, dtype)
    return views.contiguous(memory_format=torch.channels_last) if channels_last else views


def crop_resize(
    images: Tensor,
    boxes: Tensor,
    size: int,
    *,
    interpolation: Interpolation = "bicubic",
    antialias: bool = True,
    impl: Implementation = "auto",
) -> Tensor:
    """Cut `boxes` [N, 4] (top, left, height, width) from images [N, 3, H, W] and resize them.

    Returns [N, 3, size, size] in [0, 255]: whole numbers in float32 for uint8 images, the same bits
    in every form; for float images the unrounded values, with a gradient to the images
    (`resample.py`).
    """
    resample.check(images, boxes, interpolation)
    if images.shape[1] != 3 or choose(impl, images, size, torch.uint8) == "reference":
        return resample.crop_resize(
            images, boxes, size, interpolation=interpolation, antialias=antialias
        )
    params = torch.zeros(len(boxes), COLUMNS)
    params[:, BOX] = boxes.float()
    params[:, JITTER.start : JITTER.stop - 1] = 1.0
    params[:, ORDER] = torch.arange(4.0)
    settings = AugmentSettings(interpolation=interpolation, antialias=antialias)
    views = augment_views(images, params, settings, size=size, dtype=torch.uint8, impl="cpp")
    return views.float()


def choose(impl: str, images: Tensor, size: int | None, dtype: torch.dtype) -> str:
    """Return the form to take: the one that was asked for, or with "auto" the fastest."""
    known = get_args(Implementation)
    if impl not in known:
        hint = did_you_mean(str(impl), known)
        raise ArgumentError(f"augment: unknown impl={impl!r}{hint}; use one of {', '.join(known)}")
    if impl == "auto":
        compiles = torch.compiler.is_compiling()  # fuses PyTorch's own operators
        fast = not compiles and not why_not("cpp", images, size, dtype)
        return "cpp" if fast else "reference"
    reason = why_not(impl, images, size, dtype)
    if reason:
        raise ArgumentError(
            f"augment: impl={impl!r} is not possible here: {reason}; use auto or reference"
        )
    return impl


def why_not(impl: str, images: Tensor, size: int | None, dtype: torch.dtype) -> str:
    """Return why a form cannot make such views of these images, "" if it can."""
    if impl == "reference":
        return ""
    if images.device.type != "cpu":
        return f"it is for CPUs, and images are on {images.device}"
    if dtype not in CPP_VIEWS:
        return f"it makes float32, bfloat16 and uint8, and {dtype} was asked for"
    if images.dtype != torch.uint8 and (size is not None or images.dtype != torch.float32):
        return f"it takes uint8 images, and float32 crops, and got {images.dtype}"
    if images.requires_grad and torch.is_grad_enabled():
        return "it has no gradient, and images require one"
    return transforms.REASON if transforms.is_transformed(images) else native.reason()


def _views_cpp(
    images: Tensor,
    params: Tensor,
    settings: AugmentSettings,
    shape: tuple[int, int],
    size: int | None,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    order = torch.channels_last if channels_last else torch.contiguous_format
    views = torch.empty(len(images), 3, *shape, dtype=dtype, memory_format=order)
    torch.ops.ssgear_native.augment(
        images.detach(),
        params.to("cpu").contiguous(),
        size is not None,
        settings.interpolation,
        settings.antialias,
        settings.blur_radius,
        settings.solarise_threshold,
        settings.mean,
        settings.std,
        views,
    )
    return views


def _check(images: Tensor, size: int | None) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ArgumentError(f"augment: images {tuple(images.shape)}; give [N, 3, H, W]")
    if not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise ArgumentError(f"augment: images are {images.dtype}; give uint8, or floating-point")
    if size is not None and size < 1:
        raise ArgumentError(f"augment: size {size} is not possible; use at least 1 pixel")
