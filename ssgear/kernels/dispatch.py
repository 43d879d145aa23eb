"""Which form of NT-Xent can work on a tensor, the fastest first.

A new form needs a name in `Implementation` (nt_xent.py), a place in `FASTEST_FIRST` and a reason in
`why_not` for devices that it does not run on; tests, benchmark and doctor then meet it by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssgear.errors import ArgumentError
from ssgear.kernels import native

FASTEST_FIRST = ("cpp", "streaming", "reference")
"""All forms."""


def why_not(impl: str, device: torch.device) -> str:
    """Return why a form cannot work on a device, "" if it can; all take every floating type."""
    if impl == "cpp":
        return native.reason() if device.type == "cpu" else f"it is for CPUs, and z is on {device}"
    return ""


def choose(impl: str, z: Tensor) -> str:
    """Return the form to take for `z`: the one that was asked for, or with "auto" the fastest."""
    possible = [name for name in FASTEST_FIRST if not why_not(name, z.device)]
    if impl == "auto":
        return possible[0]
    if impl not in possible:
        reason = why_not(impl, z.device)
        raise ArgumentError(
            f"nt_xent: impl={impl!r} is not possible here: {reason}; use auto or one of "
            f"{', '.join(possible)}"
        )
    return impl
