"""Which form of NT-Xent can work on a tensor, the fastest first.

A new form needs a name in `Implementation` (nt_xent/loss.py), a place in `FASTEST_FIRST` and a
reason in `why_not` for tensors that it does not take; tests, benchmark and doctor then meet it by
itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import native, transforms, triton_here

FASTEST_FIRST = ("triton", "cpp", "streaming", "reference")
"""All forms."""
TRITON_TYPES = (torch.bfloat16, torch.float16, torch.float32)


def why_not(impl: str, device: torch.device, dtype: torch.dtype) -> str:
    """Return why a form cannot work on tensors of this kind, "" if it can."""
    if impl == "triton":
        if dtype not in TRITON_TYPES:
            return f"it takes bfloat16, float16 and float32, and z is {str(dtype)[6:]}"
        return triton_here.why_not(device)
    if impl == "cpp":
        return native.reason() if device.type == "cpu" else f"it is for CPUs, and z is on {device}"
    return ""


def choose(
    impl: str,
    z: Tensor,
    *others: Tensor | None,
    where: str = "nt_xent",
    forms: tuple[str, ...] = FASTEST_FIRST,
) -> str:
    """Return the form to take for `z`: the one that was asked for, or with "auto" the fastest.

    Triton's interpreter works on CPUs, but is never the fastest: it is to be asked for. The other
    tensors matter only where they are differentiated in a way that the reference alone can follow.
    `forms` are those that the function `where` has, the fastest first.
    """
    transformed = transforms.is_transformed(z, *others)
    possible = [name for name in forms if not why_not(name, z.device, z.dtype)]
    if transformed:
        possible = ["reference"]
    if impl == "auto":
        return next(name for name in possible if name != "triton" or z.is_cuda)
    if impl not in possible:
        reason = transforms.REASON if transformed else why_not(impl, z.device, z.dtype)
        raise ArgumentError(
            f"{where}: impl={impl!r} is not possible here: {reason}; use auto or one of "
            f"{', '.join(possible)}"
        )
    return impl
