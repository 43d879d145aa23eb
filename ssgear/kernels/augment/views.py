"""The fused augmentation: uint8 images in, views out, every operation in one pass over an image.

    views = augment_views(images, params, AugmentSettings(mean=..., std=...), size=224)

Crop and resize, flip, colour jitter, grey, blur, solarise, normalise; what is done to each view
stands in `params` [N, 16] (`params.py`), drawn elsewhere. `cpp` is csrc/augment.cpp,
`triton` triton.py (*untested on hardware*), `reference` reference.py; `CASES` are
the inputs of the tests and the benchmark.

A view moves 3 bytes for every pixel of its box and 12 for every pixel of the view (float32): 14 kB
at 32 px; what stands between stays in the cache, 12 bytes a pixel of the view and less than 100 KB
more. Arithmetic limits it: a view of simclr-cifar takes 150,000 operations (two fifths of them the
resize, a quarter the hue), of simclr at 224 px 11 million, a third of them the blur. Where every
one of them ran at the rate of a matrix product's, one core would be 2 to 5 times as fast
(`python -m benchmarks augment`).
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ssgear.errors import ArgumentError, did_you_mean, first_line
from ssgear.kernels import native, transforms, triton_here
from ssgear.kernels.augment import resample
from ssgear.kernels.augment.operator import compiled_views
from ssgear.kernels.augment.params import (
    BOX,
    CASES,
    COLUMNS,
    JITTER,
    ORDER,
    SOLARISE,
    TRITON_CHECKS,
    AugmentSettings,
    Case,
    check_images,
    check_params,
    check_settings,
    check_size,
    check_values,
)
from ssgear.kernels.augment.reference import views_reference
from ssgear.kernels.augment.resample import Interpolation

__all__ = ["CASES", "COLUMNS", "AugmentSettings", "Case", "augment_views", "choose", "crop_resize"]

Implementation = Literal["auto", "reference", "cpp", "triton"]
FASTEST_FIRST = ("triton", "cpp", "reference")
"""All forms."""
FAST_VIEWS = (torch.float32, torch.bfloat16, torch.uint8)


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
        params: What is done to each view, float32 [N, 16]: see `params.py`. On a GPU they
            are not looked at: boxes have to lie inside the images.
        settings: What all views share.
        size: Side of the views; None: images are crops already, keep their H and W, and the boxes
            are not read.
        dtype: Floating-point for normalised views; uint8 for pixels, rounded and not normalised.
        channels_last: Whether views lie in memory with channels last.
        impl: reference (plain PyTorch; the only one that floats reach with a gradient, and that
            resizes them), cpp (CPU), triton (NVIDIA GPUs, square views), or auto: the fastest that
            can; on a GPU triton is held to the reference there before its first use.

    Raises:
        ArgumentError: In one line, for arguments that do not fit together.
    """
    check_images("augment", images)
    if size is not None:
        check_size("augment", size)
    if not (dtype == torch.uint8 or dtype.is_floating_point):
        raise ArgumentError(f"augment: dtype {dtype} is not possible; use uint8 or floating-point")
    height, width = images.shape[2:] if size is None else (size, size)
    check_settings(settings, height, width)
    check_params(params, len(images))
    if torch.compiler.is_compiling():
        return compiled_views(images, params, settings, size, dtype, channels_last, impl)
    form = choose(impl, images, size, dtype)
    if form != "cpp":
        check_values(params, images.shape[2], images.shape[3], resize=size is not None)
    if form == "reference":
        views = views_reference(images, params, settings, size, dtype)
        return views.contiguous(memory_format=torch.channels_last) if channels_last else views
    views = _empty((len(images), 3, height, width), dtype, images.device, channels_last)
    fill = _fill_cpp if form == "cpp" else _fill_triton
    fill(images.detach(), params.to(images.device).contiguous(), settings, size is not None, views)
    return views


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
    check_images("crop_resize", images, channels=None)
    check_size("crop_resize", size)
    resample.check(images, boxes, interpolation)
    if images.shape[1] != 3 and impl == "auto":
        impl = "reference"
    form = choose(impl, images, size, torch.uint8)
    if form == "reference":
        resample.check_inside(images, boxes)
        return resample.crop_resize(
            images, boxes, size, interpolation=interpolation, antialias=antialias
        )
    params = torch.zeros(len(boxes), COLUMNS, dtype=torch.float32, device=boxes.device)
    params[:, BOX] = boxes.float()
    params[:, JITTER.start : JITTER.stop - 1] = 1.0
    params[:, ORDER] = torch.arange(4.0, device=boxes.device)
    settings = AugmentSettings(interpolation=interpolation, antialias=antialias)
    options: dict[str, Any] = {"size": size, "dtype": torch.uint8, "impl": form}
    return augment_views(images, params, settings, **options).float()


