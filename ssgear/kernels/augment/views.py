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

import dataclasses
from typing import Any

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels.augment import resample
from ssgear.kernels.augment.forms import FORMS, Views
from ssgear.kernels.augment.params import (
    BOX,
    CASES,
    COLUMNS,
    JITTER,
    ORDER,
    AugmentSettings,
    Case,
    check_images,
    check_params,
    check_settings,
    check_size,
)
from ssgear.kernels.augment.reference import views_reference
from ssgear.kernels.augment.resample import Interpolation
from ssgear.kernels.forms import Implementation, choose
from ssgear.kernels.transforms import Context

__all__ = ["CASES", "COLUMNS", "AugmentSettings", "Case", "augment_views", "crop_resize"]


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
        in_a_graph: Tensor = torch.ops.ssgear.augment_views(
            images, params, size, dtype, channels_last, impl, *settings.values()
        )
        return in_a_graph
    views = Views(images, size, dtype, channels_last)
    return choose("augment", impl, FORMS, views, (images,)).run(views, params, settings)


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
    views = Views(images, size, torch.uint8)
    form = choose("augment", impl, FORMS, views, (images,), is_fusible=True).name
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


# What is done depends on the parameters' values (which views are blurred, which form is fastest),
# so torch.compile cannot trace it: a graph calls it whole, as one operator.
_SETTINGS = (
    "str interpolation, bool antialias, SymInt blur_radius, float solarise_threshold, "
    "float[] mean, float[] std"
)
"""`AugmentSettings.values` in the operators' schemas."""


@torch.library.custom_op(
    "ssgear::augment_views",
    mutates_args=(),
    schema="(Tensor images, Tensor params, SymInt? size, ScalarType dtype, bool channels_last, "
    f"str impl, {_SETTINGS}) -> Tensor",
)
def _augment_views(
    images: Tensor,
    params: Tensor,
    size: int | None,
    dtype: torch.dtype,
    channels_last: bool,
    impl: str,
    *settings: Any,
) -> Tensor:
    """Make the views while a compiled graph runs."""
    views = Views(images.detach(), size, dtype, channels_last)
    shared = _settings_of(settings)
    return choose("augment", impl, FORMS, views, (images,)).run(views, params, shared)


@_augment_views.register_fake
def _(
    images: Tensor, _: Tensor, size: int | None, dtype: torch.dtype, channels_last: bool, *__: Any
) -> Tensor:
    return Views(images, size, dtype, channels_last).empty()


@torch.library.custom_op(
    "ssgear::augment_views_backward",
    mutates_args=(),
    schema=f"(Tensor upstream, Tensor images, Tensor params, SymInt? size, {_SETTINGS}) -> Tensor",
)
def _augment_views_backward(
    upstream: Tensor, images: Tensor, params: Tensor, size: int | None, *settings: Any
) -> Tensor:
    """Return the gradient of the images: that of plain PyTorch, once."""
    shared = _settings_of(settings)

    def views_of(images: Tensor) -> Tensor:
        return views_reference(images, params, shared, size, upstream.dtype)

    # operators run where autograd does not see them; torch.func has a place of its own
    pull_back = torch.func.vjp(views_of, images.detach())[1]
    gradient: Tensor = pull_back(upstream)[0]
    return gradient.contiguous()


@_augment_views_backward.register_fake
def _(upstream: Tensor, images: Tensor, *_: Any) -> Tensor:
    return torch.empty(images.shape, dtype=images.dtype, device=images.device)


def _settings_of(values: tuple[Any, ...]) -> AugmentSettings:
    """Return settings from `AugmentSettings.values`; an operator's tuples arrive as lists."""
    names = (field.name for field in dataclasses.fields(AugmentSettings))
    values = tuple(tuple(value) if isinstance(value, list) else value for value in values)
    return AugmentSettings(**dict(zip(names, values, strict=True)))


def _keep(ctx: Context[tuple[Any, ...]], inputs: tuple[Any, ...], output: Tensor) -> None:
    images, params, size, _, _, _, *settings = inputs
    ctx.save_for_backward(images, params)
    ctx.settings = (size, *settings)


def _differentiate(ctx: Context[tuple[Any, ...]], upstream: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of all arguments; of the images alone there is one."""
    return (_augment_views_backward(upstream, *ctx.saved_tensors, *ctx.settings), *[None] * 11)


_augment_views.register_autograd(_differentiate, setup_context=_keep)
