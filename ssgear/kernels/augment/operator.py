"""The fused augmentation as one operator, `ssgear::augment_views`, for graphs of torch.compile.

What it does depends on the parameters' values (which views are blurred, which form is fastest), so
it cannot be traced; a graph calls it whole, and then it is what `augment_views` is outside of one.
Its gradient with respect to floating-point images is that of plain PyTorch, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ssgear.kernels.augment.params import AugmentSettings


def compiled_views(
    images: Tensor,
    params: Tensor,
    settings: AugmentSettings,
    size: int | None,
    dtype: torch.dtype,
    channels_last: bool,
    impl: str,
) -> Tensor:
    """Return what `augment_views` returns, from within a graph."""
    views: Tensor = torch.ops.ssgear.augment_views(
        images,
        params,
        size,
        dtype,
        channels_last,
        impl,
        settings.interpolation,
        settings.antialias,
        settings.blur_radius,
        settings.solarise_threshold,
        settings.mean,
        settings.std,
    )
    return views


@torch.library.custom_op("ssgear::augment_views", mutates_args=())
def _augment_views(
    images: Tensor,
    params: Tensor,
    size: int | None,
    dtype: torch.dtype,
    channels_last: bool,
    impl: str,
    interpolation: str,
    antialias: bool,
    blur_radius: int,
    solarise_threshold: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Make the views while a compiled graph runs."""
    from ssgear.kernels.augment.views import augment_views

    settings = _settings(interpolation, antialias, blur_radius, solarise_threshold, mean, std)
    options: dict[str, Any] = {"dtype": dtype, "channels_last": channels_last, "impl": impl}
    return augment_views(images.detach(), params, settings, size=size, **options)


@_augment_views.register_fake
def _(
    images: Tensor,
    params: Tensor,
    size: int | None,
    dtype: torch.dtype,
    channels_last: bool,
    *_: Any,
) -> Tensor:
    """Tell torch.compile what to expect."""
    height, width = images.shape[2:] if size is None else (size, size)
    order = torch.channels_last if channels_last else torch.contiguous_format
    shape = (images.shape[0], 3, height, width)
    return torch.empty(shape, dtype=dtype, device=images.device, memory_format=order)


@torch.library.custom_op("ssgear::augment_views_backward", mutates_args=())
def _augment_views_backward(
    upstream: Tensor,
    images: Tensor,
    params: Tensor,
    size: int | None,
    interpolation: str,
    antialias: bool,
    blur_radius: int,
    solarise_threshold: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Return the gradient of the images."""
    from ssgear.kernels.augment.reference import views_reference

    settings = _settings(interpolation, antialias, blur_radius, solarise_threshold, mean, std)

    def views_of(images: Tensor) -> Tensor:
        return views_reference(images, params, settings, size, upstream.dtype)

    # operators run where autograd does not see them; torch.func has a place of its own
    found = torch.func.vjp(views_of, images.detach())
    gradient: Tensor = found[1](upstream)[0]
    return gradient.contiguous()


@_augment_views_backward.register_fake
def _(upstream: Tensor, images: Tensor, *_: Any) -> Tensor:
    """Tell torch.compile what to expect."""
    return torch.empty(images.shape, dtype=images.dtype, device=images.device)


def _settings(
    interpolation: str,
    antialias: bool,
    blur_radius: int,
    solarise_threshold: float,
    mean: Sequence[float],
    std: Sequence[float],
) -> AugmentSettings:
    return AugmentSettings(
        interpolation=cast(Any, interpolation),
        antialias=antialias,
        blur_radius=blur_radius,
        solarise_threshold=solarise_threshold,
        mean=cast(Any, tuple(mean)),
        std=cast(Any, tuple(std)),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the gradient needs."""
    images, params, size, _, _, _, *settings = inputs
    ctx.save_for_backward(images, params)
    ctx.size, ctx.settings = size, settings


def _differentiate(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of all arguments; of the images alone there is one."""
    images, params = ctx.saved_tensors
    gradient = torch.ops.ssgear.augment_views_backward(
        upstream, images, params, ctx.size, *ctx.settings
    )
    return (gradient, *[None] * 11)


_augment_views.register_autograd(_differentiate, setup_context=_keep)