def choose(impl: str, images: Tensor, size: int | None, dtype: torch.dtype) -> str:
    """Return the form to take: the one that was asked for, or with "auto" the fastest."""
    known = get_args(Implementation)
    if impl not in known:
        hint = did_you_mean(str(impl), known)
        raise ArgumentError(f"augment: unknown impl={impl!r}{hint}; use one of {', '.join(known)}")
    if impl == "auto":
        if torch.compiler.is_compiling():  # fuses PyTorch's own operators
            return "reference"
        return next(name for name in _fast(images) if not why_not(name, images, size, dtype))
    reason = why_not(impl, images, size, dtype)
    if reason:
        raise ArgumentError(
            f"augment: impl={impl!r} is not possible here: {reason}; use auto or reference"
        )
    return impl


def _fast(images: Tensor) -> tuple[str, ...]:
    """Return the forms for a device, the fastest first, that give what the reference gives.

    Triton's interpreter works on CPUs, but is never the fastest.
    """
    if not images.is_cuda:
        return ("cpp", "reference")
    return ("triton", "reference") if _is_right(images.device) else ("reference",)


def why_not(impl: str, images: Tensor, size: int | None, dtype: torch.dtype) -> str:
    """Return why a form cannot make such views of these images, "" if it can."""
    if impl == "reference":
        return ""
    if impl == "cpp" and images.device.type != "cpu":
        return f"it is for CPUs, and images are on {images.device}"
    if dtype not in FAST_VIEWS:
        return f"it makes float32, bfloat16 and uint8, and {dtype} was asked for"
    if images.dtype != torch.uint8 and (size is not None or images.dtype != torch.float32):
        return f"it takes uint8 images, and float32 crops, and got {images.dtype}"
    if images.requires_grad and torch.is_grad_enabled():
        return "it has no gradient, and images require one"
    if transforms.is_transformed(images):
        return transforms.REASON
    if impl == "cpp":
        return native.reason()
    height, width = images.shape[2:]
    if size is None and height != width:
        return f"it makes square views, and crops are {height} x {width}"
    return triton_here.why_not(images.device)


def _empty(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device, channels_last: bool
) -> Tensor:
    order = torch.channels_last if channels_last else torch.contiguous_format
    try:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=order)
    except RuntimeError as error:  # of a GPU too
        count, _, height, width = shape
        size = 3 * count * height * width * dtype.itemsize / 1e9
        raise ArgumentError(
            f"augment: {count} views of {height} x {width} take {size:.3g} GB, more than {device} "
            "has left; use a smaller size or fewer images at a time"
        ) from error


def _fill_cpp(
    images: Tensor, params: Tensor, settings: AugmentSettings, resize: bool, views: Tensor
) -> None:
    try:
        torch.ops.ssgear_native.augment(
            images,
            params,
            resize,
            settings.interpolation,
            settings.antialias,
            settings.blur_radius,
            settings.solarise_threshold,
            settings.mean,
            settings.std,
            views,
        )
    except RuntimeError:
        check_values(params, images.shape[2], images.shape[3], resize=resize)
        raise


def _fill_triton(
    images: Tensor, params: Tensor, settings: AugmentSettings, resize: bool, views: Tensor
) -> None:
    from ssgear.kernels.augment.triton import make_views

    on_device = torch.cuda.device_of(images)  # type: ignore[no-untyped-call]
    with on_device:  # Triton launches on the current device
        make_views(images, params, settings, resize, views)


@functools.cache
def _is_right(device: torch.device) -> bool:
    """Whether Triton's views on a GPU are the reference's: one program a view, and tiles.

    *Untested on hardware.*
    """
    for case in TRITON_CHECKS:
        wrong = _fault(case, device)
        if wrong:
            warnings.warn(
                f"augment: THE TRITON KERNELS DO NOT WORK on {device}: {wrong}; plain PyTorch "
                "makes the views, which is slower. Please report this with the versions of torch, "
                "triton and the driver",
                stacklevel=4,
            )
            return False
    return True


def _fault(case: Case, device: torch.device) -> str:
    """Return what is wrong with Triton's views of a case, "" if nothing is."""
    images, params = case.make()
    params[:, SOLARISE] = 0  # a rounding at its threshold would count as a jump
    right = augment_views(images, params, case.settings, size=case.size, impl="reference")
    try:
        there = images.to(device), params.to(device)
        found = augment_views(*there, case.settings, size=case.size, impl="triton").cpu()
    except Exception as error:  # whatever compiler or driver raise
        return first_line(error)
    worst = (found - right).abs().max().item()
    return "" if worst < 2 / 255 else f"views of {case.size} px are off by {worst:.1g}"
