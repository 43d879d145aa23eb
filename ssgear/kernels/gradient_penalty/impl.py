"""The implementations of the gradient penalty's passes, and which of them can take a tensor.

`cpp` is csrc/gradient_penalty.cpp, `triton` triton.py; `reference` has no passes,
it is plain PyTorch in pieces.py. `auto` takes Triton on a GPU, the compiled operators
on a CPU, and the reference where neither can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from ssgear.errors import ArgumentError, did_you_mean
from ssgear.kernels import checks, native, transforms, triton_here

Implementation = Literal["auto", "reference", "cpp", "triton"]

CPP_TYPES = (torch.float32, torch.bfloat16, torch.float64)
TRITON_TYPES = (*CPP_TYPES, torch.float16)


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


def passes(chosen: str) -> Passes:
    """Return the passes of `cpp` or `triton`."""
    if chosen == "cpp":
        ops = torch.ops.ssgear_native
        return Passes(
            ops.gradient_penalty_interpolate.default,
            ops.gradient_penalty.default,
            ops.gradient_penalty_backward.default,
            ops.gradient_penalty_double_backward.default,
        )
    from ssgear.kernels.gradient_penalty import triton as triton_passes

    return Passes(
        triton_passes.interpolate,
        triton_passes.penalty,
        triton_passes.penalty_backward,
        triton_passes.penalty_double_backward,
    )


def choose(impl: str, images: Tensor, caller: str, *others: object) -> str:
    """Return the implementation that takes `images`: the one asked for, or a refusal.

    What else the caller was given matters where PyTorch alone can follow its derivative.
    """
    known = get_args(Implementation)
    if not isinstance(impl, str) or impl not in known:
        shown, hint = checks.shown(impl), did_you_mean(str(impl), known)
        raise ArgumentError(f"{caller}: unknown impl={shown}{hint}; use one of {', '.join(known)}")
    transformed = transforms.is_transformed(images, *others)
    if impl == "auto":
        return "reference" if transformed else _best(images)
    why_not = obstacle(impl, images)
    possible = [name for name in known if not obstacle(name, images)]
    if transformed and impl != "reference":
        why_not, possible = transforms.REASON, ["auto", "reference"]
    if why_not:
        raise ArgumentError(
            f"{caller}: impl={impl!r} is not possible here: {why_not}; use {' or '.join(possible)}"
        )
    return impl


def _best(images: Tensor) -> str:
    # PyTorch's own operators are what a compiler can fuse
    if torch.compiler.is_compiling():
        return "reference"
    preferred = "triton" if images.is_cuda else "cpp"
    return "reference" if obstacle(preferred, images) else preferred


def obstacle(impl: str, images: Tensor) -> str:
    """Return why an implementation cannot take `images`; empty if it can."""
    where = f"{images.dtype} on {images.device.type}"
    if impl == "cpp":
        if images.device.type != "cpu" or images.dtype not in CPP_TYPES:
            return f"it takes float32, bfloat16 and float64 on cpu, and got {where}"
        return "" if native.available() else native.reason()
    if impl == "triton":
        if images.dtype not in TRITON_TYPES:
            return f"it takes floating-point numbers, and got {where}"
        return triton_here.why_not(images.device)
    return ""


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
