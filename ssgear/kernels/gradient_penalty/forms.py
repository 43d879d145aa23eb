"""The forms of the gradient penalty, and the passes over the images that the fused ones have.

`cpp` is csrc/gradient_penalty.cpp, `triton` triton.py; `reference` has no passes, it is plain
PyTorch in pieces.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ssgear.kernels.forms import (
    Form,
    always_available,
    choose,
    cpp_unavailable_reason,
    form_named,
    triton_unavailable_reason,
    type_unavailable_reason,
)


class Passes(NamedTuple):
    """What goes over the images, in one implementation; they lie dense and all in one order."""

    interpolate: Callable[[Tensor, Tensor, Tensor, int | None, Tensor], None]
    """(real, fake, eps [N] float32, key, mixed): fills `mixed`; with a key, `eps` first."""
    penalty: Callable[[Tensor, float], tuple[Tensor, Tensor]]
    """(g, t) -> P, and n [N] in float64."""
    backward: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    """(upstream, g, n, t) -> upstream c_i g_i."""
    double_backward: Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    """(v, upstream, g, n, t) -> slopes of <v, upstream c_i g_i> in `upstream` and in `g`."""


def passes(name: str) -> Passes:
    """Return the passes of a fused form."""
    run = form_named(FORMS, name).run
    assert run is not None, f"{name} has no passes"
    return run()


def _cpp_passes() -> Passes:
    ops = torch.ops.ssgear_native
    return Passes(
        ops.gradient_penalty_interpolate.default,
        ops.gradient_penalty.default,
        ops.gradient_penalty_backward.default,
        ops.gradient_penalty_double_backward.default,
    )


def _triton_passes() -> Passes:
    from ssgear.kernels.gradient_penalty import triton

    return Passes(
        triton.interpolate, triton.penalty, triton.penalty_backward, triton.penalty_double_backward
    )


def _cpp_reason(images: Tensor) -> str:
    types = (torch.float32, torch.bfloat16, torch.float64)
    return type_unavailable_reason(images, *types) or cpp_unavailable_reason(images)


FORMS: tuple[Form[Tensor, Callable[[], Passes] | None], ...] = (
    Form("triton", lambda images: triton_unavailable_reason(images.device), _triton_passes),
    Form("cpp", _cpp_reason, _cpp_passes),
    Form("reference", always_available, None),
)
"""The fastest first."""


def choose_form(caller: str, impl: str, images: Tensor, *others: object) -> str:
    """Return the name of the form that takes `images`, as `impl` says."""
    return choose(caller, impl, FORMS, images, (images, *others), is_fusible=True).name


def dense(images: Tensor) -> Tensor:
    """Return images that fill one stretch of memory, one sample after the other."""
    return images if _is_dense(images) else images.contiguous()


def same_order(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Return both dense, their elements in one order."""
    if one.stride() == other.stride() and _is_dense(one):
        return one, other
    return one.contiguous(), other.contiguous()


def _is_dense(images: Tensor) -> bool:
    if images.is_contiguous():
        return True
    return images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
