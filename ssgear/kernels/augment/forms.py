"""The forms of the fused augmentation: plain PyTorch, C++ and Triton (*untested on hardware*).

`cpp` is csrc/augment.cpp, `triton` triton.py, `reference` reference.py. On a GPU the Triton form is
held to the reference before "auto" takes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ssgear.errors import ArgumentError, refusing
from ssgear.kernels.augment.params import (
    SOLARISE,
    TRITON_CHECKS,
    AugmentSettings,
    Case,
    check_values,
)
from ssgear.kernels.augment.reference import views_reference
from ssgear.kernels.forms import (
    Form,
    always_available,
    cpp_unavailable_reason,
    describe_fault,
    first_right,
    triton_unavailable_reason,
)

FAST_VIEWS = (torch.float32, torch.bfloat16, torch.uint8)


class Views(NamedTuple):
    """What is to be made."""

    images: Tensor
    """[N, 3, H, W]."""
    size: int | None
    """Side of the views; None keeps that of the images."""
    dtype: torch.dtype = torch.float32
    """Type of the views."""
    channels_last: bool = False
    """Whether views lie in memory with channels last."""

    def empty(self) -> Tensor:
        """Return memory for the views."""
        count, _, height, width = self.images.shape
        if self.size is not None:
            height = width = self.size
        order = torch.channels_last if self.channels_last else torch.contiguous_format
        device = self.images.device

        def too_large(_: RuntimeError) -> ArgumentError:
            gigabytes = 3 * count * height * width * self.dtype.itemsize / 1e9
            return ArgumentError(
                f"augment: {count} views of {height} x {width} take {gigabytes:.3g} GB, more than "
                f"{device} has left; use a smaller size or fewer images at a time"
            )

        shape = (count, 3, height, width)
        with refusing(RuntimeError, too_large):  # a GPU's too
            return torch.empty(shape, dtype=self.dtype, device=device, memory_format=order)


Run = Callable[[Views, Tensor, AugmentSettings], Tensor]


def _check_values(views: Views, params: Tensor) -> None:
    height, width = views.images.shape[2:]
    check_values(params, height, width, resize=views.size is not None)


def _by_reference(views: Views, params: Tensor, settings: AugmentSettings) -> Tensor:
    _check_values(views, params)
    made = views_reference(views.images, params, settings, views.size, views.dtype)
    return made.contiguous(memory_format=torch.channels_last) if views.channels_last else made


def _by_cpp(views: Views, params: Tensor, settings: AugmentSettings) -> Tensor:
    made = views.empty()
    images, resize = views.images.detach(), views.size is not None
    try:
        torch.ops.ssgear_native.augment(
            images, params.to(images.device).contiguous(), resize, *settings.values(), made
        )
    except RuntimeError:
        _check_values(views, params)
        raise
    return made


def _by_triton(views: Views, params: Tensor, settings: AugmentSettings) -> Tensor:
    from ssgear.kernels.augment.triton import make_views

    _check_values(views, params)
    made = views.empty()
    images, resize = views.images.detach(), views.size is not None
    on_device = torch.cuda.device_of(images)  # type: ignore[no-untyped-call]
    with on_device:  # Triton launches on the current device
        make_views(images, params.to(images.device).contiguous(), settings, resize, made)
    return made


def _fused_reason(views: Views) -> str:
    if views.dtype not in FAST_VIEWS:
        return f"it makes float32, bfloat16 and uint8, and {views.dtype} was asked for"
    images = views.images
    if images.dtype != torch.uint8 and (views.size is not None or images.dtype != torch.float32):
        return f"it takes uint8 images, and float32 crops, and got {images.dtype}"
    if images.requires_grad and torch.is_grad_enabled():
        return "it has no gradient, and images require one"
    return ""


def _cpp_reason(views: Views) -> str:
    return _fused_reason(views) or cpp_unavailable_reason(views.images)


def _triton_reason(views: Views) -> str:
    height, width = views.images.shape[2:]
    reason = _fused_reason(views)
    if not reason and views.size is None and height != width:
        return f"it makes square views, and crops are {height} x {width}"
    return reason or triton_unavailable_reason(views.images.device)


@functools.cache
def _triton_is_right(device: torch.device) -> bool:
    """Whether Triton's views on a GPU are the reference's: one program a view, and tiles."""

    def fault(run: Run) -> str:
        faults = (fault_of(run, case, device, 2 / 255) for case in TRITON_CHECKS)
        return next(filter(None, faults), "")

    return first_right("augment", device, [_by_triton], fault, "reference") is not None


def fault_of(run: Run, case: Case, device: torch.device, allowed: float) -> str:
    """Return what is wrong with a form's views of a case, "" if nothing is."""
    images, params = case.make()
    params[:, SOLARISE] = 0  # a rounding at its threshold would count as a jump
    right = _by_reference(Views(images, case.size), params, case.settings)

    def error() -> float:
        views = Views(images.to(device), case.size)
        made = run(views, params.to(device), case.settings)
        return (made.cpu() - right).abs().max().item()

    return describe_fault(error, allowed)


FORMS: tuple[Form[Views, Run], ...] = (
    Form("triton", _triton_reason, _by_triton, _triton_is_right),
    Form("cpp", _cpp_reason, _by_cpp),
    Form("reference", always_available, _by_reference),
)
"""The fastest first."""
